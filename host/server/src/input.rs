//! What a request brings: path, query and body, taken strictly. Every refusal is a problem that names the place.

use crate::{
    app::App,
    auth::Client,
    body::{UploadPlace, read_body, read_small},
    problem::{Answer, Problem, ProblemCode},
};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use fumehood_core::id::{SessionId, TurnId};
use fumehood_store::record::PageRequest;
use http::{HeaderMap, header, request::Parts};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{str::FromStr, sync::Arc};

/// The variable parts of the path.
pub(crate) struct At<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<App>> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Answer<Self> {
        let path = Path::<T>::from_request_parts(parts, app).await;
        path.map(|Path(value)| Self(value)).map_err(|_| {
            Problem::new(
                ProblemCode::InvalidName,
                "the path is not valid: percent-encode it as UTF-8",
            )
        })
    }
}

/// A session's id in a path. What can't be an id reads as not there, as an unknown one does.
pub(crate) fn session_id(text: &str) -> Answer<SessionId> {
    text.parse().map_err(|_| Problem::not_found("session"))
}

/// A turn's id in a path.
pub(crate) fn turn_id(text: &str) -> Answer<TurnId> {
    text.parse().map_err(|_| Problem::not_found("turn"))
}

/// A name in a path.
pub(crate) fn name<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Answer<T> {
    text.parse()
        .map_err(|error: T::Err| Problem::new(ProblemCode::InvalidName, error.to_string()))
}

/// The query, with no parameter that the route does not know.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Answer<Self> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, app).await;
        query.map(|axum::extract::Query(value)| Self(value)).map_err(|error| {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Problem::new(
                ProblemCode::InvalidQuery,
                format!("the query is not what the route takes: {reason}"),
            )
        })
    }
}

/// Which page of a list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// At most this many items.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    pub(crate) limit: Option<Limit>,
    /// The `next` of the page before.
    pub(crate) cursor: Option<String>,
}

impl From<PageQuery> for PageRequest {
    fn from(query: PageQuery) -> Self {
        Self {
            after: query.cursor,
            limit: Limit::or_default(query.limit),
        }
    }
}

/// How many items a page has: 1 to 1,000.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u32")]
pub(crate) struct Limit(u32);

impl Limit {
    pub(crate) fn or_default(limit: Option<Self>) -> u32 {
        limit.map_or(PageRequest::default().limit, |limit| limit.0)
    }
}

impl TryFrom<u32> for Limit {
    type Error = &'static str;

    fn try_from(limit: u32) -> Result<Self, Self::Error> {
        if (1..=1000).contains(&limit) {
            Ok(Self(limit))
        } else {
            Err("`limit` is 1 to 1000")
        }
    }
}

/// One page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Listed<T> {
    /// In the list's order.
    pub(crate) items: Vec<T>,
    /// Pass it as `cursor` to get the items after these; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

impl<T> Listed<T> {
    /// A page of a list that is in memory, at a cursor that counts what came before.
    pub(crate) fn slice(items: Vec<T>, query: &PageQuery) -> Answer<Self> {
        let skip: usize = match &query.cursor {
            None => 0,
            Some(cursor) => cursor.parse().map_err(|_| {
                Problem::new(
                    ProblemCode::InvalidCursor,
                    "the cursor is not the `next` of a page of this list; start again without it",
                )
            })?,
        };
        let limit = Limit::or_default(query.limit) as usize;
        let end = skip.saturating_add(limit);
        let next = (end < items.len()).then(|| end.to_string());
        Ok(Self {
            items: items.into_iter().skip(skip).take(limit).collect(),
            next,
        })
    }
}

/// A JSON body, with no field that the route does not know.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Answer<Self> {
        if media_type(request.headers()).is_none_or(|kind| !is_json(&kind)) {
            return Err(wrong_media_type("application/json"));
        }
        let limit = app.config.json_body;
        let received = read_small(app, request.headers().clone(), request.into_body(), limit).await?;
        parse_json(&received).map(Self)
    }
}

/// The same for one that may be large.
///
/// # Errors
/// As [`read_body`] and [`parse_json`].
pub(crate) async fn large_json<T: DeserializeOwned>(
    app: &App,
    client: &Client,
    request: Request,
    limit: usize,
) -> Answer<LargeJson<T>> {
    if media_type(request.headers()).is_none_or(|kind| !is_json(&kind)) {
        return Err(wrong_media_type("application/json"));
    }
    let (parts, body) = request.into_parts();
    let received = read_body(app, client, parts.headers, body, limit).await?;
    Ok(LargeJson {
        body: parse_json(&received)?,
        bytes: received.len(),
        place: received.place,
    })
}

/// A JSON body with its length, and its place if it is large: to be held until what was read of it is not held any more.
pub(crate) struct LargeJson<T> {
    pub(crate) body: T,
    pub(crate) bytes: usize,
    pub(crate) place: Option<UploadPlace>,
}

