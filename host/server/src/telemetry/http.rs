//! Requests and streams, counted. Routes are told by their templates: what a client writes into a path is no label.

use axum::extract::MatchedPath;
use fumehood_core::metric;
use http::{Method, StatusCode};
use metrics::{Gauge, counter, gauge, histogram};
use std::{sync::LazyLock, time::Instant};

static IN_FLIGHT: LazyLock<Gauge> = LazyLock::new(|| gauge!(metric::HTTP_IN_FLIGHT.name));
static STREAMS: LazyLock<Gauge> = LazyLock::new(|| gauge!(metric::HTTP_STREAMS.name));

/// The template of the route that answered, told by the router in the response.
#[derive(Clone)]
pub(crate) struct Route(pub(crate) MatchedPath);

impl Route {
    /// Where no route matched.
    pub(crate) const UNMATCHED: &'static str = "unmatched";
}

/// A request that waits for its answer.
pub(crate) struct Answered {
    method: &'static str,
    begun: Instant,
    route: Option<Route>,
    status: &'static str,
}

impl Answered {
    pub(crate) fn begin(method: &Method) -> Self {
        IN_FLIGHT.increment(1.0);
        Self {
            method: method_word(method),
            begun: Instant::now(),
            route: None,
            status: "gone",
        }
    }

    /// The request has its answer.
    pub(crate) fn end(mut self, route: Option<Route>, status: StatusCode) {
        self.route = route;
        self.status = match status.as_u16() {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        IN_FLIGHT.decrement(1.0);
        let route = self
            .route
            .as_ref()
            .map_or(Route::UNMATCHED, |Route(path)| path.as_str())
            .to_owned();
        histogram!(metric::HTTP_DURATION.name, "route" => route.clone()).record(self.begun.elapsed());
        counter!(metric::HTTP_REQUESTS.name, "route" => route, "method" => self.method, "status" => self.status)
            .increment(1);
    }
}

/// The methods that routes take by name, any other as one.
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// A stream of events that is open, for as long as this lives.
pub(crate) struct OpenStream(());

impl OpenStream {
    pub(crate) fn new() -> Self {
        STREAMS.increment(1.0);
        Self(())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        STREAMS.decrement(1.0);
    }
}
