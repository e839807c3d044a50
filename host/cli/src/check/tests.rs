//! Every lint: what it is found in, and what is so near to that that only a good lint keeps still.

use super::{Carried, Facts, Level, Lint, findings, table};
use fumehood_core::{
    digest::Digest,
    tool::{Effect, ToolDefinition},
};
use fumehood_policy::{
    limits::{Limits, LimitsRequest},
    manifest::Manifest,
    quantity::ByteSize,
};
use fumehood_sandbox::{Anatomy, ComponentKind, LeftOut, Start};
use serde_json::{Value, json};
use std::{collections::HashSet, time::Duration};

const MANIFEST: &str = r#"
name = "tides"
version = "0.1.0"
description = "Tide tables of harbours."
[network]
allow = ["GET https://api.example.com/v1/"]
[files]
workspace = "read"
"#;

fn tool(name: &str, description: &str) -> ToolDefinition {
    ToolDefinition {
        name: name.parse().unwrap(),
        title: None,
        description: description.to_owned(),
        input_schema: json!({
            "type": "object", "additionalProperties": false, "required": ["harbour"],
            "properties": {"harbour": {"type": "string", "description": "The harbour's name, such as `Bergen`."}},
        }),
        output_schema: None,
        effect: Effect::Pure,
        read_only: true,
        destructive: false,
        open_world: true,
    }
}

/// A component of which there is nothing to say.
fn good() -> Facts {
    let import = |name: &str| format!("{name}@0.2.0");
    Facts {
        digest: Digest::of(b"tides"),
        kind: ComponentKind::FumehoodTool,
        manifest: Manifest::parse_toml(MANIFEST).unwrap(),
        carried: Carried::Same,
        tools: vec![
            tool("tide_table", "Lists high and low water of a harbour for a day."),
            tool("tide_now", "Says how high the water of a harbour is now."),
        ],
        left_out: Vec::new(),
        anatomy: Anatomy {
            imports: [
                "wasi:http/outgoing-handler",
                "wasi:filesystem/types",
                "wasi:cli/environment",
                "wasi:clocks/wall-clock",
            ]
            .map(import)
            .to_vec(),
            exports: vec!["fumehood:tool/tools@0.1.0".to_owned()],
            sections: [("fumehood:manifest".to_owned(), 200), ("name".to_owned(), 1024)].into(),
        },
        size: 16 << 20,
        largest: 64 << 20,
        start: Start {
            instance: Duration::from_millis(500),
            cpu: Duration::from_millis(100),
            memory: 32 << 20,
        },
        defaults: Limits::default(),
        ceilings: Limits::default_ceilings(),
        newer: None,
    }
}

fn found(change: impl FnOnce(&mut Facts)) -> Vec<Lint> {
    let mut facts = good();
    change(&mut facts);
    let mut lints: Vec<Lint> = findings(&facts).iter().map(|finding| finding.lint).collect();
    lints.dedup();
    lints
}

/// With one text of the manifest in the place of another.
fn asks(from: &str, to: &str) -> impl FnOnce(&mut Facts) {
    assert!(MANIFEST.contains(from), "{from}");
    let manifest = Manifest::parse_toml(&MANIFEST.replacen(from, to, 1)).unwrap();
    move |facts| facts.manifest = manifest
}

fn rule(rule: &str) -> impl FnOnce(&mut Facts) {
    asks("GET https://api.example.com/v1/", rule)
}

/// With another schema of the first tool's one parameter.
fn parameter(schema: Value) -> impl FnOnce(&mut Facts) {
    move |facts| facts.tools[0].input_schema["properties"]["harbour"] = schema
}

/// With other arguments of the first tool: more than the type and the harbour, which it has already.
fn arguments(more: Value) -> impl FnOnce(&mut Facts) {
    move |facts| {
        let mut schema = json!({
            "type": "object",
            "properties": {"harbour": {"type": "string", "description": "The harbour's name."}},
        });
        let fields = schema.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        facts.tools[0].input_schema = schema;
    }
}

fn imports(name: &str) -> impl FnOnce(&mut Facts) {
    let name = name.to_owned();
    move |facts| facts.anatomy.imports.push(name)
}

type Change = Box<dyn FnOnce(&mut Facts)>;

fn case(lint: Lint, change: impl FnOnce(&mut Facts) + 'static) -> (Lint, Change) {
    (lint, Box::new(change))
}

/// What each lint is found in.
fn bad() -> Vec<(Lint, Change)> {
    let mut cases = bad_definitions();
    cases.extend(bad_branches());
    cases.extend(bad_requests());
    cases.extend(bad_costs());
    cases
}

