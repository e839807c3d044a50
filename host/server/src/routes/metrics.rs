//! What the host measures, for Prometheus.

use crate::{
    app::App,
    auth::Client,
    problem::{Answer, Problem, ProblemCode},
    telemetry::MetricsAccess,
};
use axum::{
    extract::{FromRequestParts as _, Request, State},
    response::IntoResponse,
};
use fumehood_core::name::OrgName;
use http::{HeaderMap, Version, header, uri::Authority};
use std::{net::IpAddr, sync::Arc};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// The metrics of the host, in the text format of Prometheus
///
/// They tell of every org, so they are the operator's. A host that listens on loopback answers requests that were made to a
/// loopback address and came through no proxy; otherwise a key of the org `default` is needed, unless `[metrics] public`
/// says another thing.
#[utoipa::path(get, path = "/metrics", tag = "health", security((), ("key" = [])),
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
async fn metrics(State(app): State<Arc<App>>, request: Request) -> Answer<impl IntoResponse> {
    let Some(page) = app.config.metrics.as_ref() else {
        return Err(Problem::new(
            ProblemCode::UnknownRoute,
            "this process keeps no metrics; `fumehood serve` does",
        ));
    };
    let (mut parts, _) = request.into_parts();
    if !is_open(page.access, parts.version, &parts.headers) {
        // THREAT[T-api-metrics]
        let client = Client::from_request_parts(&mut parts, &app).await?;
        if client.org != OrgName::default_org() {
            return Err(Problem::new(
                ProblemCode::Forbidden,
                "the metrics tell of every org, so only a key of the org `default` reads them",
            ));
        }
    }
    Ok((
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        page.metrics.render(),
    ))
}

/// Whether a request may read them without a key.
///
/// `Host` has to be a loopback address itself, or a page in the operator's browser could read them under a name that it
/// points here; and what a proxy passed on was not made on this machine. HTTP/1.0 is what a proxy speaks that was told of nothing
/// else, and then it adds none of the headers either.
fn is_open(access: MetricsAccess, version: Version, headers: &HeaderMap) -> bool {
    const PASSED_ON: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    match access {
        MetricsAccess::Everybody => true,
        MetricsAccess::Operator => false,
        MetricsAccess::Local => {
            let mut hosts = headers.get_all(header::HOST).iter();
            let host = hosts.next().and_then(|host| host.to_str().ok());
            version >= Version::HTTP_11
                && hosts.next().is_none()
                && host.is_some_and(is_loopback)
                && !PASSED_ON.iter().any(|name| headers.contains_key(*name))
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn open(access: MetricsAccess, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        is_open(access, Version::HTTP_11, &headers.collect())
    }

    #[test]
    fn a_request_made_on_this_machine_needs_no_key() {
        for host in ["127.0.0.1:7070", "localhost", "LOCALHOST:1", "[::1]:7070"] {
            assert!(open(MetricsAccess::Local, &[("host", host)]), "{host}");
        }
    }

    #[test]
    fn a_name_that_only_points_here_and_what_a_proxy_passed_on_need_a_key() {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "",
        ] {
            assert!(!open(MetricsAccess::Local, &[("host", host)]), "{host}");
        }
        assert!(!open(MetricsAccess::Local, &[]));
        assert!(!open(
            MetricsAccess::Local,
            &[("host", "localhost"), ("host", "localhost")]
        ));
        for header in ["forwarded", "x-forwarded-for", "x-real-ip", "via"] {
            assert!(
                !open(MetricsAccess::Local, &[("host", "localhost"), (header, "1")]),
                "{header}"
            );
        }
    }

    #[test]
    fn a_request_of_a_proxy_that_says_nothing_of_itself_needs_a_key() {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("127.0.0.1:7070"))]);
        assert!(!is_open(MetricsAccess::Local, Version::HTTP_10, &headers));
        assert!(is_open(MetricsAccess::Everybody, Version::HTTP_10, &headers));
    }

    #[test]
    fn the_operator_may_open_or_close_them() {
        assert!(open(MetricsAccess::Everybody, &[]));
        assert!(!open(MetricsAccess::Operator, &[("host", "localhost")]));
    }
}
