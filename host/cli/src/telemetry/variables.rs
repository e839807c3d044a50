//! The standard variables of OpenTelemetry, as far as this host does what they ask for. What it can't do is told in words;
//! nothing of it keeps the host from starting. Endpoint, headers, time-out and batch sizes are read by the exporter itself.
//!
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>

use opentelemetry_sdk::trace::Sampler;

/// Spans that wait to be exported, unless `OTEL_BSP_MAX_QUEUE_SIZE` says how many.
const QUEUE: usize = 2048;
/// The most that may wait, whatever is asked for.
const LONGEST_QUEUE: usize = 1 << 16;

/// How traces are made.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) sampler: Sampler,
    /// Spans that may wait.
    pub(super) queue: usize,
    /// Whether the environment names the service.
    pub(super) named: bool,
}

/// Whether to export traces, and how; and what was asked for in vain.
pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>) -> (Option<Settings>, Vec<String>) {
    let mut notes = Vec::new();
    // An empty variable is one that is not set.
    let get = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return (None, notes);
    }
    let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find_map(|name| Some((name, get(name)?)));
    let wanted = match get("OTEL_TRACES_EXPORTER").as_deref() {
        Some("none") => false,
        Some("otlp") => true,
        Some(other) => {
            notes.push(format!(
                "OTEL_TRACES_EXPORTER={other} is not supported, so no traces are exported; this host takes otlp and none"
            ));
            false
        }
        None => endpoint.is_some(),
    };
    if !wanted {
        return (None, notes);
    }
    for (name, instead) in [
        ("OTEL_METRICS_EXPORTER", "they are at /metrics"),
        ("OTEL_LOGS_EXPORTER", "they are on standard error"),
    ] {
        if let Some(other) = get(name).filter(|value| value != "none") {
            notes.push(format!(
                "{name}={other} is passed over: this host exports traces only; {instead}"
            ));
        }
    }
    if let Some(others) =
        get("OTEL_PROPAGATORS").filter(|value| !value.split(',').any(|one| one.trim() == "tracecontext"))
    {
        notes.push(format!(
            "OTEL_PROPAGATORS={others} is passed over: this host takes tracecontext"
        ));
    }
    let protocol = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]
        .into_iter()
        .find_map(|name| Some((name, get(name)?)));
    if let Some((name, other)) = protocol.filter(|(_, value)| value != "http/protobuf") {
        notes.push(format!(
            "{name}={other} is not supported, so no traces are exported; this host takes http/protobuf (a collector has it on port 4318)"
        ));
        return (None, notes);
    }
    if let Some((name, value)) = &endpoint
        && !(value.starts_with("http://") || value.starts_with("https://"))
    {
        // Not repeated: it may hold a password.
        notes.push(format!("{name} is not an http or https URL, so no traces are exported"));
        return (None, notes);
    }
    let settings = Settings {
        sampler: sampler(
            get("OTEL_TRACES_SAMPLER").as_deref(),
            get("OTEL_TRACES_SAMPLER_ARG").as_deref(),
            &mut notes,
        ),
        queue: queue(get("OTEL_BSP_MAX_QUEUE_SIZE"), &mut notes),
        named: get("OTEL_SERVICE_NAME").is_some()
            || get("OTEL_RESOURCE_ATTRIBUTES")
                .is_some_and(|all| all.split(',').any(|one| one.trim().starts_with("service.name="))),
    };
    (Some(settings), notes)
}

