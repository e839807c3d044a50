//! The components of the org: add, list, show, grant, remove.

use crate::{
    app::App,
    auth::Client,
    body::read_body,
    input::{At, Listed, PageQuery, Query, is_json, media_type, name, parse_json, session_id, wrong_media_type},
    problem::{Answer, Problem, ProblemCode},
    routes::tool_changes,
    schema,
    signatures::{ComponentSignature, SignedBytes},
};
use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_agent::{
    changes::{ChangeState, ToolChange},
    install::{Added, LeftOut, NewComponent, NewGrant},
};
use fumehood_core::{
    Time,
    digest::Digest,
    name::{AgentName, ComponentName, OrgName},
    tool::ToolDefinition,
};
use fumehood_policy::{
    explain::Explanation,
    grant::{self, Grant},
    lint,
    manifest::Manifest,
};
use fumehood_store::record;
use http::{HeaderMap, StatusCode, header};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, IntoDeserializer as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// What a component comes with that is a body of its own.
const SIGNATURE: &str = "fumehood-signature";

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_components, add_component))
        .routes(routes!(show_component, remove_component))
        .routes(routes!(set_grant))
}

/// A component of the org and the tools it offers.
#[derive(Debug, Serialize, ToSchema)]
struct Component {
    #[schema(value_type = String)]
    name: ComponentName,
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    /// Its exact code: `sha256:…`
    #[schema(value_type = String)]
    digest: Digest,
    /// The tools it offers. They can be called once it has a grant.
    #[schema(value_type = Vec<schema::ToolDefinition>)]
    tools: Vec<ToolDefinition>,
    /// Functions that it exports and that can't be tools; where one component is shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::LeftOut>)]
    left_out: Vec<LeftOut>,
    /// What it asks for: the manifest's keys.
    #[schema(value_type = serde_json::Map<String, serde_json::Value>)]
    manifest: Manifest,
    /// What it asks for, one sentence each.
    requests: Vec<String>,
    /// What the org lets it do; absent until somebody decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Grant>)]
    grant: Option<Grant>,
    /// What it asks for beyond the grant, one sentence each.
    not_granted: Vec<String>,
    /// What of manifest and grant has no effect or contradicts itself, one sentence each; where one component is shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// When this version was added.
    #[schema(value_type = String, format = DateTime)]
    added: Time,
    /// What changed in what it asks for, where it took the place of other code. Said once, when it is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    update: Option<Update>,
    /// Its last change since the host started, and how far that has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<tool_changes::ToolChange>)]
    change: Option<ToolChange>,
    /// What it may do, and which layer cut what; where one component is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Authority>)]
    authority: Option<Explanation>,
}

/// How a version differs from the one whose place it took.
#[derive(Debug, Serialize, ToSchema)]
struct Update {
    /// The code before: `sha256:…`
    #[schema(value_type = String)]
    before: Digest,
    /// What it asks for that the one before did not, one sentence each. With any, it waits for a grant of its own.
    added: Vec<String>,
    /// What it no longer asks for.
    removed: Vec<String>,
}

impl From<Added> for Component {
    fn from(
        Added {
            component,
            update,
            change,
        }: Added,
    ) -> Self {
        Self {
            change: Some(change),
            update: update.map(|update| Update {
                before: update.before,
                added: update.difference.added,
                removed: update.difference.removed,
            }),
            ..Self::from(component)
        }
    }
}

impl From<record::Component> for Component {
    fn from(component: record::Component) -> Self {
        let nothing = Grant::none();
        let granted = component.grant.as_ref().unwrap_or(&nothing);
        Self {
            version: component.manifest.version.clone(),
            description: component.manifest.description.clone(),
            requests: grant::describe(&component.manifest),
            not_granted: grant::wider_than(&component.manifest, granted),
            name: component.name,
            digest: component.digest,
            tools: component.tools,
            left_out: Vec::new(),
            manifest: component.manifest,
            grant: component.grant,
            warnings: Vec::new(),
            added: component.added,
            update: None,
            change: None,
            authority: None,
        }
    }
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AddQuery {
    /// With a wasm body: `requested` grants all that it asks for; `none` (the default) leaves the decision to `PUT …/grant`.
    #[param(inline)]
    grant: Option<GrantWord>,
    /// With a wasm body: the name of a component that carries no manifest.
    name: Option<String>,
}

/// What to grant, in one word.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum GrantWord {
    /// Nothing yet.
    #[default]
    None,
    /// All that it asks for.
    Requested,
}

