//! Secrets of a session and of the org: written, deleted and named, never read.

use super::own_session;
use crate::{
    app::App,
    auth::Client,
    body::read_small,
    input::{At, Listed, PageQuery, Query, is_json, media_type, name, parse_json, session_id, wrong_media_type},
    problem::{Answer, Problem, ProblemCode},
};
use axum::{
    Json,
    extract::{Request, State},
};
use fumehood_core::name::SecretName;
use fumehood_store::record::Owner;
use http::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess},
};
use std::{collections::BTreeMap, fmt, sync::Arc};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// What the store takes as a secret.
const LARGEST_SECRET: usize = 64 << 10;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_org_secrets))
        .routes(routes!(set_org_secret, delete_org_secret))
        .routes(routes!(list_session_secrets))
        .routes(routes!(set_session_secret, delete_session_secret))
}

/// Refuses numbers and truth values without repeating them, as serde's own words would: a value that was sent in the wrong
/// type is a value all the same.
// THREAT[T-sec-log]
macro_rules! refuse_scalars {
    ($why:expr) => {
        fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
            Err(E::custom($why))
        }

        fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
            Err(E::custom($why))
        }

        fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
            Err(E::custom($why))
        }

        fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
            Err(E::custom($why))
        }
    };
}

/// The value of a secret: never shown, not even to a log.
#[derive(Debug)]
pub(crate) struct SecretValue(SecretString);

impl SecretValue {
    pub(crate) const fn secret(&self) -> &SecretString {
        &self.0
    }

    /// Refuses what could not be used: an empty value would be found in every text that is searched for it.
    pub(crate) fn check(&self) -> Answer<()> {
        let refuse = |code, why: String| Err(Problem::new(code, why));
        match self.0.expose_secret().len() {
            0 => refuse(
                ProblemCode::InvalidBody,
                "the secret is empty; delete it instead".into(),
            ),
            len if len > LARGEST_SECRET => refuse(
                ProblemCode::BodyTooLarge,
                format!("a secret is at most {LARGEST_SECRET} bytes"),
            ),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = SecretValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SecretValue, E> {
                Ok(SecretValue(text.into()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<SecretValue, E> {
                Ok(SecretValue(text.into()))
            }

            refuse_scalars!("a secret is a text: write it between quotes");
        }

        // Whatever it is: asked for a text alone, the reader would repeat what stands there instead.
        deserializer.deserialize_any(Text)
    }
}

/// Several, by name.
///
/// # Errors
/// When it is no object, a name is not one, or a value is no text.
pub(crate) fn by_name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<SecretName, SecretValue>, D::Error> {
    const OBJECT: &str = "secrets are an object: their names, and the value of each as a text";

    struct Object;

    impl<'de> serde::de::Visitor<'de> for Object {
        type Value = BTreeMap<SecretName, SecretValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut secrets = BTreeMap::new();
            while let Some((name, value)) = map.next_entry()? {
                secrets.insert(name, value);
            }
            Ok(secrets)
        }

        fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(E::custom(OBJECT))
        }

        refuse_scalars!(OBJECT);
    }

    deserializer.deserialize_any(Object)
}

/// A secret to be kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetSecret {
    /// At most 64 KiB. It is never shown again.
    #[schema(value_type = String, format = Password, write_only)]
    value: SecretValue,
}

/// A secret's name.
#[derive(Debug, Serialize, ToSchema)]
struct SecretEntry {
    #[schema(value_type = String)]
    name: SecretName,
}

async fn list(app: &App, owner: Owner, page: PageQuery) -> Answer<Json<Listed<SecretEntry>>> {
    let names = app.host.store().secret_names(&owner, &page.into()).await?;
    Ok(Json(Listed {
        items: names.items.into_iter().map(|name| SecretEntry { name }).collect(),
        next: names.next,
    }))
}

