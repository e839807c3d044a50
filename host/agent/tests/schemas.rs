//! Schemas are written by strangers, and compiled and checked by the host.
#![allow(clippy::unwrap_used, reason = "tests")]

use fumehood_agent::schema::{Misfit, Schema, SchemaError};
use serde_json::{Map, Value, json};

fn with_pattern(pattern: &str) -> Value {
    json!({"type": "object", "properties": {"text": {"type": "string", "pattern": pattern}}})
}

/// Levels of definitions, each made of the name of the next one; the last takes anything.
fn levels(number: usize, level: impl Fn(Value) -> Value, last: Value) -> Value {
    let mut defs = Map::new();
    for at in 0..number {
        defs.insert(
            format!("level{at}"),
            level(json!({"$ref": format!("#/$defs/level{}", at + 1)})),
        );
    }
    defs.insert(format!("level{number}"), last);
    json!({"$ref": "#/$defs/level0", "$defs": defs})
}

fn nested(depth: usize, around: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(json!(1), |value, _| around(value))
}

#[test]
fn a_pattern_is_matched_in_linear_time() {
    // Takes a backtracking search longer than the universe has been there.
    let schema = Schema::compile(&with_pattern("^(a+)+$")).unwrap();
    let text = format!("{}!", "a".repeat(50_000));
    assert!(schema.check(&json!({"text": text})).is_err());
    assert!(schema.check(&json!({"text": "aaa"})).is_ok());
}

#[test]
fn a_pattern_that_looks_around_or_back_is_refused() {
    for pattern in ["(?=a)b", "(?!a)b", "(a)\\1", "(?<=a)b"] {
        assert!(Schema::compile(&with_pattern(pattern)).is_err(), "{pattern}");
    }
}

#[test]
fn a_pattern_that_unfolds_to_something_huge_is_refused() {
    assert!(Schema::compile(&with_pattern("((a{1000}){1000}){1000}")).is_err());
}

#[test]
fn a_large_pattern_is_not_searched_for_in_a_long_text() {
    let schema = Schema::compile(&with_pattern("([a-z]{1,40}[0-9]){20}$")).unwrap();
    assert!(schema.check(&json!({"text": "a1".repeat(20)})).is_ok());
    assert_eq!(
        schema.check(&json!({"text": "a".repeat(1 << 20)})),
        Err(Misfit::TooCostly)
    );
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    let schema = Schema::compile(&json!({
        "type": "object",
        "properties": {"rows": {"type": "array", "items": {"type": "object", "required": ["id"]}}},
    }))
    .unwrap();
    let Err(Misfit::Faults(faults)) = schema.check(&json!({"rows": [{"id": 1}, {}, 3, 4, 5]})) else {
        panic!("it does not fit");
    };
    assert_eq!(faults.len(), 3, "the first few: {faults:?}");
    assert_eq!(faults[0], "at /rows/1: \"id\" is a required property");
}

#[test]
fn what_is_no_schema_is_told_with_its_place_in_it_and_the_word_that_was_meant() {
    let refused = |city: Value| {
        let schema = json!({"type": "object", "properties": {"type": {"type": "string"}, "city": city}});
        Schema::compile(&schema).unwrap_err().to_string()
    };
    let types = "there are string, number, integer, boolean, array, object, null";
    assert_eq!(
        refused(json!({"type": "strimg"})),
        format!("at `/properties/city/type`: `strimg` is no type (did you mean `string`?); {types}")
    );
    assert_eq!(
        refused(json!({"items": {"type": ["null", "colour"]}})),
        format!("at `/properties/city/items/type/1`: `colour` is no type; {types}")
    );
    let required = refused(json!({"required": "all"}));
    assert!(
        required.starts_with("at `/properties/city/required`: \"all\""),
        "{required}"
    );
    // A property that is called so, and is no schema.
    let misplaced = Schema::compile(&json!({"properties": {"type": "strimg"}}))
        .unwrap_err()
        .to_string();
    assert!(
        misplaced.starts_with("at `/properties/type`: \"strimg\" is not"),
        "{misplaced}"
    );
}

#[test]
fn references_that_multiply_are_not_followed() {
    for combine in ["anyOf", "allOf", "oneOf"] {
        let schema = levels(40, |next| json!({combine: [next, next]}), json!({"type": "string"}));
        let schema = Schema::compile(&schema).unwrap();
        assert_eq!(schema.check(&json!({"a": 1})), Err(Misfit::TooCostly), "{combine}");
    }
    let again = levels(
        40,
        |next| json!({"anyOf": [next], "unevaluatedProperties": false}),
        json!({"type": "string"}),
    );
    let again = Schema::compile(&again).unwrap();
    assert_eq!(again.check(&json!({"a": 1})), Err(Misfit::TooCostly));
}