fn bad_definitions() -> Vec<(Lint, Change)> {
    let described = |text: &str| {
        let text = text.to_owned();
        move |facts: &mut Facts| facts.tools[0].description = text
    };
    vec![
        case(Lint::EffectContradicted, |facts| facts.tools[0].destructive = true),
        case(Lint::EffectContradicted, |facts| {
            facts.tools[0].destructive = true;
            facts.tools[0].read_only = false;
            facts.tools[0].open_world = false;
        }),
        case(
            Lint::DescriptionRepeated,
            described("says  how high the water of a harbour is\nNOW."),
        ),
        case(Lint::DescriptionShort, described("Tide table.")),
        case(Lint::DescriptionShort, |facts| {
            facts.tools[0].title = Some("The table of tides".to_owned());
            facts.tools[0].description = "The table of tides.".to_owned();
        }),
        case(Lint::DescriptionShort, described("潮汐。")),
        case(Lint::DescriptionLong, described(&"long words ".repeat(182))),
        case(Lint::NameVague, |facts| facts.tools[0].name = "get".parse().unwrap()),
        case(Lint::ParameterImpossible, |facts| {
            facts.tools[0].input_schema["required"] = json!(["harbour", "harbor"]);
        }),
        case(Lint::ParameterUndescribed, parameter(json!({"type": "string"}))),
        case(
            Lint::ParameterUndescribed,
            parameter(json!({"type": "string", "description": " "})),
        ),
        case(Lint::SchemaUntyped, parameter(json!({"description": "The harbour."}))),
        case(Lint::SchemaUntyped, parameter(json!(true))),
        case(Lint::SchemaOpen, |facts| {
            facts.tools[0]
                .input_schema
                .as_object_mut()
                .unwrap()
                .remove("additionalProperties");
        }),
        case(
            Lint::SchemaOpen,
            parameter(
                json!({"description": "Where.", "anyOf": [{"type": "object", "properties": {"a": {"type": "integer"}}}]}),
            ),
        ),
        case(
            Lint::SchemaUnbounded,
            parameter(json!({"description": "Harbours.", "type": "array", "items": {"type": "string"}})),
        ),
        case(Lint::SchemaUnbounded, |facts| {
            facts.tools[0].read_only = false;
            facts.tools[0].effect = Effect::AtMostOnce;
        }),
        case(
            Lint::EnumInWords,
            parameter(json!({"type": "string", "description": "`high`, `low` or `both`."})),
        ),
        case(
            Lint::EnumInWords,
            parameter(json!({"type": "string", "description": "One of `high-water` and `low-water`."})),
        ),
        case(Lint::FunctionsLeftOut, |facts| {
            facts.left_out = vec![LeftOut {
                function: "[constructor]harbour".to_owned(),
                why: "it uses a resource".to_owned(),
            }];
        }),
        case(Lint::FunctionsUndescribed, |facts| {
            facts.kind = ComponentKind::PlainFunctions;
            facts.tools[0].description = format!("{}it.", fumehood_sandbox::SIGNATURE_ONLY);
            facts.tools[0].input_schema["properties"]["harbour"] = json!({"type": "string"});
        }),
    ]
}

/// Schemas that are part of others.
fn bad_branches() -> Vec<(Lint, Change)> {
    let day = json!({"properties": {"day": {"type": "string", "description": "The day."}}});
    vec![
        case(
            Lint::ParameterImpossible,
            arguments(json!({"additionalProperties": false, "allOf": [day], "required": ["day"]})),
        ),
        case(Lint::SchemaOpen, arguments(json!({"properties": {}, "allOf": [day]}))),
        case(
            Lint::SchemaOpen,
            arguments(json!({
                "unevaluatedProperties": false,
                "allOf": [{"properties": day["properties"], "additionalProperties": true}],
            })),
        ),
        case(
            Lint::SchemaOpen,
            arguments(json!({
                "additionalProperties": false,
                "properties": {"at": {"description": "When.", "type": "object", "properties": {"day": {"type": "string"}}}},
            })),
        ),
        case(
            Lint::SchemaOpen,
            arguments(json!({
                "additionalProperties": false,
                "properties": {"at": {"description": "When.", "$ref": "#/$defs/at"}},
                "$defs": {"at": day},
            })),
        ),
        // Another branch takes them.
        case(
            Lint::SchemaOpen,
            arguments(json!({
                "properties": day["properties"],
                "oneOf": [{"additionalProperties": false, "properties": day["properties"]}, {"required": ["day"]}],
            })),
        ),
        case(
            Lint::ParameterUndescribed,
            arguments(json!({
                "unevaluatedProperties": false,
                "oneOf": [{"properties": {"day": {"type": "string"}}}, {"properties": {"harbour": {"const": "Bergen"}}}],
            })),
        ),
        case(
            Lint::SchemaUntyped,
            arguments(json!({
                "unevaluatedProperties": false,
                "oneOf": [{"properties": {"day": {"description": "The day."}}}],
            })),
        ),
    ]
}

