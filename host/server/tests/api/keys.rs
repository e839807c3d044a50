use crate::house::{House, KEY};
use http::StatusCode;

#[tokio::test]
async fn every_route_but_health_metrics_and_description_needs_a_key() {
    let house = House::new().await;
    let document = house
        .get("/openapi.json")
        .without("authorization")
        .answer()
        .await
        .json();
    let mut open = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let asked = path.replace(['{', '}'], "x");
            let method = method.to_uppercase().parse().unwrap();
            let answer = house.ask(method, &asked).without("authorization").answer().await;
            if answer.status == StatusCode::UNAUTHORIZED {
                assert_eq!(
                    (answer.problem().as_str(), &answer.headers["www-authenticate"]),
                    ("unauthorized", &"Bearer".parse().unwrap())
                );
            } else {
                open.push(path.clone());
            }
        }
    }
    // Metrics are open where only this machine can ask: tests/api/metrics.rs has the rule.
    // A callback has a token of its own.
    let open_ones = [
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/readyz",
        "/v1/callbacks/{callback}",
    ];
    assert_eq!(open, open_ones);
}

#[tokio::test]
async fn a_key_that_is_not_one_is_refused_without_repeating_it() {
    let house = House::new().await;
    for value in [
        "Bearer nope",
        "Bearer fh_nope",
        "Basic nope",
        "nope",
        "Bearer",
        "Bearer nope nope",
    ] {
        let answer = house.get("/v1/sessions").with("authorization", value).answer().await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (StatusCode::UNAUTHORIZED, "unauthorized"),
            "{value}"
        );
        assert!(!answer.text().contains("nope"));
    }
    let lower = house
        .get("/v1/sessions")
        .with("authorization", &format!("bearer {KEY}"))
        .answer()
        .await;
    assert_eq!(lower.status, StatusCode::OK);
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once() {
    let house = House::new().await;
    assert_eq!(house.get("/v1/sessions").answer().await.status, StatusCode::OK);
    house.revoke().await;
    assert_eq!(house.get("/v1/sessions").answer().await.problem(), "unauthorized");
    assert_eq!(
        house.get("/v1/sessions").by_other_org().answer().await.status,
        StatusCode::OK
    );
}
