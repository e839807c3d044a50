//! The log as JSON, one object per line. Fields of the spans around a line stand beside its own, the inner over the outer:
//! `org`, `session`, `turn`, `step`, `call` and `tool` are where a query looks for them, on every line.

use serde_json::{Map, Value, json};
use std::fmt;
use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// What every line has; no field of a span or event takes its place.
const FIXED: [&str; 4] = ["time", "level", "message", "target"];

/// Formats events as JSON lines.
pub(super) struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut own = Own(Map::new());
        event.record(&mut own);
        let mut line = Map::new();
        line.insert("time".into(), json!(fumehood_core::now()));
        line.insert("level".into(), metadata.level().as_str().into());
        line.insert("message".into(), own.0.remove("message").unwrap_or_default());
        line.insert("target".into(), metadata.target().into());
        let mut add = |fields: Map<String, Value>| {
            line.extend(fields.into_iter().filter(|(name, _)| !FIXED.contains(&name.as_str())));
        };
        for span in ctx.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(fields)) = fields.map(|fields| serde_json::from_str(&fields.fields)) {
                add(fields);
            }
        }
        add(own.0);
        let text = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

/// An event's own fields.
struct Own(Map<String, Value>);

impl Own {
    fn set(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value);
    }
}

impl tracing::field::Visit for Own {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex},
    };
    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_has_the_fields_of_its_spans_and_no_field_hides_what_every_line_has() {
        let written = Written::default();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .with_writer(written.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let outer = tracing::info_span!("turn", org = "acme", turn = "trn_1", status = tracing::field::Empty);
            let _outer = outer.enter();
            outer.record("status", "completed");
            let _inner = tracing::info_span!("call", call = "call_1", level = "forged").entered();
            tracing::warn!(count = 2, "a \"quoted\"\nline");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        let mut line = line.as_object().unwrap().clone();
        assert!(line.remove("time").is_some());
        let wanted = json!({
            "level": "WARN", "message": "a \"quoted\"\nline", "target": "fumehood::telemetry::lines::tests",
            "org": "acme", "turn": "trn_1", "status": "completed", "call": "call_1", "count": 2
        });
        assert_eq!(Value::Object(line), wanted);
    }
}
