use crate::house::House;
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn a_host_is_alive_and_ready() {
    let house = House::new().await;
    for path in ["/healthz", "/readyz"] {
        let answer = house.get(path).without("authorization").answer().await;
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::OK, json!({"status": "ok"})),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_closing_host_is_alive_but_not_ready() {
    let house = House::new().await;
    house.closing.cancel();
    assert_eq!(house.get("/healthz").answer().await.status, StatusCode::OK);
    assert_eq!(house.get("/readyz").answer().await.problem(), "shutting_down");
}
