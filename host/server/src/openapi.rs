//! The routes and their description, made of the same list: a route that is served is described.

use crate::{
    app::App,
    config::ServerConfig,
    observe::{observe, tell_route},
    problem::{Problem, ProblemCode},
    routes, schema,
    telemetry::AdoptTrace,
    ws,
};
use axum::{
    Router,
    extract::Request,
    middleware,
    response::{IntoResponse, Response},
};
use fumehood_agent::host::Host;
use http::header;
use std::{any::Any, sync::Arc};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{
    ToSchema as _,
    openapi::{
        ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, ResponseBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};
use utoipa_axum::router::OpenApiRouter;

const KEY: &str = "key";

const TAGS: &[(&str, &str)] = &[
    (
        "sessions",
        "Conversations with their files, key-values, secrets and journal",
    ),
    ("turns", "Inputs worked to an end"),
    ("events", "What happens, as it happens and as it was recorded"),
    ("files", "A session's workspace"),
    ("kv", "A session's key-values"),
    ("secrets", "Written and deleted, never read"),
    ("tools", "Components, their grants, and single calls"),
    ("callbacks", "Calls that tools handed on; their own tokens, and no key"),
    ("jobs", "Calls that run on in the background"),
    ("schedules", "Turns that come by themselves"),
    ("webhooks", "URLs that are told what happens"),
    ("ledger", "Every egress decision"),
    ("usage", "What model calls took, and the budget"),
    ("health", "Whether the host is there; no key is needed"),
];

/// The API without middleware, so that a request passes nothing that it needs not.
fn described() -> OpenApiRouter<Arc<App>> {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key of an org; `fumehood key create` makes one."))
        .build();
    let components = ComponentsBuilder::new()
        .security_scheme(KEY, SecurityScheme::Http(scheme))
        .schema(
            schema::Problem::name(),
            <schema::Problem as utoipa::PartialSchema>::schema(),
        )
        .schema(ProblemCode::name(), <ProblemCode as utoipa::PartialSchema>::schema())
        .schema(
            schema::Content::name(),
            <schema::Content as utoipa::PartialSchema>::schema(),
        )
        .build();
    let tags = TAGS
        .iter()
        .map(|(name, doc)| TagBuilder::new().name(*name).description(Some(*doc)).build());
    let info = InfoBuilder::new()
        .title("Fumehood")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("A host for the tools of LLM agents: sessions, turns, events, and tools that can do only what they were granted."))
        .build();
    let document = OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .tags(Some(tags))
        .security(Some([SecurityRequirement::new(KEY, [] as [&str; 0])]))
        .build();
    OpenApiRouter::with_openapi(document)
        .merge(routes::sessions::router())
        .merge(routes::history::router())
        .merge(routes::compaction::router())
        .merge(routes::turns::router())
        .merge(routes::approvals::router())
        .merge(routes::results::router())
        .merge(routes::callbacks::router())
        .merge(routes::jobs::router())
        .merge(routes::events::router())
        .merge(ws::router())
        .merge(routes::files::router())
        .merge(routes::kv::router())
        .merge(routes::secrets::router())
        .merge(routes::tools::router())
        .merge(routes::tool_changes::router())
        .merge(routes::calls::router())
        .merge(routes::schedules::router())
        .merge(routes::webhooks::router())
        .merge(routes::ledger::router())
        .merge(routes::usage::router())
        .merge(routes::health::router())
        .merge(routes::metrics::router())
}

/// The description of the API (OpenAPI 3.1), as `/openapi.json` serves it.
#[must_use]
pub fn openapi() -> OpenApi {
    let mut document = described().into_openapi();
    let refusal = ResponseBuilder::new()
        .description("The request was refused or failed; `code` says how")
        .content(
            "application/problem+json",
            ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .build(),
        )
        .build();
    // The router's form of a parameter that takes the rest of the path is not one of OpenAPI.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
        ];
        for operation in operations.into_iter().flatten() {
            operation
                .responses
                .responses
                .insert("default".into(), refusal.clone().into());
        }
    }
    document
}

/// The API as a service. `closing` is cancelled when it shall end its streams, stop waiting, and take no new turns.
pub fn router(host: Host, config: ServerConfig, closing: CancellationToken) -> Router {
    let description = openapi().to_json().unwrap_or_else(|error| {
        tracing::error!(%error, "the API's description can't be written");
        "{}".to_owned()
    });
    let adopt = config.adopt_trace.clone();
    let app = Arc::new(App::new(host, config, closing, description.into()));
    let (router, _) = described().split_for_parts();
    let router = router.route_layer(middleware::from_fn(tell_route));
    around(router.fallback(unknown_route).with_state(app), adopt)
}

/// What every answer passes, those of the router itself included: layers of a router would be inside of what it answers itself.
fn around(router: Router, adopt: Option<AdoptTrace>) -> Router {
    Router::new()
        .fallback_service(router)
        .layer(middleware::map_response(say_which_methods))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(adopt, observe))
}

async fn unknown_route(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    Problem::new(
        ProblemCode::UnknownRoute,
        format!("there is no route {path}; /openapi.json lists those there are"),
    )
}

/// The router answers 405 with `Allow` and no body: gives it one.
async fn say_which_methods(response: Response) -> Response {
    if response.status() != http::StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let Some(allow) = response.headers().get(header::ALLOW).cloned() else {
        return response;
    };
    let methods = allow.to_str().unwrap_or_default().replace(',', ", ");
    let problem = Problem::new(
        ProblemCode::MethodNotAllowed,
        format!("the route does not take this method; it takes {methods}"),
    );
    let mut response = problem.into_response();
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

/// What a panic says is for the log: the panic hook has written it there.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    Problem::fault().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, routing::get};
    use http::{Method, StatusCode};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    async fn fall() -> &'static str {
        panic!("a secret of the host")
    }

    #[tokio::test]
    async fn a_panic_is_a_fault_of_the_host_that_tells_nothing() {
        let router = around(Router::new().route("/fall", get(fall)), None);
        let request = Request::builder()
            .method(Method::GET)
            .uri("/fall")
            .body(Body::empty())
            .unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key("x-request-id"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("\"internal\"") && !text.contains("secret"), "{text}");
    }
}
