//! Components that know nothing of Fumehood: their functions are tools.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use fumehood_core::{
    call::{CallErrorCode, Output},
    content::plain_text,
    digest::Digest,
};
use fumehood_sandbox::{Component, ComponentKind, LoadError, Sandbox, ports::Ports};
use serde_json::json;
use std::sync::Arc;
use support::{authority, call, error, load, sandbox};

/// `add-two: func(a: u32, b: u32) -> u32`, and the identity on a handful of types.
fn arithmetic() -> Vec<u8> {
    wat::parse_str(
        r#"(component
  (core module $m
    (memory (export "memory") 1)
    (global $heap (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (global.get $heap)
      (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get $size)) (i32.const 7)) (i32.const -8))))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "same") (param i32) (result i32) (local.get 0))
    (func (export "pair") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16))
    (func (export "checked") (param i32) (result i32)
      (i32.store8 (i32.const 32) (i32.gt_u (local.get 0) (i32.const 9)))
      (i32.store (i32.const 36) (local.get 0)) (i32.const 32))
    (func (export "nothing"))
    (func (export "trap") unreachable))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (type $color' (enum "red" "dark-blue"))
  (export $color "color" (type $color'))
  (func (export "add-two") (param "left-hand" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (func (export "color-of") (param "c" $color) (result $color) (canon lift (core func $i "same")))
  (func (export "letter") (param "c" char) (result char) (canon lift (core func $i "same")))
  (func (export "echo") (param "text" string) (result string)
    (canon lift (core func $i "pair") (memory $memory) (realloc $realloc)))
  (func (export "bytes") (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "pair") (memory $memory) (realloc $realloc)))
  (func (export "numbers") (param "items" (list u32)) (result (list u32))
    (canon lift (core func $i "pair") (memory $memory) (realloc $realloc)))
  (func (export "small") (param "n" u32) (result (result u32 (error u32)))
    (canon lift (core func $i "checked") (memory $memory)))
  (func (export "nothing") (canon lift (core func $i "nothing")))
  (func (export "trap") (canon lift (core func $i "trap"))))"#,
    )
    .unwrap()
}

async fn run(sandbox: &Sandbox, component: &Component, tool: &str, arguments: &str) -> fumehood_sandbox::CallReport {
    sandbox
        .call(component, call(tool, arguments), Arc::new(authority()), Ports::denied())
        .await
}

async fn output(tool: &str, arguments: &str) -> Output {
    let sandbox = sandbox();
    let component = load(&sandbox, arithmetic()).await;
    run(&sandbox, &component, tool, arguments).await.result.unwrap()
}

#[tokio::test]
async fn each_function_is_a_tool_with_a_schema() {
    let sandbox = sandbox();
    let component = load(&sandbox, arithmetic()).await;
    assert_eq!(component.kind(), ComponentKind::PlainFunctions);
    let tool = component
        .tools()
        .iter()
        .find(|tool| tool.name.as_str() == "add_two")
        .unwrap();
    assert_eq!(tool.input_schema["required"], json!(["left-hand", "b"]));
    assert_eq!(
        tool.input_schema["properties"]["b"],
        json!({"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32})
    );
    assert_eq!(
        tool.output_schema.as_ref().unwrap()["properties"]["result"]["type"],
        "integer"
    );
    assert!(
        tool.description.contains("add-two(left-hand: u32, b: u32) -> u32"),
        "{}",
        tool.description
    );
}

#[tokio::test]
async fn arguments_and_results_are_converted() {
    for (tool, arguments, result) in [
        ("add_two", r#"{"left-hand": 2, "b": 3}"#, json!(5)),
        ("add_two", r#"{"left-hand": 2, "b": 3.0}"#, json!(5)),
        ("color_of", r#"{"c": "dark-blue"}"#, json!("dark-blue")),
        ("letter", r#"{"c": "é"}"#, json!("é")),
        ("echo", r#"{"text": "grüezi"}"#, json!("grüezi")),
        ("echo", r#"{"text": ""}"#, json!("")),
        ("bytes", r#"{"data": "AP8="}"#, json!("AP8=")),
        ("bytes", r#"{"data": [0, 255]}"#, json!("AP8=")),
        ("bytes", r#"{"data": ""}"#, json!("")),
        ("numbers", r#"{"items": [1, 2]}"#, json!([1, 2])),
        ("numbers", r#"{"items": []}"#, json!([])),
        ("small", r#"{"n": 9}"#, json!(9)),
    ] {
        let output = output(tool, arguments).await;
        assert_eq!(
            output.structured,
            Some(json!({ "result": result })),
            "{tool} {arguments}"
        );
        assert!(!output.is_error);
    }
}

/// The identity on types that are made of others.
fn compound() -> Vec<u8> {
    wat::parse_str(
        r#"(component
  (core module $m
    (memory (export "memory") 1)
    (global $heap (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (global.get $heap)
      (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get $size)) (i32.const 7)) (i32.const -8))))
    (func (export "same") (param i32) (result i32) (local.get 0))
    (func (export "pair") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16))
    (func (export "point") (param i32 i32 i32) (result i32)
      (i32.store (i32.const 48) (local.get 0)) (i32.store8 (i32.const 52) (local.get 1))
      (i32.store (i32.const 56) (local.get 2)) (i32.const 48))
    (func (export "shape") (param i32 i32 i32) (result i32)
      (i32.store8 (i32.const 64) (local.get 0)) (i32.store (i32.const 68) (local.get 1))
      (i32.store (i32.const 72) (local.get 2)) (i32.const 64))
    (func (export "both") (param i32 i64) (result i32)
      (i32.store8 (i32.const 80) (local.get 0)) (i64.store (i32.const 88) (local.get 1)) (i32.const 80))
    (func (export "maybe") (param i32 i32) (result i32)
      (i32.store8 (i32.const 96) (local.get 0)) (i32.store (i32.const 100) (local.get 1)) (i32.const 96)))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (type $point' (record (field "x" s32) (field "last-y" (option s32))))
  (export $point "point" (type $point'))
  (type $shape' (variant (case "dot") (case "circle" f32) (case "label" string)))
  (export $shape "shape" (type $shape'))
  (type $may' (flags "look" "change-it"))
  (export $may "may" (type $may'))
  (func (export "to-point") (param "p" $point) (result $point)
    (canon lift (core func $i "point") (memory $memory)))
  (func (export "to-points") (param "all" (list $point)) (result (list $point))
    (canon lift (core func $i "pair") (memory $memory) (realloc $realloc)))
  (func (export "to-shape") (param "s" $shape) (result $shape)
    (canon lift (core func $i "shape") (memory $memory) (realloc $realloc)))
  (func (export "to-both") (param "b" (tuple u8 s64)) (result (tuple u8 s64))
    (canon lift (core func $i "both") (memory $memory)))
  (func (export "to-maybe") (param "m" (option u32)) (result (option u32))
    (canon lift (core func $i "maybe") (memory $memory)))
  (func (export "to-may") (param "m" $may) (result $may) (canon lift (core func $i "same"))))"#,
    )
    .unwrap()
}

#[tokio::test]
async fn records_variants_lists_tuples_options_and_flags_are_converted_both_ways() {
    let sandbox = sandbox();
    let component = load(&sandbox, compound()).await;
    for (tool, arguments, result) in [
        (
            "to_point",
            r#"{"p": {"x": -1, "last-y": 4}}"#,
            json!({"x": -1, "last-y": 4}),
        ),
        ("to_point", r#"{"p": {"x": -1}}"#, json!({"x": -1, "last-y": null})),
        (
            "to_points",
            r#"{"all": [{"x": 1, "last-y": 2}, {"x": 3}]}"#,
            json!([{"x": 1, "last-y": 2}, {"x": 3, "last-y": null}]),
        ),
        ("to_shape", r#"{"s": {"tag": "dot"}}"#, json!({"tag": "dot"})),
        (
            "to_shape",
            r#"{"s": {"tag": "circle", "value": 1.5}}"#,
            json!({"tag": "circle", "value": 1.5}),
        ),
        (
            "to_shape",
            r#"{"s": {"tag": "label", "value": "a"}}"#,
            json!({"tag": "label", "value": "a"}),
        ),
        ("to_both", r#"{"b": [7, -3]}"#, json!([7, -3])),
        ("to_maybe", "{}", json!(null)),
        ("to_maybe", r#"{"m": 5}"#, json!(5)),
        ("to_may", r#"{"m": ["change-it"]}"#, json!(["change-it"])),
        ("to_may", r#"{"m": []}"#, json!([])),
    ] {
        let report = run(&sandbox, &component, tool, arguments).await;
        let output = report
            .result
            .unwrap_or_else(|error| panic!("{tool} {arguments}: {error}"));
        assert_eq!(
            output.structured,
            Some(json!({ "result": result })),
            "{tool} {arguments}"
        );
    }
    for (tool, arguments) in [
        ("to_point", r#"{"p": {"last-y": 4}}"#),
        ("to_shape", r#"{"s": {"tag": "square"}}"#),
        ("to_shape", r#"{"s": {"tag": "circle"}}"#),
        ("to_both", r#"{"b": [7]}"#),
        ("to_may", r#"{"m": ["destroy"]}"#),
    ] {
        let error = error(run(&sandbox, &component, tool, arguments).await);
        assert_eq!(
            error.code,
            CallErrorCode::InvalidArguments,
            "{tool} {arguments}: {error}"
        );
    }
}

#[tokio::test]
async fn an_error_result_is_an_error_that_shows_its_value() {
    let output = output("small", r#"{"n": 10}"#).await;
    assert!(output.is_error);
    assert_eq!(plain_text(&output.content), "10");
}

#[tokio::test]
async fn a_function_without_result_returns_nothing() {
    assert_eq!(output("nothing", "{}").await, Output::default());
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused_with_the_place() {
    let sandbox = sandbox();
    let component = load(&sandbox, arithmetic()).await;
    for (tool, arguments, place) in [
        ("add_two", r#"{"left-hand": 2}"#, "`b`"),
        ("add_two", r#"{"left-hand": -1, "b": 3}"#, "`left-hand`"),
        ("add_two", r#"{"left-hand": 4294967296, "b": 3}"#, "32 bits"),
        ("add_two", r#"{"left-hand": 1.5, "b": 3}"#, "`left-hand`"),
        ("add_two", r#"{"left-hand": 1, "b": 3, "c": 1}"#, "`c`"),
        ("color_of", r#"{"c": "green"}"#, "red, dark-blue"),
        // As the schemas say: names are those of the WIT, and no others.
        ("add_two", r#"{"left_hand": 2, "b": 3}"#, "`left-hand`"),
        ("color_of", r#"{"c": "dark_blue"}"#, "red, dark-blue"),
        ("letter", r#"{"c": "ab"}"#, "one character"),
        ("numbers", r#"{"items": [1, "x"]}"#, "`items[1]`"),
        ("bytes", r#"{"data": "???"}"#, "base64"),
    ] {
        let error = error(run(&sandbox, &component, tool, arguments).await);
        assert_eq!(error.code, CallErrorCode::InvalidArguments, "{tool} {arguments}");
        assert!(error.message.contains(place), "{arguments}: {error}");
    }
}

#[tokio::test]
async fn a_trap_in_a_function_is_a_trap_of_the_call() {
    let sandbox = sandbox();
    let component = load(&sandbox, arithmetic()).await;
    assert_eq!(
        error(run(&sandbox, &component, "trap", "{}").await).code,
        CallErrorCode::Trapped
    );
}

#[tokio::test]
async fn functions_of_an_interface_carry_its_name() {
    let wasm = wat::parse_str(
        r#"(component
  (core module $m (func (export "one") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (func $one (result u32) (canon lift (core func $i "one")))
  (instance $calc (export "get-one" (func $one)))
  (export "docs:math/calc@1.0.0" (instance $calc)))"#,
    )
    .unwrap();
    let sandbox = sandbox();
    let component = load(&sandbox, wasm).await;
    assert_eq!(component.tools()[0].name.as_str(), "calc_get_one");
    let result = run(&sandbox, &component, "calc_get_one", "{}").await.result.unwrap();
    assert_eq!(result.structured, Some(json!({"result": 1})));
}

#[tokio::test]
async fn a_function_is_described_by_the_doc_comment_that_its_component_carries() {
    let wasm = |docs: &str, inner: &str| {
        wat::parse_str(format!(
            r#"(component
  (component {inner})
  (core module $m (func (export "one") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (func $one (result u32) (canon lift (core func $i "one")))
  (instance $calc (export "get-one" (func $one)) (export "get-other" (func $one)))
  (export "docs:math/calc@1.0.0" (instance $calc))
  (export "plainly" (func $one))
  {docs})"#
        ))
        .unwrap()
    };
    let docs = r#"(@custom "package-docs" "\01{\22worlds\22:{\22math\22:{\22func_exports\22:{\22plainly\22:{\22docs\22:\22Says one.\22}}}},\22interfaces\22:{\22calc\22:{\22funcs\22:{\22get-one\22:{\22docs\22:\22Gets one.\5cn\5cnAlways.\22}}}}}")"#;
    let sandbox = sandbox();
    let described = async |wasm: Vec<u8>| {
        let component = load(&sandbox, wasm).await;
        let tools = component.tools().iter();
        let mut said: Vec<String> = tools.map(|tool| tool.description.clone()).collect();
        said.sort();
        said
    };
    let signature = |of: &str| format!("Calls the component's function {of}() -> u32.");
    let other = signature("docs:math/calc@1.0.0.get-other");
    assert_eq!(
        described(wasm(docs, "")).await,
        [&other, "Gets one.\n\nAlways.", "Says one."]
    );
    let bare = [signature("docs:math/calc@1.0.0.get-one"), other, signature("plainly")];
    for without in [
        wasm("", docs),
        wasm(r#"(@custom "package-docs" "\01not json")"#, ""),
        wasm(r#"(@custom "package-docs" "\09{}")"#, ""),
    ] {
        assert_eq!(described(without).await, bare);
    }
}

#[tokio::test]
async fn functions_that_take_resources_are_refused_with_words() {
    let wasm = wat::parse_str(
        r#"(component
  (core module $m (func (export "f") (param i32)))
  (core instance $i (instantiate $m))
  (type $thing' (resource (rep i32)))
  (export $thing "thing" (type $thing'))
  (func (export "use") (param "t" (own $thing)) (canon lift (core func $i "f"))))"#,
    )
    .unwrap();
    let digest = Digest::of(&wasm);
    let error = sandbox().load(wasm, digest).await.unwrap_err();
    assert!(
        matches!(error, LoadError::UnsupportedType { what: "a resource", .. }),
        "{error}"
    );
    assert!(error.to_string().contains("return its data as a record"), "{error}");
}

#[tokio::test]
async fn functions_that_belong_to_a_resource_are_explained_by_that() {
    let constructor = r#"(component
  (type $t' (resource (rep i32)))
  (core func $new (canon resource.new $t'))
  (core module $m (import "h" "new" (func $new (param i32) (result i32)))
    (func (export "c") (result i32) (call $new (i32.const 1))))
  (core instance $i (instantiate $m (with "h" (instance (export "new" (func $new))))))
  (export $thing "thing" (type $t'))
  (func (export "[constructor]thing") (result (own $thing)) (canon lift (core func $i "c"))))"#;
    let error = refused(wat::parse_str(constructor).unwrap()).await;
    let told = error.to_string();
    assert!(told.contains("[constructor]thing uses a resource"), "{told}");
}

/// What `componentize-py` leaves in a component is like this, beside what the author exports.
fn of_python(exported: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
  (core module $m (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
    (func (export "init") (param i32 i32 i32 i32)) (func (export "one") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (func $init (param "app-name" string) (param "symbols" u32) (param "stub-wasi" bool)
    (canon lift (core func $i "init") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (func $one (result u32) (canon lift (core func $i "one")))
  (instance $exports (export "init" (func $init)))
  (export "exports" (instance $exports))
  {exported})"#
    ))
    .unwrap()
}

#[tokio::test]
async fn what_a_language_needs_to_load_its_program_is_no_tool() {
    let component = load(&sandbox(), of_python(r#"(export "one" (func $one))"#)).await;
    let names: Vec<_> = component.tools().iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["one"]);
    let program =
        of_python(r#"(instance $run (export "run" (func $one))) (export "wasi:cli/run@0.2.0" (instance $run))"#);
    let told = refused(program).await.to_string();
    assert!(told.contains("a command-line program"), "{told}");
}

/// A resource with a constructor, a function that takes it, and two that have nothing to do with it.
const MIXED: &str = r#"(component
  (type $t' (resource (rep i32)))
  (core func $new (canon resource.new $t'))
  (core module $m (import "h" "new" (func $new (param i32) (result i32)))
    (func (export "c") (result i32) (call $new (i32.const 1))) (func (export "use") (param i32))
    (func (export "one") (result i32) (i32.const 1)) (func (export "two") (result i32) (i32.const 2)))
  (core instance $i (instantiate $m (with "h" (instance (export "new" (func $new))))))
  (export $thing "thing" (type $t'))
  (func (export "one") (result u32) (canon lift (core func $i "one")))
  (func (export "[constructor]thing") (result (own $thing)) (canon lift (core func $i "c")))
  (func (export "use") (param "t" (own $thing)) (canon lift (core func $i "use")))
  (func (export "two") (result u32) (canon lift (core func $i "two"))))"#;

#[tokio::test]
async fn functions_that_can_be_no_tools_are_left_out_with_the_reason_and_the_others_are_offered() {
    let sandbox = sandbox();
    let component = load(&sandbox, wat::parse_str(MIXED).unwrap()).await;
    let names: Vec<_> = component.tools().iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    for (tool, returns) in [("one", 1), ("two", 2)] {
        let report = run(&sandbox, &component, tool, "{}").await;
        assert_eq!(
            report.result.unwrap().structured,
            Some(json!({ "result": returns })),
            "{tool}"
        );
    }
    let left_out: Vec<_> = component.left_out().iter().map(|left| left.function.as_str()).collect();
    assert_eq!(left_out, ["[constructor]thing", "use"]);
    for left in component.left_out() {
        assert!(left.why.starts_with("it uses a resource, which"), "{left:?}");
        assert!(left.why.contains("return its data as a record"), "{left:?}");
    }
}

#[tokio::test]
async fn of_functions_that_would_be_one_tool_the_first_is_offered_and_a_name_too_long_is_left_out() {
    let long = "x".repeat(65);
    let wasm = wat::parse_str(format!(
        r#"(component
  (core module $m (func (export "one") (result i32) (i32.const 1)) (func (export "two") (result i32) (i32.const 2)))
  (core instance $i (instantiate $m))
  (func $one (result u32) (canon lift (core func $i "one")))
  (func $two (result u32) (canon lift (core func $i "two")))
  (instance $first (export "get" (func $one)))
  (instance $second (export "get" (func $two)))
  (export "docs:calc/calc@0.1.0" (instance $first))
  (export "docs:calc/calc@0.2.0" (instance $second))
  (export "{long}" (func $one)))"#
    ));
    let sandbox = sandbox();
    let component = load(&sandbox, wasm.unwrap()).await;
    let names: Vec<_> = component.tools().iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["calc_get"]);
    let report = run(&sandbox, &component, "calc_get", "{}").await;
    assert_eq!(report.result.unwrap().structured, Some(json!({"result": 1})));
    let left_out: Vec<_> = component.left_out().iter().map(|left| left.function.as_str()).collect();
    assert_eq!(left_out, ["docs:calc/calc@0.2.0.get", &long]);
    let why = &component.left_out()[0].why;
    assert!(why.contains("already the tool calc_get"), "{why}");
}

/// A function that takes a value of this type.
fn taking(types: &str, ty: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
  (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16)))
  (core instance $i (instantiate $m))
  {types}
  (func (export "use") (param "all" {ty})
    (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
    ))
    .unwrap()
}

async fn refused(wasm: Vec<u8>) -> LoadError {
    let digest = Digest::of(&wasm);
    sandbox().load(wasm, digest).await.unwrap_err()
}

#[tokio::test]
async fn types_that_unfold_without_end_are_refused() {
    let doubled = |depth: usize| {
        let types = (1..=depth).map(|i| format!("(type $t{i} (tuple $t{0} $t{0}))", i - 1));
        let types = types.collect::<Vec<_>>().join(" ");
        taking(&format!("(type $t0 (tuple u8)) {types}"), &format!("(list $t{depth})"))
    };
    load(&sandbox(), doubled(8)).await;
    let error = refused(doubled(18)).await;
    assert!(matches!(error, LoadError::TypesTooLarge { .. }), "{error}");
}

#[tokio::test]
async fn types_of_very_many_names_are_refused() {
    let of = |kind: &str, count: usize| {
        let names = (0..count).map(|n| match kind {
            "variant" => format!("(case \"n{n}\")"),
            _ => format!("\"n{n}\""),
        });
        let names = names.collect::<Vec<_>>().join(" ");
        taking(
            &format!("(type $t' ({kind} {names})) (export $t \"t\" (type $t'))"),
            "(list $t)",
        )
    };
    for kind in ["enum", "variant"] {
        load(&sandbox(), of(kind, 1000)).await;
        let error = refused(of(kind, 1001)).await;
        assert!(matches!(error, LoadError::UnsupportedType { .. }), "{error}");
    }
}