async fn set(app: &App, owner: Owner, secret: &str, request: Request) -> Answer<StatusCode> {
    let secret = name::<SecretName>(secret)?;
    let kind = media_type(request.headers());
    let (parts, body) = request.into_parts();
    let value = match kind.as_deref() {
        Some(kind) if is_json(kind) => {
            let body = read_small(app, parts.headers, body, app.config.json_body).await?;
            // A body that is the value itself would be repeated in what is wrong with it.
            if !body.trim_ascii_start().starts_with(b"{") {
                return Err(Problem::new(
                    ProblemCode::InvalidBody,
                    "a secret in JSON is `{\"value\": \"…\"}`; send the bare value as text/plain",
                ));
            }
            parse_json::<SetSecret>(&body)?.value
        }
        Some("text/plain" | "application/octet-stream") => {
            let body = read_small(app, parts.headers, body, LARGEST_SECRET).await?;
            let text = std::str::from_utf8(&body);
            SecretValue(
                text.map_err(|_| Problem::new(ProblemCode::InvalidBody, "a secret is UTF-8 text"))?
                    .into(),
            )
        }
        _ => {
            return Err(wrong_media_type(
                "application/json (`{\"value\": \"…\"}`) or text/plain (the value as it is)",
            ));
        }
    };
    value.check()?;
    app.host.store().secret_set(&owner, &secret, value.secret()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn delete(app: &App, owner: Owner, secret: &str) -> Answer<StatusCode> {
    if app.host.store().secret_delete(&owner, &name(secret)?).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("secret"))
    }
}

/// List the names of the org's secrets
#[utoipa::path(get, path = "/v1/secrets", tag = "secrets", params(PageQuery),
    responses((status = 200, body = Listed<SecretEntry>, description = "A page of the names, in order; never a value")))]
async fn list_org_secrets(
    State(app): State<Arc<App>>,
    client: Client,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<SecretEntry>>> {
    list(&app, Owner::Org(client.org), page).await
}

/// Set a secret of the org
///
/// The body is `{"value": "…"}`, or the value itself as text/plain.
#[utoipa::path(put, path = "/v1/secrets/{name}", tag = "secrets", params(("name" = String, Path, description = "`[A-Za-z_][A-Za-z0-9_]{0,63}`")),
    request_body(content((SetSecret = "application/json"), (String = "text/plain"))), responses((status = 204, description = "It is kept")))]
async fn set_org_secret(
    State(app): State<Arc<App>>,
    client: Client,
    At(name): At<String>,
    request: Request,
) -> Answer<StatusCode> {
    set(&app, Owner::Org(client.org), &name, request).await
}

/// Delete a secret of the org
#[utoipa::path(delete, path = "/v1/secrets/{name}", tag = "secrets", params(("name" = String, Path, description = "The secret's name")),
    responses((status = 204, description = "It is gone")))]
async fn delete_org_secret(State(app): State<Arc<App>>, client: Client, At(name): At<String>) -> Answer<StatusCode> {
    delete(&app, Owner::Org(client.org), &name).await
}

/// List the names of a session's secrets
#[utoipa::path(get, path = "/v1/sessions/{session}/secrets", tag = "secrets",
    params(("session" = String, Path, description = "`ses_…`"), PageQuery),
    responses((status = 200, body = Listed<SecretEntry>, description = "A page of the names, in order; never a value")))]
async fn list_session_secrets(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<SecretEntry>>> {
    let session = own_session(&app, &client, &session).await?;
    list(&app, Owner::Session(client.org, session), page).await
}

/// Set a secret of a session; it shadows the org's of the same name
///
/// The body is `{"value": "…"}`, or the value itself as text/plain.
#[utoipa::path(put, path = "/v1/sessions/{session}/secrets/{name}", tag = "secrets",
    params(("session" = String, Path, description = "`ses_…`"), ("name" = String, Path, description = "`[A-Za-z_][A-Za-z0-9_]{0,63}`")),
    request_body(content((SetSecret = "application/json"), (String = "text/plain"))), responses((status = 204, description = "It is kept")))]
async fn set_session_secret(
    State(app): State<Arc<App>>,
    client: Client,
    At((session, name)): At<(String, String)>,
    request: Request,
) -> Answer<StatusCode> {
    let owner = Owner::Session(client.org, session_id(&session)?);
    set(&app, owner, &name, request).await
}

/// Delete a secret of a session
#[utoipa::path(delete, path = "/v1/sessions/{session}/secrets/{name}", tag = "secrets",
    params(("session" = String, Path, description = "`ses_…`"), ("name" = String, Path, description = "The secret's name")),
    responses((status = 204, description = "It is gone")))]
async fn delete_session_secret(
    State(app): State<Arc<App>>,
    client: Client,
    At((session, name)): At<(String, String)>,
) -> Answer<StatusCode> {
    let owner = Owner::Session(client.org, session_id(&session)?);
    delete(&app, owner, &name).await
}