/// What to grant: a word or a grant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "`grant` is \"requested\", \"none\", or a grant with the manifest's keys"
)]
enum GrantBody {
    Word(GrantWord),
    #[schema(value_type = schema::Grant)]
    Exactly(Box<Grant>),
}

impl From<GrantWord> for NewGrant {
    fn from(word: GrantWord) -> Self {
        match word {
            GrantWord::None => Self::Undecided,
            GrantWord::Requested => Self::Requested,
        }
    }
}

/// A component to be added.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddComponent {
    /// The `.wasm` file in base64.
    #[serde(deserialize_with = "base64_bytes")]
    #[schema(value_type = String, format = Byte)]
    wasm: Vec<u8>,
    /// A manifest (the text of a `tool.toml`) that takes the place of the embedded one.
    manifest: Option<String>,
    /// The name of a component that carries no manifest.
    #[schema(value_type = Option<String>)]
    name: Option<ComponentName>,
    /// What to grant; absent: nothing yet.
    #[serde(default, deserialize_with = "grant_body")]
    grant: Option<GrantBody>,
    /// A signature by a key that the operator trusts, where the host asks for one: ECDSA on P-256 with SHA-256 in DER, in base64, as
    /// `fumehood tool sign` and `cosign sign-blob` write it. Of the component, or of `artifact`.
    #[serde(default, deserialize_with = "some_base64_bytes")]
    #[schema(value_type = Option<String>, format = Byte)]
    signature: Option<Vec<u8>>,
    /// What `signature` is of, where that is the artifact of a registry that has the component.
    artifact: Option<SignedArtifact>,
}

/// A signed artifact of a registry.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignedArtifact {
    /// What was signed, in base64: the payload of a signature as `cosign sign` makes it.
    #[serde(deserialize_with = "base64_bytes")]
    #[schema(value_type = String, format = Byte)]
    payload: Vec<u8>,
    /// The artifact's manifest, in base64.
    #[serde(deserialize_with = "base64_bytes")]
    #[schema(value_type = String, format = Byte)]
    manifest: Vec<u8>,
}

/// Read by its kind, so that a fault in a grant is told with its place.
fn grant_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<GrantBody>, D::Error> {
    struct ByKind;
    impl<'de> Visitor<'de> for ByKind {
        type Value = Option<GrantBody>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("\"requested\", \"none\", or a grant with the manifest's keys")
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
            GrantWord::deserialize(word.into_deserializer()).map(|word| Some(GrantBody::Word(word)))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            let grant = Grant::deserialize(MapAccessDeserializer::new(map))?;
            Ok(Some(GrantBody::Exactly(Box::new(grant))))
        }
    }
    deserializer.deserialize_any(ByKind)
}

/// The code that `If-Match` names.
fn looked_at(headers: &HeaderMap) -> Answer<Option<Digest>> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let digest = text.trim_matches('"').parse();
    digest.map(Some).map_err(|_| {
        let detail = "If-Match is the component's digest in quotes, as in \"sha256:…\", or `*`";
        Problem::new(ProblemCode::InvalidHeader, detail)
    })
}

fn base64_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD
        .decode(&*text)
        .map_err(|error| D::Error::custom(format!("not base64: {error}")))
}

fn some_base64_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    #[derive(Deserialize)]
    struct Bytes(#[serde(deserialize_with = "base64_bytes")] Vec<u8>);
    Ok(Option::<Bytes>::deserialize(deserializer)?.map(|Bytes(bytes)| bytes))
}

/// The signature of a component that is a body of its own.
fn signature_header(headers: &HeaderMap) -> Answer<Option<ComponentSignature>> {
    let Some(value) = headers.get(SIGNATURE) else {
        return Ok(None);
    };
    let decoded = value.to_str().ok().and_then(|text| STANDARD.decode(text.trim()).ok());
    match decoded {
        Some(signature) => Ok(Some(ComponentSignature {
            signature,
            of: SignedBytes::Component,
        })),
        None => Err(Problem::new(
            ProblemCode::InvalidHeader,
            "Fumehood-Signature is a signature in base64, as `fumehood tool sign` writes it",
        )),
    }
}

/// List the components, by name
#[utoipa::path(get, path = "/v1/tools", tag = "tools", params(PageQuery),
    responses((status = 200, body = Listed<Component>, description = "A page of components with their tools")))]