#[test]
fn recursion_that_multiplies_with_each_level_of_the_value_is_not_followed() {
    let schema = Schema::compile(&json!({
        "anyOf": [
            {"properties": {"a": {"$ref": "#"}}, "required": ["b"]},
            {"properties": {"a": {"$ref": "#"}}, "required": ["c"]},
            {"type": "integer"},
        ],
    }))
    .unwrap();
    assert!(schema.check(&nested(3, |inner| json!({"a": inner, "b": 1}))).is_ok());
    assert_eq!(
        schema.check(&nested(60, |inner| json!({"a": inner}))),
        Err(Misfit::TooCostly)
    );
}

#[test]
fn a_tree_of_any_shape_that_people_send_is_checked() {
    let schema = Schema::compile(&json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/tree",
        "$defs": {"node name": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "left": {"$ref": "#/$defs/node%20name"},
                "right": {"$ref": "#/$defs/node%20name"},
            },
            "additionalProperties": false,
        }},
        "$ref": "#/$defs/node%20name",
    }))
    .unwrap();
    let full = (0..10).fold(
        json!({"value": 1}),
        |below, _| json!({"value": 1, "left": below, "right": below}),
    );
    assert_eq!(schema.check(&full), Ok(()));
    assert!(
        schema
            .check(&json!({"left": {"right": {"value": "not a number"}}}))
            .is_err()
    );
    let list = Schema::compile(&json!({"type": "array", "items": {"type": "number"}})).unwrap();
    assert_eq!(list.check(&json!(vec![0.5; 200_000])), Ok(()));
}

#[test]
fn the_deepest_check_fits_on_the_stack_of_a_worker() {
    let chain = levels(
        60,
        |next| json!({"allOf": [next]}),
        json!({"properties": {"a": {"$ref": "#"}}}),
    );
    let schema = Schema::compile(&chain).unwrap();
    let checked = |depth| {
        let value = nested(depth, |inner| json!({"a": inner}));
        let schema = &schema;
        std::thread::scope(|scope| {
            let check = std::thread::Builder::new()
                .stack_size(2 << 20)
                .spawn_scoped(scope, move || schema.check(&value));
            check.unwrap().join().unwrap()
        })
    };
    // Two subschemas for each level of the chain.
    assert_eq!(checked(3), Ok(()));
    assert_eq!(checked(100), Err(Misfit::TooCostly));
}

#[test]
fn the_longest_way_through_a_schema_is_refused_before_it_is_compiled() {
    let long = levels(1000, |next| json!({"properties": {"a": next}}), json!(true));
    assert!(matches!(Schema::compile(&long), Err(SchemaError::Deep(_))));
    let wide: Map<String, Value> = (0..5000).map(|n| (format!("p{n}"), json!({}))).collect();
    let wide = json!({"properties": wide});
    assert!(matches!(Schema::compile(&wide), Err(SchemaError::Large(_))));
}

#[test]
fn a_reference_that_leads_back_to_itself_is_refused() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"anyOf": [{"not": {"$ref": "#/anyOf/0"}}]}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
    ] {
        let refused = Schema::compile(&schema);
        assert!(matches!(refused, Err(SchemaError::Circular(_))), "{refused:?}");
    }
}

#[test]
fn a_reference_to_outside_or_under_another_root_is_refused() {
    for reference in [
        "https://example.com/schema",
        "other.json#/a",
        "#anchor",
        "file:///etc/passwd",
    ] {
        let refused = Schema::compile(&json!({"$ref": reference}));
        assert!(matches!(refused, Err(SchemaError::Outside(_))), "{refused:?}");
    }
    let refused = Schema::compile(&json!({"$ref": "#/$defs/nowhere"}));
    assert!(matches!(refused, Err(SchemaError::Invalid(_))), "{refused:?}");
    for schema in [
        json!({"$id": "urn:a", "$defs": {"x": {"$id": "urn:a", "anyOf": [{"$ref": "#"}]}}, "$ref": "#/$defs/x"}),
        json!({"$dynamicRef": "#x"}),
        json!({"items": {"$recursiveRef": "#"}}),
    ] {
        let refused = Schema::compile(&schema);
        assert!(matches!(refused, Err(SchemaError::Keyword(_))), "{refused:?}");
    }
}

#[test]
fn what_is_not_a_schema_is_refused() {
    for schema in [
        json!(3),
        json!({"type": "strange"}),
        json!({"properties": []}),
        json!({"allOf": {}}),
        json!({"pattern": "["}),
    ] {
        let refused = Schema::compile(&schema);
        assert!(matches!(refused, Err(SchemaError::Invalid(_))), "{refused:?}");
    }
}
