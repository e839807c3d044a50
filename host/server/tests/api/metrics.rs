//! The page of metrics: who reads it, and what is on it.

use crate::house::House;
use fumehood_core::metric::{CATALOGUE, MetricKind};
use fumehood_server::{Metrics, MetricsAccess, MetricsPage, ServerConfig};
use http::StatusCode;
use std::sync::LazyLock;

/// A process keeps its metrics once.
pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::install().unwrap());

async fn house(access: MetricsAccess) -> House {
    House::with(ServerConfig {
        metrics: Some(MetricsPage {
            metrics: METRICS.clone(),
            access,
        }),
        ..ServerConfig::default()
    })
    .await
}

#[tokio::test]
async fn another_orgs_key_does_not_read_the_metrics() {
    let house = house(MetricsAccess::Operator).await;
    let answer = house.get("/metrics").without("authorization").answer().await;
    assert_eq!(
        (answer.status, &*answer.problem()),
        (StatusCode::UNAUTHORIZED, "unauthorized")
    );
    let answer = house.get("/metrics").by_other_org().answer().await;
    assert_eq!(
        (answer.status, &*answer.problem()),
        (StatusCode::FORBIDDEN, "forbidden")
    );
    let answer = house.get("/metrics").answer().await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        answer.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
}

#[tokio::test]
async fn a_process_that_keeps_no_metrics_has_no_page_of_them() {
    let house = House::new().await;
    let answer = house.get("/metrics").without("authorization").answer().await;
    assert_eq!(
        (answer.status, &*answer.problem()),
        (StatusCode::NOT_FOUND, "unknown_route")
    );
}

#[tokio::test]
async fn what_is_on_the_page_is_in_the_catalogue_and_a_metric_without_labels_is_always_there() {
    let house = house(MetricsAccess::Everybody).await;
    let page = house.get("/metrics").without("authorization").answer().await.text();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let metric = CATALOGUE
            .iter()
            .find(|metric| metric.name == name)
            .unwrap_or_else(|| panic!("{name} is not in the catalogue"));
        assert_eq!(metric.kind.as_str(), kind, "{name}");
        assert!(
            page.contains(&format!("# HELP {name} {}", metric.doc.trim())),
            "{name} has no help"
        );
    }
    for metric in CATALOGUE.iter().filter(|metric| metric.labels.is_empty()) {
        let (name, suffix) = (
            metric.name,
            if matches!(metric.kind, MetricKind::Histogram(_)) {
                "_count"
            } else {
                ""
            },
        );
        let prefix = format!("{name}{suffix} ");
        assert!(
            page.lines().any(|line| line.starts_with(&prefix)),
            "{name} is not there:\n{page}"
        );
    }
}

#[tokio::test]
async fn a_path_that_no_route_has_is_no_label() {
    let house = house(MetricsAccess::Everybody).await;
    house.get("/no/such/thing").answer().await;
    let page = house.get("/metrics").without("authorization").answer().await.text();
    assert!(!page.contains("such"), "{page}");
    assert!(
        page.contains("fumehood_http_requests_total{route=\"unmatched\",method=\"GET\",status=\"4xx\"} "),
        "{page}"
    );
}