async fn list_components(
    State(app): State<Arc<App>>,
    client: Client,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<Component>>> {
    let components = app.host.store().components(&client.org).await?;
    let changes = app.host.tool_changes(&client.org);
    let shown = |component| changed_by(&changes, Component::from(component));
    Ok(Json(Listed::slice(components.into_iter().map(shown).collect(), &page)?))
}

/// The component with its last change.
fn changed_by(changes: &[ToolChange], component: Component) -> Component {
    let of_it = |change: &&ToolChange| change.component.as_ref() == Some(&component.name);
    Component {
        change: changes.iter().find(of_it).cloned(),
        ..component
    }
}

/// Add a component, or replace the one of the same name
///
/// The body is the component itself (`application/wasm`), or JSON with the component in base64. A step that runs keeps
/// the tools it began with; `change` says how many calls still run on the version before, and until when they may. A new version that asks for more than the old one was granted waits for a new grant.
/// Where the operator requires signatures, the component comes with one: in `Fumehood-Signature`, or in the JSON.
#[utoipa::path(post, path = "/v1/tools", tag = "tools", params(AddQuery,
    ("Fumehood-Signature" = Option<String>, Header, description = "With a wasm body: a signature of it by a key that the operator trusts, in base64")),
    request_body(content((Vec<u8> = "application/wasm"), (AddComponent = "application/json"))),
    responses((status = 201, body = Component, description = "The component as it is kept", headers(("Location" = String, description = "Its path")))))]
async fn add_component(
    State(app): State<Arc<App>>,
    client: Client,
    Query(query): Query<AddQuery>,
    request: Request,
) -> Answer<impl IntoResponse> {
    let kind = media_type(request.headers());
    let (parts, body) = request.into_parts();
    let limit = app.config.component_body;
    // The component lies in memory until it is installed.
    let (new, signature, _place) = match kind.as_deref() {
        Some("application/wasm") => {
            let name = query.name.as_deref().map(name).transpose()?;
            let signature = signature_header(&parts.headers)?;
            let received = read_body(&app, &client, parts.headers, body, limit).await?;
            let new = NewComponent {
                wasm: received.bytes,
                manifest: None,
                name,
                grant: query.grant.unwrap_or_default().into(),
            };
            (new, signature, received.place)
        }
        Some(kind) if is_json(kind) => {
            if query.grant.is_some() || query.name.is_some() {
                return Err(Problem::new(
                    ProblemCode::InvalidQuery,
                    "with a JSON body, `grant` and `name` belong in the body",
                ));
            }
            // Base64 is a third longer; the rest of the document is small.
            let limit = (limit / 3 * 4).saturating_add(app.config.json_body);
            let received = read_body(&app, &client, parts.headers, body, limit).await?;
            let (new, signature) = from_document(parse_json(&received)?)?;
            (new, signature, received.place)
        }
        _ => {
            return Err(wrong_media_type(
                "application/wasm (the component itself) or application/json",
            ));
        }
    };
    // THREAT[T-supply-unsigned]: before anything reads it.
    if let Some(signatures) = &app.config.signatures {
        let checked = signatures.check(&new.wasm, signature.as_ref());
        checked.map_err(|why| Problem::new(ProblemCode::SignatureRequired, why).with("field", "signature"))?;
    }
    let component = Component::from(app.host.add_component(&client.org, new).await?);
    let component = completed(&app, &client.org, component).await?;
    let location = format!("/v1/tools/{}", component.name);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(component)))
}

fn from_document(body: AddComponent) -> Answer<(NewComponent, Option<ComponentSignature>)> {
    let of = match body.artifact {
        None => SignedBytes::Component,
        Some(SignedArtifact { payload, manifest }) => SignedBytes::Artifact { payload, manifest },
    };
    let signature = body.signature.map(|signature| ComponentSignature { signature, of });
    let manifest = body
        .manifest
        .as_deref()
        .map(Manifest::parse_toml)
        .transpose()
        .map_err(|error| {
            Problem::new(
                ProblemCode::ComponentRefused,
                format!("the manifest is not valid: {error}"),
            )
            .with("field", "manifest")
        })?;
    let grant = match body.grant {
        None => NewGrant::Undecided,
        Some(GrantBody::Word(word)) => word.into(),
        Some(GrantBody::Exactly(grant)) => NewGrant::Exactly(grant),
    };
    let new = NewComponent {
        wasm: body.wasm,
        manifest,
        name: body.name,
        grant,
    };
    Ok((new, signature))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ShowQuery {
    /// Explain what it may do in this session, with the session's agent.
    session: Option<String>,
    /// Explain what it may do for this agent.
    agent: Option<String>,
}

/// Show a component, and explain what it may do
///
/// `authority` says for each thing it asks what it has and which layer cut what: the grant and the host's own policy, and the
/// session and the agents where they are named.
#[utoipa::path(get, path = "/v1/tools/{component}", tag = "tools",
    params(("component" = String, Path, description = "The component's name"), ShowQuery),
    responses((status = 200, body = Component, description = "The component")))]
