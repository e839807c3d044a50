//! Spans in the words of the OpenTelemetry semantic conventions: HTTP, and generative AI (`invoke_agent`, `chat`,
//! `execute_tool`). The layers below name their fields as this product does; the conventions, which change, stand here.
//!
//! Never content: no prompt, answer, argument or result; the layers below put none into a span.
//!
//! <https://opentelemetry.io/docs/specs/semconv/gen-ai/>

use opentelemetry::{
    Array, KeyValue, StringValue, Value,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::trace::SpanData;
use tracing::Metadata;

/// The spans that a convention describes.
const DESCRIBED: [&str; 5] = ["request", "turn", "chat", "call", "egress"];
/// Asked for every few seconds by machines.
const QUIET: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Whether a span is exported.
pub(super) fn is_described(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("fumehood_") && DESCRIBED.contains(&metadata.name())
}

/// The span in the words of the conventions; `None` for one that is not worth exporting.
pub(super) fn described(mut span: SpanData) -> Option<SpanData> {
    let mut fields = Fields(std::mem::take(&mut span.attributes));
    let described = match &*span.name {
        "request" => request(&mut fields)?,
        "turn" => turn(&mut fields),
        "chat" => chat(&mut fields),
        "call" => call(&mut fields),
        "egress" => egress(&mut fields),
        _ => return None,
    };
    let Described {
        name,
        kind,
        mut attributes,
        error,
    } = described;
    if let Some(error) = error {
        attributes.push(KeyValue::new("error.type", error.clone()));
        span.status = Status::error(error.as_str().to_owned());
    }
    span.name = name.into();
    span.span_kind = kind;
    span.attributes = attributes;
    Some(span)
}

struct Described {
    name: String,
    kind: SpanKind,
    attributes: Vec<KeyValue>,
    error: Option<StringValue>,
}

fn request(fields: &mut Fields) -> Option<Described> {
    let path = fields.text("path");
    if QUIET.contains(&path.as_str()) {
        return None;
    }
    let method = fields.text("method");
    let route = fields.take("http_route");
    let name = match &route {
        Some(route) => format!("{method} {route}"),
        None => method.clone(),
    };
    let status = fields.number("http_status");
    let error = status
        .filter(|status| *status >= 500)
        .map(|status| status.to_string().into());
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("url.path", path),
        KeyValue::new("url.scheme", "http"),
    ];
    add(&mut attributes, "http.route", route);
    add(&mut attributes, "http.response.status_code", status);
    add(&mut attributes, "fumehood.request.id", fields.take("request"));
    add(&mut attributes, "fumehood.org", fields.take("org"));
    Some(Described {
        name,
        kind: SpanKind::Server,
        attributes,
        error,
    })
}

fn turn(fields: &mut Fields) -> Described {
    let agent = fields.take("agent");
    let name = named("invoke_agent", agent.as_ref());
    let mut attributes = vec![KeyValue::new("gen_ai.operation.name", "invoke_agent")];
    add(&mut attributes, "gen_ai.agent.name", agent);
    add(&mut attributes, "gen_ai.conversation.id", fields.take("session"));
    add(
        &mut attributes,
        "gen_ai.provider.name",
        fields.take("provider").map(provider),
    );
    add(&mut attributes, "gen_ai.request.model", fields.take("model"));
    add(&mut attributes, "fumehood.org", fields.take("org"));
    add(&mut attributes, "fumehood.turn.id", fields.take("turn"));
    add(&mut attributes, "fumehood.turn.status", fields.take("status"));
    Described {
        name,
        kind: SpanKind::Internal,
        attributes,
        error: fields.error(),
    }
}