/// The same for a body that may be left out: then everything in it has its default.
pub(crate) struct MaybeJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for MaybeJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Answer<Self> {
        let (parts, body) = request.into_parts();
        let kind = media_type(&parts.headers);
        let received = read_small(app, parts.headers, body, app.config.json_body).await?;
        if received.is_empty() {
            return Ok(Self(T::default()));
        }
        if kind.is_none_or(|kind| !is_json(&kind)) {
            return Err(wrong_media_type("application/json"));
        }
        parse_json(&received).map(Self)
    }
}

/// The media type of a request's body, in lower case and without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = value.split(';').next().unwrap_or_default().trim();
    (!kind.is_empty()).then(|| kind.to_ascii_lowercase())
}

pub(crate) fn is_json(kind: &str) -> bool {
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

pub(crate) fn wrong_media_type(takes: &str) -> Problem {
    Problem::new(
        ProblemCode::UnsupportedMediaType,
        format!("the route takes {takes}; say so in Content-Type"),
    )
}

/// Reads JSON into what a route takes.
pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize::<_, T>(&mut reader);
    match parsed {
        Ok(value) => reader.end().map(|()| value).map_err(|error| not_json(&error)),
        Err(error) if !error.inner().is_data() => Err(not_json(error.inner())),
        Err(error) => Err(not_as_taken(error)),
    }
}

/// Reads what is JSON already into what is taken.
pub(crate) fn parse_value<T: DeserializeOwned>(value: Value) -> Answer<T> {
    serde_path_to_error::deserialize::<_, T>(value).map_err(not_as_taken)
}

fn not_json(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    Problem::new(ProblemCode::InvalidJson, format!("the body is not JSON: {error}"))
        .with("line", line as u64)
        .with("column", column as u64)
}

fn not_as_taken(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let path = error.path().to_string();
    let reason = error.into_inner().to_string();
    let reason = reason
        .rsplit_once(" at line ")
        .map_or(reason.as_str(), |(reason, _)| reason);
    // An unknown or missing field is told by its container's path; its name is in the reason, between backticks.
    let missing = ["unknown field `", "missing field `", "duplicate field `"];
    let inner = missing
        .iter()
        .find_map(|lead| reason.strip_prefix(lead)?.split('`').next());
    let field = match (path.as_str(), inner) {
        (".", Some(inner)) => inner.to_owned(),
        (".", None) => String::new(),
        (path, Some(inner)) if path != inner && !path.ends_with(&format!(".{inner}")) => format!("{path}.{inner}"),
        (path, _) => path.to_owned(),
    };
    let at = if field.is_empty() {
        "the body".to_owned()
    } else {
        format!("`{field}`")
    };
    Problem::new(
        ProblemCode::InvalidBody,
        format!("{at} is not what the route takes: {reason}"),
    )
    .with("field", field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code)]
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code)]
        number: u8,
    }

    fn refusal(text: &str) -> (ProblemCode, serde_json::Value) {
        let problem = parse_json::<Outer>(text.as_bytes()).unwrap_err();
        (problem.code(), problem.member("field"))
    }

    #[test]
    fn what_is_not_json_is_told_from_what_does_not_fit() {
        assert_eq!(refusal("{").0, ProblemCode::InvalidJson);
        assert_eq!(refusal(r#"{"inner":{"number":1}} x"#).0, ProblemCode::InvalidJson);
        assert_eq!(refusal("[]").0, ProblemCode::InvalidBody);
    }

    #[test]
    fn the_refused_field_is_named_with_its_path() {
        for (text, field) in [
            (r#"{"inner":{"number":"a"}}"#, "inner.number"),
            (r#"{"inner":{"number":1,"x":2}}"#, "inner.x"),
            (r#"{"inner":{}}"#, "inner.number"),
            (r#"{"inner":{"number":1},"y":2}"#, "y"),
            (r#"{}"#, "inner"),
        ] {
            assert_eq!(refusal(text), (ProblemCode::InvalidBody, field.into()), "{text}");
        }
    }

    #[test]
    fn the_position_of_a_syntax_error_is_told() {
        let problem = parse_json::<Outer>(b"{\n  ?").unwrap_err();
        assert_eq!(problem.member("line"), 2);
        assert_eq!(problem.member("column"), 3);
    }

    #[test]
    fn a_limit_of_nothing_or_too_much_is_refused() {
        assert!(Limit::try_from(0).is_err());
        assert!(Limit::try_from(1001).is_err());
        assert!(Limit::try_from(1000).is_ok());
    }

    #[test]
    fn a_list_in_memory_has_pages_that_join() {
        let page = |cursor: Option<&str>| {
            let query = PageQuery {
                limit: Some(Limit(2)),
                cursor: cursor.map(Into::into),
            };
            Listed::slice(vec![1, 2, 3], &query)
        };
        let first = page(None).unwrap();
        assert_eq!(first.items, [1, 2]);
        let second = page(first.next.as_deref()).unwrap();
        assert_eq!(second.items, [3]);
        assert_eq!(second.next, None);
        assert_eq!(page(Some("x")).unwrap_err().code(), ProblemCode::InvalidCursor);
    }
}