fn sampler(name: Option<&str>, argument: Option<&str>, notes: &mut Vec<String>) -> Sampler {
    let parents = |root| Sampler::ParentBased(Box::new(root));
    let mut ratio = || match argument.map(|text| (text, text.trim().parse::<f64>())) {
        None => 1.0,
        Some((_, Ok(ratio))) if (0.0..=1.0).contains(&ratio) => ratio,
        Some((text, _)) => {
            notes.push(format!(
                "OTEL_TRACES_SAMPLER_ARG={text} is not a number from 0 to 1; 1 is taken"
            ));
            1.0
        }
    };
    match name {
        None | Some("parentbased_always_on") => parents(Sampler::AlwaysOn),
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("parentbased_always_off") => parents(Sampler::AlwaysOff),
        Some("traceidratio") => Sampler::TraceIdRatioBased(ratio()),
        Some("parentbased_traceidratio") => parents(Sampler::TraceIdRatioBased(ratio())),
        Some(other) => {
            notes.push(format!(
                "OTEL_TRACES_SAMPLER={other} is not supported, so parentbased_always_on is taken; this host takes always_on, \
                 always_off, traceidratio, and these with parentbased_ before them"
            ));
            parents(Sampler::AlwaysOn)
        }
    }
}

fn queue(text: Option<String>, notes: &mut Vec<String>) -> usize {
    let Some(text) = text else { return QUEUE };
    match text.trim().parse() {
        Ok(length @ 1..=LONGEST_QUEUE) => length,
        _ => {
            notes.push(format!(
                "OTEL_BSP_MAX_QUEUE_SIZE={text} is not a number from 1 to {LONGEST_QUEUE}; {QUEUE} is taken"
            ));
            QUEUE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> (Option<Settings>, Vec<String>) {
        read(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

    #[test]
    fn without_an_endpoint_nothing_is_exported_and_nothing_said() {
        for variables in [
            &[] as &[_],
            &[("OTEL_SERVICE_NAME", "x")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
        ] {
            let (settings, notes) = with(variables);
            assert!(settings.is_none() && notes.is_empty(), "{notes:?}");
        }
    }

    #[test]
    fn either_endpoint_or_naming_the_exporter_begins_the_export() {
        assert!(with(&[ENDPOINT]).0.is_some());
        assert!(
            with(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector/v1/traces")])
                .0
                .is_some()
        );
        assert!(with(&[("OTEL_TRACES_EXPORTER", "otlp")]).0.is_some());
    }

    #[test]
    fn the_switches_turn_it_off_without_a_word() {
        for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            let (settings, notes) = with(&[ENDPOINT, off]);
            assert!(settings.is_none() && notes.is_empty());
        }
    }

    #[test]
    fn what_can_not_be_done_is_said_with_its_variable_and_what_can() {
        for (name, value, instead) in [
            ("OTEL_TRACES_EXPORTER", "console", "otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
        ] {
            let (settings, notes) = with(&[ENDPOINT, (name, value)]);
            assert!(settings.is_none(), "{name}");
            assert!(
                notes.len() == 1 && notes[0].contains(name) && notes[0].contains(instead),
                "{notes:?}"
            );
        }
        for (name, value) in [
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_PROPAGATORS", "b3"),
        ] {
            let (settings, notes) = with(&[ENDPOINT, (name, value)]);
            assert!(settings.is_some(), "{name}");
            assert!(notes.len() == 1 && notes[0].contains(name), "{notes:?}");
        }
    }

    #[test]
    fn an_endpoint_that_is_none_is_not_repeated() {
        let (settings, notes) = with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "user:hunter2@collector")]);
        assert!(settings.is_none());
        assert!(notes.len() == 1 && !notes[0].contains("hunter2"), "{notes:?}");
    }

    #[test]
    fn the_sampler_is_taken_with_its_argument() {
        let sampler = |name, argument| {
            let (settings, notes) = with(&[
                ENDPOINT,
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", argument),
            ]);
            (format!("{:?}", settings.unwrap().sampler), notes.len())
        };
        assert_eq!(
            sampler("traceidratio", "0.25"),
            ("TraceIdRatioBased(0.25)".to_owned(), 0)
        );
        assert_eq!(sampler("traceidratio", "2"), ("TraceIdRatioBased(1.0)".to_owned(), 1));
        assert_eq!(sampler("always_off", "0.5"), ("AlwaysOff".to_owned(), 0));
    }
}