fn chat(fields: &mut Fields) -> Described {
    let model = fields.take("model");
    let name = named("chat", model.as_ref());
    let mut attributes = vec![KeyValue::new("gen_ai.operation.name", "chat")];
    add(&mut attributes, "gen_ai.request.model", model);
    add(
        &mut attributes,
        "gen_ai.provider.name",
        fields.take("provider").map(provider),
    );
    add(&mut attributes, "gen_ai.conversation.id", fields.take("session"));
    let stop = fields
        .take("stop")
        .map(|stop| Value::Array(Array::String(vec![as_text(&stop)])));
    add(&mut attributes, "gen_ai.response.finish_reasons", stop);
    add(
        &mut attributes,
        "gen_ai.usage.input_tokens",
        fields.number("input_tokens"),
    );
    add(
        &mut attributes,
        "gen_ai.usage.output_tokens",
        fields.number("output_tokens"),
    );
    add(
        &mut attributes,
        "gen_ai.usage.cache_read.input_tokens",
        fields.number("cached_input_tokens"),
    );
    add(
        &mut attributes,
        "gen_ai.usage.cache_creation.input_tokens",
        fields.number("cache_write_tokens"),
    );
    add(&mut attributes, "fumehood.model", fields.take("configured"));
    Described {
        name,
        kind: SpanKind::Client,
        attributes,
        error: fields.error(),
    }
}

fn call(fields: &mut Fields) -> Described {
    let tool = fields.take("tool");
    let name = named("execute_tool", tool.as_ref());
    let mut attributes = vec![
        KeyValue::new("gen_ai.operation.name", "execute_tool"),
        KeyValue::new("gen_ai.tool.type", "function"),
    ];
    add(&mut attributes, "gen_ai.tool.name", tool);
    add(&mut attributes, "gen_ai.tool.call.id", fields.take("call"));
    add(&mut attributes, "gen_ai.conversation.id", fields.take("session"));
    add(&mut attributes, "fumehood.org", fields.take("org"));
    add(&mut attributes, "fumehood.call.status", fields.take("status"));
    add(&mut attributes, "fumehood.call.deadline", fields.take("deadline"));
    Described {
        name,
        kind: SpanKind::Internal,
        attributes,
        error: fields.error(),
    }
}

fn egress(fields: &mut Fields) -> Described {
    let method = fields.text("method");
    let status = fields.number("http_status");
    let error = status
        .filter(|status| *status >= 400)
        .map(|status| status.to_string().into());
    let error = fields.error().or(error);
    let mut attributes = vec![KeyValue::new("http.request.method", method.clone())];
    add(&mut attributes, "server.address", fields.take("host"));
    add(&mut attributes, "server.port", fields.number("port"));
    add(&mut attributes, "http.response.status_code", status);
    add(&mut attributes, "fumehood.ledger.id", fields.take("id"));
    Described {
        name: method,
        kind: SpanKind::Client,
        attributes,
        error,
    }
}

/// The fields of a span as the layers below named them. Of one recorded twice the later counts.
struct Fields(Vec<KeyValue>);

impl Fields {
    fn take(&mut self, name: &str) -> Option<Value> {
        let place = self.0.iter().rposition(|field| field.key.as_str() == name)?;
        Some(self.0.swap_remove(place).value)
    }

    /// Numbers without a sign come as texts.
    fn number(&mut self, name: &str) -> Option<i64> {
        match self.take(name)? {
            Value::I64(number) => Some(number),
            other => other.as_str().parse().ok(),
        }
    }

    fn text(&mut self, name: &str) -> String {
        self.take(name).map(|value| value.to_string()).unwrap_or_default()
    }

    fn error(&mut self) -> Option<StringValue> {
        self.take("error").as_ref().map(as_text)
    }
}

fn add(attributes: &mut Vec<KeyValue>, name: &'static str, value: Option<impl Into<Value>>) {
    attributes.extend(value.map(|value| KeyValue::new(name, value)));
}

fn named(operation: &str, what: Option<&Value>) -> String {
    match what {
        Some(what) => format!("{operation} {what}"),
        None => operation.to_owned(),
    }
}

fn as_text(value: &Value) -> StringValue {
    value.to_string().into()
}

/// The conventions have names of their own for some providers.
fn provider(name: Value) -> Value {
    match &*name.as_str() {
        "gemini" => "gcp.gemini".into(),
        _ => name,
    }
}
