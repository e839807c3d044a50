//! What the macros make of functions, seen as the host would see it.
#![allow(missing_docs)]

use fumehood::{Call, Content, Effect, Failure, Output, Tool, testing};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Adds two numbers.
///
/// More of them need more calls.
#[fumehood::tool(effect = "pure", read_only, title = "Add")]
fn add(
    /** first */
    a: f64,
    /// second; zero if not given
    b: Option<f64>,
) -> Result<f64, Failure> {
    Ok(a + b.unwrap_or(0.0))
}

#[derive(Deserialize, JsonSchema)]
struct Point {
    /// To the right.
    x: i32,
    #[serde(default)]
    y: i32,
}

#[derive(Serialize, JsonSchema)]
struct Moved {
    /// Where it is now.
    x: i32,
    y: i32,
}

/// Moves a point.
#[fumehood::tool(effect = "idempotent", destructive, open_world, name = "move_point")]
fn shift(call: &Call, #[arguments] point: Point) -> Moved {
    assert_eq!(call.id(), "call_test");
    Moved {
        x: point.x + 1,
        y: point.y + 1,
    }
}

/// Fails as files do.
#[fumehood::tool]
fn open(path: String) -> Result<Vec<u8>, std::io::Error> {
    std::fs::read(path)
}

/// Returns several pieces.
#[fumehood::tool]
fn pieces(
    mut r#type: String,
    #[serde(default)]
    #[schemars(range(min = 1, max = 9))]
    times: u8,
) -> Vec<Content> {
    r#type.push('!');
    (0..times).map(|_| Content::text(&r#type)).collect()
}

/// Returns nothing.
#[fumehood::tool]
fn nothing() {}

/// Takes the call by value and returns a list.
#[fumehood::tool]
fn list(call: Call) -> fumehood::Result<Vec<u8>> {
    call.locale()
        .map(|locale| locale.bytes().collect())
        .ok_or_else(|| Failure::not_found("no locale"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Order {
    Newest,
    MostRead,
}

macro_rules! constant {
    ($name:ident, $result:ident, $of:ident, $value:expr) => {
        /// Is always the same.
        #[fumehood::tool]
        fn $name() -> $result<$of, Failure> {
            Ok($value)
        }
    };
}

constant!(seven, Result, i32, 7);

/// Takes one of several.
#[fumehood::tool]
fn sorted(
    /// Which come first.
    order: Option<Order>,
) -> &'static str {
    match order {
        None => "as they are",
        Some(Order::Newest) => "newest",
        Some(Order::MostRead) => "most read",
    }
}

mod nested {
    /// Lives elsewhere.
    #[fumehood::tool]
    pub(crate) fn elsewhere() -> fumehood::Output {
        fumehood::Output::new("here").as_error()
    }
}

fumehood::export!(add, shift, open, pieces, nothing, list, sorted, nested::elsewhere);

#[test]
fn a_doc_comment_becomes_the_description_and_options_the_annotations() {
    let definition = add::definition();
    assert_eq!(definition.name, "add");
    assert_eq!(definition.title.as_deref(), Some("Add"));
    assert_eq!(
        definition.description,
        "Adds two numbers.\n\nMore of them need more calls."
    );
    assert!(matches!(definition.effect, Effect::Pure) && definition.read_only && !definition.destructive);
    let definition = shift::definition();
    assert_eq!(definition.name, "move_point");
    assert!(matches!(definition.effect, Effect::Idempotent) && definition.destructive && definition.open_world);
    assert!(matches!(open::definition().effect, Effect::AtMostOnce));
}

#[test]
fn parameters_become_a_closed_object() {
    assert_eq!(
        testing::input_schema::<add>(),
        json!({
            "type": "object",
            "properties": {
                "a": {"type": "number", "description": "first"},
                "b": {"type": ["number", "null"], "description": "second; zero if not given"},
            },
            "required": ["a"],
            "additionalProperties": false,
        })
    );
    assert_eq!(
        testing::input_schema::<nothing>(),
        json!({"type": "object", "properties": {}, "additionalProperties": false})
    );
    let schema = testing::input_schema::<pieces>();
    assert_eq!(schema["required"], json!(["type"]));
    assert_eq!(
        (
            &schema["properties"]["times"]["minimum"],
            &schema["properties"]["times"]["maximum"]
        ),
        (&json!(1), &json!(9))
    );
}

#[test]
fn a_struct_may_be_the_arguments() {
    let schema = testing::input_schema::<shift>();
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema["properties"]["x"]["description"], "To the right.");
    assert_eq!(schema["required"], json!(["x"]));
    assert_eq!(
        testing::call::<shift>(json!({"x": 1})).unwrap().text(),
        r#"{"x":2,"y":1}"#
    );
}

#[test]
fn an_enum_is_a_choice_of_its_names() {
    assert_eq!(
        testing::input_schema::<sorted>()["properties"]["order"],
        json!({"type": ["string", "null"], "enum": ["newest", "most_read", null], "description": "Which come first."})
    );
    let said = |arguments: Value| testing::call::<sorted>(arguments).unwrap().text();
    assert_eq!(
        [said(json!({})), said(json!({"order": "most_read"}))],
        ["as they are", "most read"]
    );
    assert!(
        matches!(testing::call::<sorted>(json!({"order": "oldest"})), Err(Failure::InvalidArguments(why)) if why.contains("newest"))
    );
}

#[test]
fn wrong_arguments_are_refused_in_words() {
    let refused = |arguments: Value| match testing::call::<add>(arguments) {
        Err(Failure::InvalidArguments(message)) => message,
        other => panic!("must be refused: {other:?}"),
    };
    assert_eq!(refused(json!({})), "missing field `a`");
    assert!(refused(json!({"a": "x"})).contains("expected f64"));
    assert!(refused(json!({"a": 1, "c": 2})).contains("unknown field `c`"));
    assert!(matches!(
        add::call(&testing::a_call(), "["),
        Err(Failure::InvalidArguments(_))
    ));
}

#[test]
fn results_are_what_their_types_say() {
    assert_eq!(
        testing::call::<add>(json!({"a": 1.5})).unwrap().content,
        [Content::Json("1.5".into())]
    );
    assert_eq!(
        testing::call::<pieces>(json!({"type": "a", "times": 2}))
            .unwrap()
            .text(),
        "a!\na!"
    );
    assert_eq!(testing::call::<nothing>(json!({})).unwrap(), Output::default());
    assert!(testing::call::<nested::elsewhere>(json!({})).unwrap().is_error);
    let output = list::call(&testing::a_call().with_locale("de"), "{}").unwrap();
    assert_eq!((output.text().as_str(), output.structured), ("[100,101]", None));
}

#[test]
fn a_struct_gives_an_output_schema_and_a_structured_result() {
    let schema: Value = serde_json::from_str(&shift::definition().output_schema.unwrap()).unwrap();
    assert_eq!(
        (&schema["type"], &schema["required"]),
        (&json!("object"), &json!(["x", "y"]))
    );
    assert_eq!(schema["properties"]["x"]["description"], "Where it is now.");
    assert_eq!(
        testing::call::<shift>(json!({"x": 0})).unwrap().structured.as_deref(),
        Some(r#"{"x":1,"y":1}"#)
    );
    assert_eq!(add::definition().output_schema, None);
    assert_eq!(list::definition().output_schema, None);
    assert_eq!(nested::elsewhere::definition().output_schema, None);
}

#[test]
fn a_macro_may_write_a_tool_of_the_parts_it_was_given() {
    let output = testing::call::<seven>(json!({})).unwrap();
    assert_eq!(output.content, [Content::Json("7".into())]);
}

#[test]
fn errors_become_failures() {
    assert!(matches!(
        testing::call::<open>(json!({"path": "/does/not/exist"})),
        Err(Failure::NotFound(_))
    ));
    assert!(matches!(testing::call::<list>(json!({})), Err(Failure::NotFound(message)) if message == "no locale"));
}

#[test]
fn the_component_offers_what_is_exported_and_nothing_else() {
    use fumehood::bindings::exports::fumehood::tool::tools::Guest;
    let names: Vec<String> = __FumehoodComponent::definitions().into_iter().map(|d| d.name).collect();
    assert_eq!(
        names,
        [
            "add",
            "move_point",
            "open",
            "pieces",
            "nothing",
            "list",
            "sorted",
            "elsewhere"
        ]
    );
    let call = |tool: &str| {
        __FumehoodComponent::call(fumehood::__private::ToolCall {
            id: "call_1".into(),
            tool: tool.into(),
            arguments: r#"{"a":1}"#.into(),
            idempotency_key: "k".into(),
            deadline_ms: u64::MAX,
            locale: None,
        })
    };
    assert!(call("add").is_ok());
    assert!(matches!(
        call("shift"),
        Err(fumehood::__private::WitFailure::NotFound(_))
    ));
}