async fn show_component(
    State(app): State<Arc<App>>,
    client: Client,
    At(component): At<String>,
    Query(query): Query<ShowQuery>,
) -> Answer<Json<Component>> {
    let session = query.session.as_deref().map(session_id).transpose()?;
    let agent = query.agent.as_deref().map(name::<AgentName>).transpose()?;
    let (component, authority) = app
        .host
        .explain(&client.org, &name(&component)?, session, agent.as_ref())
        .await?;
    let component = Component {
        authority: Some(authority),
        ..changed_by(&app.host.tool_changes(&client.org), component.into())
    };
    Ok(Json(completed(&app, &client.org, component).await?))
}

/// Says what of it is no tool, and what has no effect, so that nobody takes a grant for more than it is.
async fn completed(app: &App, org: &OrgName, component: Component) -> Answer<Component> {
    let tools = app.host.catalog().tools(org).await?;
    let left_out = tools.left_out(&component.name).to_vec();
    let ceilings = app.host.ceilings();
    let mut findings = lint::manifest(&component.manifest, ceilings);
    if let Some(grant) = &component.grant {
        findings.extend(lint::grant(grant, ceilings));
        findings.extend(lint::grant_for(grant, &component.manifest));
    }
    let mut warnings: Vec<String> = Vec::new();
    for finding in findings {
        // A grant of all that is asked repeats what is the matter with the manifest.
        if !warnings.contains(&finding.message) {
            warnings.push(finding.message);
        }
    }
    Ok(Component {
        warnings,
        left_out,
        ..component
    })
}

/// Remove a component
///
/// No new call begins. Those that run have the time that the host gives them; `GET /v1/tool-changes` shows when they have ended.
#[utoipa::path(delete, path = "/v1/tools/{component}", tag = "tools", params(("component" = String, Path, description = "The component's name")),
    responses((status = 204, description = "It is gone"),
        (status = 202, body = tool_changes::ToolChange, description = "It is gone, and calls still run on it")))]
async fn remove_component(State(app): State<Arc<App>>, client: Client, At(component): At<String>) -> Answer<Response> {
    let change = app.host.remove_component(&client.org, &name(&component)?).await?;
    Ok(match change.state {
        ChangeState::Draining | ChangeState::Forced => (StatusCode::ACCEPTED, Json(change)).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Decide what a component may do
///
/// The body is the whole grant, as JSON or as the text of a grant file (`application/toml`); it takes the place of the one there
/// is. `{}` grants nothing: its tools can be called, and are denied whatever they try. `authority` in the answer says what it may
/// do with it.
#[utoipa::path(put, path = "/v1/tools/{component}/grant", tag = "tools",
    params(("component" = String, Path, description = "The component's name"),
        ("If-Match" = Option<String>, Header, description = "The `digest` that was looked at, in quotes: refused if it is other code by now")),
    request_body(content((schema::Grant = "application/json"), (String = "application/toml"))),
    responses((status = 200, body = Component, description = "The component with its grant")))]
async fn set_grant(
    State(app): State<Arc<App>>,
    client: Client,
    At(component): At<String>,
    request: Request,
) -> Answer<Json<Component>> {
    let component = name::<ComponentName>(&component)?;
    let looked_at = looked_at(request.headers())?;
    let kind = media_type(request.headers());
    let (parts, body) = request.into_parts();
    let read = read_body(&app, &client, parts.headers, body, app.config.json_body);
    let grant = match kind.as_deref() {
        Some(kind) if is_json(kind) => parse_json::<Grant>(&read.await?)?,
        Some("application/toml") => {
            let body = read.await?;
            let text = std::str::from_utf8(&body)
                .map_err(|_| Problem::new(ProblemCode::InvalidBody, "a grant file is UTF-8 text"))?;
            Grant::parse_toml(text).map_err(|error| Problem::new(ProblemCode::InvalidBody, error.to_string()))?
        }
        _ => return Err(wrong_media_type("application/json or application/toml")),
    };
    app.host.set_grant(&client.org, &component, &grant, looked_at).await?;
    let (component, authority) = app.host.explain(&client.org, &component, None, None).await?;
    let component = Component {
        authority: Some(authority),
        ..changed_by(&app.host.tool_changes(&client.org), component.into())
    };
    Ok(Json(completed(&app, &client.org, component).await?))
}