fn bad_requests() -> Vec<(Lint, Change)> {
    vec![
        case(Lint::ManifestMissing, |facts| facts.carried = Carried::NoneAtAll),
        case(Lint::ManifestDiffers, |facts| facts.carried = Carried::Other),
        case(Lint::ManifestDiffers, |facts| facts.carried = Carried::None),
        case(Lint::ManifestUndescribed, |facts| facts.manifest.description.clear()),
        case(Lint::ComponentStale, |facts| facts.newer = Some("src/lib.rs".into())),
        case(
            Lint::RequestWithoutEffect,
            asks("[files]", "deny = [\"api.example.com\"]\n[files]"),
        ),
        case(
            Lint::RequestWithoutEffect,
            asks("[files]", "[limits]\ncpu = \"50h\"\n[files]"),
        ),
        case(Lint::CapabilityUndeclared, imports("wasi:keyvalue/store@0.2.0-draft")),
        case(Lint::CapabilityUndeclared, imports("fumehood:tool/peers@0.1.0")),
        case(Lint::CapabilityUndeclared, imports("fumehood:tool/jobs@0.1.0")),
        case(Lint::CapabilityUndeclared, |facts| facts.manifest.network.allow = None),
        case(Lint::CapabilityUnused, |facts| {
            facts.anatomy.imports.retain(|import| !import.starts_with("wasi:http"));
        }),
        case(Lint::CapabilityUnused, |facts| {
            facts
                .anatomy
                .imports
                .retain(|import| !import.starts_with("wasi:filesystem"));
        }),
        case(
            Lint::CapabilityUnused,
            asks("[files]", "[secrets]\nsign = [\"KEY\"]\n[files]"),
        ),
        case(
            Lint::CapabilityUnused,
            asks("[files]", "[kv]\naccess = \"read\"\n[files]"),
        ),
        case(Lint::OpenWorldUnsaid, |facts| {
            for tool in &mut facts.tools {
                tool.open_world = false;
            }
        }),
        case(
            Lint::WritesUnsaid,
            asks("\"read\"", "\"read-write\"\npaths = [\"tides/\"]"),
        ),
        case(Lint::FilesAll, |facts| {
            facts.manifest.files.access = fumehood_policy::files::Access::ReadWrite;
            facts.tools[0].read_only = false;
            facts.tools[0].open_world = false;
        }),
        case(Lint::NetworkAnyHost, rule("GET *")),
        case(Lint::NetworkAnyHost, rule("GET https://*.com")),
        case(Lint::NetworkAnyMethod, rule("https://api.example.com")),
        case(Lint::NetworkAnyPort, rule("GET https://api.example.com:*")),
        case(Lint::NetworkPlainHttp, rule("GET http://api.example.com")),
        case(Lint::NetworkPrivate, rule("GET https://10.0.0.8")),
        case(Lint::NetworkPrivate, rule("GET https://tides.internal")),
        case(Lint::ToolsAny, |facts| {
            facts.anatomy.imports.push("fumehood:tool/peers@0.1.0".to_owned());
            asks("[files]", "[tools]\ncall = [\"*\"]\n[files]")(facts);
        }),
        case(Lint::SocketsRefused, imports("wasi:sockets/tcp@0.2.0")),
    ]
}

fn bad_costs() -> Vec<(Lint, Change)> {
    vec![
        case(Lint::MemoryTooSmall, |facts| facts.start.memory = (64 << 20) + 1),
        case(
            Lint::MemoryTooSmall,
            asks("[files]", "[limits]\nmemory = \"31MiB\"\n[files]"),
        ),
        case(Lint::MemoryTooSmall, |facts| {
            facts.defaults.memory = ByteSize::mib(31);
        }),
        case(Lint::StartMemory, |facts| facts.start.memory = (32 << 20) + 1),
        case(Lint::StartMemory, |facts| {
            facts.defaults.memory = ByteSize::mib(63);
        }),
        case(Lint::StartSlow, |facts| facts.start.cpu = Duration::from_millis(101)),
        case(Lint::SizeLarge, |facts| facts.size += 1),
        case(Lint::DebugSections, |facts| {
            facts.anatomy.sections.insert(".debug_info".to_owned(), 1);
        }),
        case(Lint::NameSections, |facts| {
            facts.anatomy.sections.insert("component-name".to_owned(), 1);
        }),
        case(Lint::ContractNewer, |facts| {
            facts.anatomy.exports = vec!["fumehood:tool/tools@0.1.3".to_owned()];
        }),
    ]
}

