//! The description of the API against the API.

use crate::house::House;
use fumehood_server::{ProblemCode, openapi};
use serde_json::{Value, json};

fn document() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

#[test]
fn the_routes_and_schemas_are_those_that_clients_were_told() {
    let document = document();
    let routes: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let schemas: Vec<_> = document["components"]["schemas"].as_object().unwrap().keys().collect();
    insta::assert_json_snapshot!(json!({"openapi": document["openapi"], "routes": routes, "schemas": schemas}));
}

#[test]
fn every_operation_says_what_it_does_and_how_it_refuses() {
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let at = format!("{method} {path}");
            assert!(
                operation["summary"].as_str().is_some_and(|text| text.len() > 10),
                "{at}"
            );
            assert!(operation["operationId"].is_string(), "{at}");
            let refusal = &operation["responses"]["default"]["content"]["application/problem+json"];
            assert_eq!(refusal["schema"]["$ref"], "#/components/schemas/Problem", "{at}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Object(members) => open.extend(members.values()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}

#[test]
fn every_problem_code_is_described() {
    let document = document();
    let described = document["components"]["schemas"]["ProblemCode"].to_string();
    for kind in ProblemCode::CATALOGUE {
        assert!(described.contains(&format!("\"{}\"", kind.code)), "{}", kind.code);
    }
}

/// Checks an answer against the schema of its description.
fn check(document: &Value, path: &str, method: &str, status: &str, kind: &str, answer: &Value) {
    let content = &document["paths"][path][method]["responses"][status]["content"][kind]["schema"];
    assert!(content.is_object(), "{method} {path} {status} {kind} is not described");
    let schema = json!({"allOf": [content], "components": document["components"]});
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let faults: Vec<_> = validator
        .iter_errors(answer)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{method} {path}: {faults:?} in {answer}");
}

#[tokio::test]
async fn answers_are_as_described() {
    let house = House::new().await;
    let document = document();
    let asked =
        json!({"title": "x", "network": {"allow": ["api.example.com"]}, "files": "read", "secrets": {"A": "b"}});
    let made = house.post("/v1/sessions").json(&asked).answer().await;
    check(
        &document,
        "/v1/sessions",
        "post",
        "201",
        "application/json",
        &made.json(),
    );
    let path = made.headers["location"].to_str().unwrap().to_owned();
    let turn = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .answer()
        .await
        .json();
    check(
        &document,
        "/v1/sessions/{session}/turns",
        "post",
        "200",
        "application/json",
        &turn,
    );
    house
        .put(&format!("{path}/files/a.txt"))
        .body("text/plain", "beta")
        .answer()
        .await;
    house
        .put(&format!("{path}/kv/k"))
        .body("text/plain", "v")
        .answer()
        .await;
    for (suffix, described) in [
        ("/events", "/events"),
        ("/messages", "/messages"),
        ("/files?list", "/files"),
        ("/files?grep=beta", "/files"),
        ("/kv", "/kv"),
        ("/secrets", "/secrets"),
        ("/ledger", "/ledger"),
    ] {
        let answer = house
            .get(&format!("{path}{suffix}"))
            .with("accept", "application/json")
            .answer()
            .await
            .json();
        check(
            &document,
            &format!("/v1/sessions/{{session}}{described}"),
            "get",
            "200",
            "application/json",
            &answer,
        );
    }
    let problem = house.get("/v1/turns/x").answer().await.json();
    check(
        &document,
        "/v1/turns/{turn}",
        "get",
        "default",
        "application/problem+json",
        &problem,
    );
}
