//! What an org decides while a turn runs: the turn keeps its tools, and each of its calls has the authority of the moment.

use crate::house::{Frame, Frames, House, Told, wasm};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::{Value, json};

const ASKS: &str = "name = \"sums\"\nversion = \"1\"\n[network]\nallow = [\"https://api.example.com\"]\n";

async fn add(house: &House, manifest: &str, grant: Value) -> Value {
    let body = json!({"wasm": STANDARD.encode(wasm()), "manifest": manifest, "grant": grant});
    let added = house.post("/v1/tools").json(&body).answer().await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text());
    added.json()
}

/// A turn of a new session, in which the model says what the test lets it say.
async fn turn(house: &House, path: &str) -> Frames {
    house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "go"}))
        .stream()
        .await
}

/// Has the model call the tool, and waits for the end: what began, and how it ended.
async fn call(told: &Told, frames: &mut Frames) -> (Value, Value) {
    told.call("double", &json!({"n": 21}));
    let mut seen: Vec<Frame> = frames.until("tool.completed").await;
    let completed = seen.pop().unwrap().data["data"].clone();
    let started = seen.iter().find(|frame| frame.event == "tool.started");
    (started.unwrap().data["data"].clone(), completed)
}

#[tokio::test]
async fn a_grant_withheld_or_removed_between_two_calls_of_a_turn_stops_the_second() {
    for wider in [false, true] {
        let house = House::new().await;
        add(&house, ASKS, json!("requested")).await;
        let path = house.session().await;
        let (first, second) = (house.next_answer(), house.next_answer());
        let mut frames = turn(&house, &path).await;
        let (_, completed) = call(&first, &mut frames).await;
        assert_eq!(completed["status"], "ok", "{completed}");
        let words = if wider {
            let asks_more = ASKS.replace("https://api.example.com", "https://*");
            let added = add(&house, &asks_more, json!("none")).await;
            assert_eq!(added.get("grant"), None, "{added}");
            assert!(added["update"]["added"].to_string().contains("https://*"), "{added}");
            "waits for a grant"
        } else {
            house.delete("/v1/tools/sums").answer().await;
            "was removed"
        };
        let (started, completed) = call(&second, &mut frames).await;
        assert_eq!(started.get("authority"), None, "{started}");
        assert_eq!(completed["status"], "denied", "{completed}");
        assert!(completed.to_string().contains(words), "{completed}");
        frames.rest().await;
    }
}

#[tokio::test]
async fn each_call_records_the_authority_of_the_moment_and_no_model_sees_it() {
    let house = House::new().await;
    add(&house, ASKS, json!("requested")).await;
    let path = house.session().await;
    let (first, second) = (house.next_answer(), house.next_answer());
    let mut frames = turn(&house, &path).await;
    let (started, _) = call(&first, &mut frames).await;
    let layers = |started: &Value| started["authority"]["network"]["layers"].clone();
    assert_eq!(
        layers(&started)[1],
        json!(["grant", {"allow": ["https://api.example.com"]}]),
        "{started}"
    );
    let narrowed = house
        .ask(http::Method::PATCH, &path)
        .json(&json!({"network": {"allow": []}}))
        .answer()
        .await;
    assert_eq!(narrowed.status, StatusCode::OK, "{}", narrowed.text());
    let granted = house
        .put("/v1/tools/sums/grant")
        .json(&json!({"network": {"allow": ["GET https://api.example.com"]}}))
        .answer()
        .await;
    assert_eq!(granted.status, StatusCode::OK, "{}", granted.text());
    let (started, completed) = call(&second, &mut frames).await;
    assert_eq!(completed["status"], "ok", "{completed}");
    assert_eq!(
        layers(&started),
        json!([
            ["request", {"allow": ["https://api.example.com"]}],
            ["grant", {"allow": ["GET https://api.example.com"]}],
            ["session", {"allow": []}],
        ]),
        "{started}"
    );
    frames.rest().await;
    let messages = house.get(&format!("{path}/messages")).answer().await;
    assert!(!messages.text().contains("api.example.com"), "{}", messages.text());
}

#[tokio::test]
async fn code_that_comes_back_keeps_its_own_grant_and_not_that_of_the_version_before() {
    let house = House::new().await;
    let mut other = wasm();
    // A custom section makes it other code: its id, its length, its name's length and name.
    other.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    let narrow = json!({"network": {"allow": ["GET https://api.example.com/v1"]}});
    add(&house, ASKS, narrow.clone()).await;
    let body = json!({"wasm": STANDARD.encode(&other), "manifest": ASKS, "grant": "requested"});
    house.post("/v1/tools").json(&body).answer().await;
    let back = add(&house, ASKS, json!("none")).await;
    assert_eq!(back["grant"], narrow, "{back}");
}