#[test]
fn of_a_good_component_there_is_nothing_to_say() {
    assert_eq!(findings(&good()), []);
}

#[test]
fn each_lint_is_found_alone_where_it_is_due() {
    let wrong: Vec<(usize, Lint, Vec<Lint>)> = bad()
        .into_iter()
        .enumerate()
        .map(|(index, (lint, change))| (index, lint, found(change)))
        .filter(|(_, lint, found)| found != &[*lint])
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_lint_is_without_a_case() {
    let tested: HashSet<Lint> = bad().into_iter().map(|(lint, _)| lint).collect();
    let untested: Vec<&Lint> = Lint::ALL.iter().filter(|lint| !tested.contains(lint)).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

#[test]
fn what_is_nearly_a_lint_is_none() {
    let mut cases = nearly_bad_branches();
    cases.extend(nearly_bad());
    let wrong: Vec<(usize, Vec<Lint>)> = cases
        .into_iter()
        .enumerate()
        .map(|(index, change)| (index, found(change)))
        .filter(|(_, found)| !found.is_empty())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Schemas that are part of others.
fn nearly_bad_branches() -> Vec<Change> {
    let day = json!({"properties": {"day": {"type": "string", "description": "The day."}}});
    let closed = json!({"properties": day["properties"], "additionalProperties": false});
    let kind = |kind: &str| json!({"properties": {"kind": {"const": kind}, "note": true}, "required": ["kind"]});
    let referred = json!({
        "unevaluatedProperties": false, "allOf": [{"$ref": "#/$defs/day"}], "required": ["day"], "$defs": {"day": day},
    });
    let of_kinds = json!({
        "additionalProperties": false,
        "properties": {
            "kind": {"type": "string", "description": "Which tide."},
            "note": {"type": "string", "description": "Why."},
        },
        "oneOf": [kind("high"), {"allOf": [kind("low")]}],
    });
    vec![
        Box::new(arguments(referred)),
        Box::new(arguments(of_kinds)),
        Box::new(arguments(json!({
            "properties": {}, "unevaluatedProperties": false, "allOf": [day, {"properties": {"n": {"type": "integer", "description": "How many."}}}],
        }))),
        Box::new(arguments(json!({
            "unevaluatedProperties": false, "allOf": [{"allOf": [day]}],
        }))),
        // Each branch closes itself, and so what they are branches of: here the arguments, and one property of them.
        Box::new(arguments(json!({
            "properties": day["properties"],
            "oneOf": [closed, {"allOf": [closed]}, {"$ref": "#/$defs/closed"}],
            "$defs": {"closed": closed},
        }))),
        Box::new(arguments(json!({
            "additionalProperties": false,
            "properties": {"at": {
                "type": "object", "description": "When.", "properties": day["properties"], "oneOf": [closed, closed],
            }},
        }))),
    ]
}

fn nearly_bad() -> Vec<Change> {
    vec![
        Box::new(|facts| facts.tools[0].name = "get_tide".parse().unwrap()),
        Box::new(|facts| facts.tools[0].description = "Lists tide tables.".to_owned()),
        Box::new(|facts| facts.tools[0].description = "列出港口的潮汐时间。".to_owned()),
        Box::new(|facts| facts.tools[0].description = "港の潮汐表を返す。".to_owned()),
        Box::new(|facts| facts.tools[0].description = "แสดงตารางน้ำขึ้นน้ำลง".to_owned()),
        Box::new(|facts| facts.tools[0].description = "a".repeat(1990) + " long one."),
        Box::new(|facts| {
            facts.tools[0].destructive = true;
            facts.tools[0].read_only = false;
            facts.tools[0].open_world = false;
            facts.tools[0].effect = Effect::Idempotent;
        }),
        Box::new(parameter(json!({"$ref": "#/$defs/harbour"}))),
        Box::new(parameter(
            json!({"enum": ["Bergen"], "description": "`Bergen` or `Oslo`."}),
        )),
        Box::new(parameter(
            json!({"type": "string", "description": "A path such as `a/b`, or `.`."}),
        )),
        Box::new(parameter(
            json!({"type": "string", "description": "Matched with the path below `path`."}),
        )),
        Box::new(parameter(
            json!({"description": "Harbours.", "type": "array", "maxItems": 9, "items": {"type": "string"}}),
        )),
        Box::new(parameter(
            json!({"description": "Headers.", "type": "object", "additionalProperties": {"type": "string"}}),
        )),
        Box::new(|facts| {
            facts.tools[0].input_schema["required"] = json!(["harbour", "x-1"]);
            facts.tools[0].input_schema["patternProperties"] = json!({"^x-": {"type": "string"}});
        }),
        Box::new(|facts| facts.tools[1].open_world = false),
        Box::new(rule("GET https://*.example.com")),
        Box::new(rule("GET https://93.184.215.14")),
        Box::new(rule("GET https://api.example.com:8443")),
        Box::new(rule("GET,POST https://api.example.com")),
        Box::new(imports("fumehood:tool/secrets@0.1.0")),
        Box::new(imports("fumehood:tool/progress@0.1.0")),
        Box::new(asks("[files]\nworkspace = \"read\"", "")),
        Box::new(|facts| {
            facts.anatomy.imports.push("fumehood:tool/peers@0.1.0".to_owned());
            asks("[files]", "[tools]\ncall = [\"files_*\"]\n[files]")(facts);
        }),
        Box::new(|facts| facts.start.instance = Duration::from_secs(9)),
        Box::new(|facts| {
            facts.defaults.memory = ByteSize::mib(128);
            facts.start.memory = 64 << 20;
        }),
        Box::new(asks("[files]", "[limits]\nmemory = \"64MiB\"\n[files]")),
        Box::new(|facts| {
            facts.anatomy.sections.insert("producers".to_owned(), 9000);
        }),
    ]
}

#[test]
fn a_place_in_the_manifest_is_told_by_its_line() {
    let mut facts = good();
    rule("GET http://api.example.com")(&mut facts);
    let found = findings(&facts);
    let place = fumehood_policy::lint::Finding {
        place: found[0].place.clone(),
        message: String::new(),
    };
    assert_eq!(place.line_in(MANIFEST), Some(6));
}

#[test]
fn errors_come_before_warnings_and_those_before_notes() {
    let mut facts = good();
    facts.anatomy.imports.push("wasi:sockets/tcp@0.2.0".to_owned());
    facts.size += 1;
    facts.tools[1].destructive = true;
    let found: Vec<Lint> = findings(&facts).iter().map(|finding| finding.lint).collect();
    assert_eq!(found, [Lint::EffectContradicted, Lint::SizeLarge, Lint::SocketsRefused]);
}

#[test]
fn imports_stand_beside_what_is_asked_for_and_last_what_needs_no_grant() {
    let rows = table(&good());
    let shown: Vec<(Option<&str>, usize, Option<&str>)> = rows
        .iter()
        .map(|row| (row.capability, row.imports.len(), row.asks_for.as_deref()))
        .collect();
    assert_eq!(
        shown,
        [
            (Some("network"), 1, Some("GET https://api.example.com/v1")),
            (Some("files"), 1, Some("read")),
            (Some("environment"), 1, None),
            (None, 1, None),
        ]
    );
}

#[test]
fn ids_are_words_with_hyphens_and_each_stands_for_one_lint() {
    let ids: HashSet<&str> = Lint::ALL.iter().map(|lint| lint.id()).collect();
    assert_eq!(ids.len(), Lint::ALL.len());
    for id in ids {
        assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{id}");
        assert_eq!(id.parse::<Lint>().unwrap().id(), id);
    }
    let unknown = "network-any-hots".parse::<Lint>().unwrap_err();
    assert!(unknown.contains("did you mean `network-any-host`?"), "{unknown}");
}

fn level(lint: Lint) -> &'static str {
    match lint.level() {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    }
}

#[test]
fn the_page_about_checking_has_the_lints_as_they_are() {
    let page = include_str!("../../../../docs/tool-authors/checking.md");
    let rows: Vec<String> = Lint::ALL
        .iter()
        .map(|lint| format!("| `{}` | {} | {} |", lint.id(), level(*lint), lint.about()))
        .collect();
    let (_, table) = page.split_once("## Every lint").unwrap();
    let listed: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(listed, rows, "write the table anew:\n{}", rows.join("\n"));
}

#[test]
fn the_memory_of_a_call_is_what_it_asks_for_within_the_ceiling() {
    let unasked = LimitsRequest::default();
    let call = Limits::effective(&Limits::default(), &unasked, &unasked, &Limits::default_ceilings());
    assert_eq!(call.memory.bytes(), 64 << 20, "what the cases above stand on");
}
