//! Files of expectations: what they read, refuse, and find.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_policy::{
    agent::{AgentConfig, resolve_agents},
    authority::{HostPolicy, SessionNarrowing},
    expect::{Action, Callee, Decided, Layers, Subject, Which, decide, parse},
    grant::Grant,
    manifest::Manifest,
    world::{Installed, World},
};
use proptest::prelude::*;

/// The messages of a file's faults, with their lines.
fn faults(text: &str) -> Vec<(usize, String)> {
    let errors = parse(text).unwrap_err();
    errors.into_iter().map(|error| (error.line, error.message)).collect()
}

fn subject(request: &str, grant: Option<&str>) -> Subject {
    Subject {
        request: Manifest::parse_toml(&format!("name = \"t\"\nversion = \"1\"\n{request}")).unwrap(),
        grant: grant.map(|grant| Grant::parse_toml(grant).unwrap()),
    }
}

/// What is decided about one line, about this component if there is one.
fn decided(line: &str, component: Option<&Subject>, host: &HostPolicy) -> Decided {
    let text = match component {
        Some(_) => format!("tool t\n{line}"),
        None => line.to_owned(),
    };
    let layers = Layers {
        component,
        agents: &[],
        session: &SessionNarrowing::default(),
        host,
        callee: Callee::One(&"files".parse().unwrap()),
    };
    decide(&parse(&text).unwrap()[0].action, &layers)
}

fn by(decided: Decided) -> String {
    match decided {
        Decided::Allowed { by } => format!("allowed by {by}"),
        Decided::Denied { by, .. } => format!("denied by {by}"),
    }
}

#[test]
fn context_lines_hold_until_the_next_of_their_kind() {
    let read =
        parse("tool a\nagent x\ndeny kv read\n\n# only a comment\ntool b\ndeny kv write # why\nagent -\ndeny sign K\n")
            .unwrap();
    let lines: Vec<_> = read.iter().map(|one| (one.line, &*one.text)).collect();
    assert_eq!(lines, [(3, "deny kv read"), (7, "deny kv write"), (9, "deny sign K")]);
    let tools: Vec<_> = read
        .iter()
        .map(|one| match &one.context.tool {
            Which::This(name) => name.as_str(),
            Which::Any | Which::None => "",
        })
        .collect();
    assert_eq!(tools, ["a", "b", "b"]);
    assert!(matches!(read[1].context.agent, Which::This(_)) && read[2].context.agent == Which::None);
}

#[test]
fn every_line_that_is_not_understood_is_told_with_its_fix() {
    let text = "alow http GET https://x.example/\n\
        allow htp GET https://x.example/\n\
        allow http https://x.example/\n\
        allow http get https://x.example/\n\
        deny http GET x.example\n\
        tool -\n\
        allow files write src/x\n\
        tool files_read\n\
        tool a b\n\
        tool a\n\
        allow files wirte src/x\n\
        allow files write ../x\n\
        allow secret K api.example.com\n\
        allow secret K to *.example.com\n\
        allow\n\
        session 7\n";
    let faults = faults(text);
    let expected = [
        (1, "did you mean `allow`"),
        (2, "did you mean `http`"),
        (3, "http METHOD URL"),
        (4, "in capitals"),
        (5, "must start with `https://`"),
        (7, "nothing without a tool"),
        (8, "component's name"),
        (9, "one name after `tool`"),
        (11, "did you mean `write`"),
        (12, "relative to /workspace"),
        (13, "NAME to HOST"),
        (14, "*.example.com"),
        (15, "allow or deny what"),
        (16, "ses_"),
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for ((line, message), (at, words)) in faults.iter().zip(expected) {
        assert!(*line == at && message.contains(words), "{line}: {message}: {words}");
    }
}

#[test]
fn a_url_that_is_always_refused_is_a_denial_and_no_fault() {
    for url in [
        "https://u@x.example/",
        "http://0x7f.1/",
        "https://x.example:0/",
        "https://[fe80::1%25eth0]/",
        "https://x.example/a%2F..%2Fb",
    ] {
        let read = parse(&format!("deny http GET {url}")).unwrap();
        assert!(matches!(read[0].action, Action::RefusedHttp(_)), "{url}");
        assert!(
            by(decided(&read[0].text, None, &HostPolicy::default())).starts_with("denied by host"),
            "{url}"
        );
    }
}

#[test]
fn without_a_tool_the_hosts_list_and_the_address_rules_decide() {
    let mut host = HostPolicy::default();
    host.network.deny.push("b.example.com".parse().unwrap());
    host.private_networks = toml::from_str::<toml::Table>("n = [\"10.0.0.0/8\"]").unwrap()["n"]
        .clone()
        .try_into()
        .unwrap();
    for (line, expected) in [
        (
            "allow http GET https://a.example.com/",
            "allowed by every list: none narrows it",
        ),
        (
            "allow http GET https://b.example.com/",
            "denied by host: deny b.example.com",
        ),
        (
            "allow http GET http://10.1.2.3/",
            "allowed by every list: none narrows it",
        ),
        (
            "allow http GET http://192.168.1.1/",
            "denied by host: private_networks does not list it",
        ),
        (
            "allow http GET http://[::1]/",
            "denied by host: private_networks does not list it",
        ),
        (
            "allow http GET https://8.8.8.8/",
            "allowed by every list: none narrows it",
        ),
    ] {
        assert_eq!(by(decided(line, None, &host)), expected, "{line}");
    }
}

#[test]
fn with_a_tool_every_layer_decides_and_is_named() {
    let asked = r#"
        [network]
        allow = ["https://a.example.com", "http://127.0.0.1"]
        [[credential]]
        secret = "TOKEN"
        hosts = ["a.example.com", "b.example.com"]
        inject = { query = "key" }
        [files]
        workspace = "read-write"
        [kv]
        access = "read"
        [secrets]
        sign = ["K", "L"]
        [tools]
        call = ["files_*"]
        [env]
        names = ["TZ", "LANG"]
    "#;
    let granted = r#"
        [network]
        allow = ["GET https://a.example.com", "http://127.0.0.1"]
        [[credential]]
        secret = "TOKEN"
        hosts = ["a.example.com"]
        [files]
        workspace = "read-write"
        paths = ["src"]
        [kv]
        access = "read-write"
        [secrets]
        sign = ["K"]
        [tools]
        call = ["files_read"]
        [env]
        names = ["TZ"]
    "#;
    let component = subject(asked, Some(granted));
    for (line, expected) in [
        (
            "allow http GET https://a.example.com/x",
            "allowed by grant: GET https://a.example.com",
        ),
        (
            "allow http PUT https://a.example.com/x",
            "denied by grant: no rule allows it",
        ),
        (
            "allow http GET https://b.example.com/x",
            "denied by request: no rule allows it",
        ),
        (
            "allow http GET http://127.0.0.1/",
            "denied by host: private_networks does not list it",
        ),
        ("allow files write src/x", "allowed by grant: read-write"),
        ("allow files read docs", "denied by grant: no rule allows it"),
        ("allow kv read", "allowed by grant: read"),
        ("allow kv write", "denied by request: no rule allows it"),
        (
            "allow secret TOKEN to a.example.com",
            "allowed by grant: TOKEN in the query parameter `key`",
        ),
        (
            "allow secret TOKEN to b.example.com",
            "denied by grant: no rule allows it",
        ),
        (
            "allow secret TOKEN to c.example.com",
            "denied by request: no rule allows it",
        ),
        ("allow sign K", "allowed by grant: K"),
        ("allow sign L", "denied by grant: no rule allows it"),
        ("allow sign M", "denied by request: no rule allows it"),
        ("allow call files_read", "allowed by grant: files_read"),
        ("allow call files_write", "denied by grant: no rule allows it"),
        ("allow detach", "denied by request: no rule allows it"),
        ("allow background crawl", "denied by request: no rule allows it"),
        ("allow env TZ", "allowed by grant: TZ"),
        ("allow env LANG", "denied by grant: no rule allows it"),
        ("allow env HOME", "denied by request: no rule allows it"),
    ] {
        assert_eq!(
            by(decided(line, Some(&component), &HostPolicy::default())),
            expected,
            "{line}"
        );
    }
    let waiting = subject(asked, None);
    assert_eq!(
        by(decided("allow kv read", Some(&waiting), &HostPolicy::default())),
        "denied by grant: there is none yet"
    );
}

fn installed(request: &str, grant: Option<&str>, tools: &[&str]) -> Installed {
    Installed {
        subject: subject(request, grant),
        tools: tools.iter().map(|tool| tool.parse().unwrap()).collect(),
    }
}

/// Two agents, of which `narrow` reaches one host, and these components.
fn world(components: &[(&str, Installed)]) -> World {
    let agents: std::collections::BTreeMap<_, AgentConfig> =
        toml::from_str("[assistant]\ninstructions = \"x\"\n[narrow.network]\nallow = [\"b.example.com\"]\n").unwrap();
    let mut world = World::new(HostPolicy::default(), resolve_agents(&agents).unwrap());
    for (name, component) in components {
        let mut component = component.clone();
        component.subject.request.name = name.parse().unwrap();
        world.components.insert(name.parse().unwrap(), component);
    }
    world
}

#[test]
fn an_agent_that_narrows_what_runs_in_the_background_is_asked() {
    let crawls = "[jobs]\nbackground = [\"crawl\"]\n";
    let mut world = world(&[("web", installed(crawls, Some(crawls), &["crawl"]))]);
    assert_eq!(
        in_world(&world, "tool web\nagent assistant\nallow background crawl"),
        "allowed by grant: crawl"
    );
    assert_eq!(
        in_world(&world, "tool web\nagent assistant\nallow background index"),
        "denied by request: no rule allows it"
    );
    let agents: std::collections::BTreeMap<_, AgentConfig> = toml::from_str("[quiet]\nbackground = []\n").unwrap();
    world.agents.extend(resolve_agents(&agents).unwrap());
    assert_eq!(
        in_world(&world, "tool web\nagent quiet\nallow background crawl"),
        "denied by agent quiet: no rule allows it"
    );
    let (_, message) = faults("allow background").remove(0);
    assert_eq!(message, "write `background TOOL`");
}

/// What is decided about the first line of a file.
fn in_world(world: &World, text: &str) -> String {
    let read = parse(text).unwrap();
    assert_eq!(world.unknown(&read), []);
    by(world.decide(&read[0]))
}

#[test]
fn what_no_line_names_is_any_component_with_any_agent() {
    let reaches = |host: &str| format!("[network]\nallow = [\"https://{host}\"]\n");
    let files = "[files]\nworkspace = \"read-write\"\n";
    let world = world(&[
        (
            "fetch",
            installed(&reaches("*"), Some(&reaches("a.example.com")), &["fetch"]),
        ),
        ("files", installed(files, Some(files), &["files_read"])),
        ("new", installed(files, None, &["new"])),
    ]);
    for (text, expected) in [
        (
            "allow files write src/x",
            "allowed by grant: read-write (files with the agent assistant)",
        ),
        (
            "allow http GET https://a.example.com/",
            "allowed by grant: https://a.example.com (fetch with the agent assistant)",
        ),
        (
            "agent narrow\nallow http GET https://a.example.com/",
            "denied by agent narrow: no rule allows it (fetch with the agent narrow)",
        ),
        (
            "deny http GET https://evil.test.com/",
            "denied by grant: no rule allows it (fetch with the agent assistant)",
        ),
        (
            "tool -\nagent -\nallow http GET https://evil.test.com/",
            "allowed by every list: none narrows it",
        ),
        (
            "tool new\nagent -\nallow files read x",
            "denied by grant: there is none yet",
        ),
        (
            "tool files\nallow kv read",
            "denied by request: no rule allows it (files with the agent assistant)",
        ),
    ] {
        assert_eq!(in_world(&world, text), expected, "{text}");
    }
}

#[test]
fn a_name_of_this_machine_is_its_loopback_addresses() {
    let anywhere = "[network]\nallow = [\"http://localhost:*\", \"http://*.localhost:*\"]\n";
    let mut world = world(&[("fetch", installed(anywhere, Some(anywhere), &["fetch"]))]);
    for host in ["localhost", "LOCALHOST.", "x.localhost"] {
        let text = format!("agent -\ndeny http GET http://{host}:8080/");
        assert_eq!(
            in_world(&world, &text),
            "denied by host: private_networks does not list it"
        );
    }
    world.host.private_networks = toml::from_str::<toml::Table>("n = [\"127.0.0.0/8\", \"::1/128\"]").unwrap()["n"]
        .clone()
        .try_into()
        .unwrap();
    let text = "agent -\nallow http GET http://localhost:8080/";
    assert_eq!(in_world(&world, text), "allowed by grant: http://localhost:*");
}

#[test]
fn a_tool_that_waits_or_that_two_components_offer_is_called_by_nobody() {
    let calls = "[tools]\ncall = [\"*\"]\n";
    let mut world = world(&[
        ("caller", installed(calls, Some(calls), &["caller"])),
        ("one", installed("", Some(""), &["shared", "own"])),
        ("two", installed("", Some(""), &["shared"])),
        ("new", installed("", None, &["waits", "own"])),
        ("files", installed("", Some(""), &["files_read"])),
        ("stranger", installed("", Some(""), &["files"])),
    ]);
    for (tool, expected) in [
        ("own", "allowed by grant: own"),
        ("shared", "denied by host: several components offer the tool"),
        ("waits", "denied by host: the tool's component has no grant yet"),
        ("missing", "denied by host: there is no such tool"),
        ("files", "denied by host: there is no such tool"),
    ] {
        let text = format!("tool caller\nagent -\nallow call {tool}");
        assert_eq!(in_world(&world, &text), expected, "{tool}");
    }
    world.components.clear();
    assert_eq!(
        in_world(&world, "allow kv read"),
        "denied by host: nothing is installed"
    );
}

#[test]
fn a_file_that_expects_nothing_is_not_understood() {
    for text in ["", "# only a comment\n", "tool a\nagent b\n"] {
        assert!(faults(text)[0].1.contains("expects nothing"), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(allow|deny|tool|http|#|-| |\n|GET|https://|a|[/:.@\\[\\]%*\u{3002}\u{0}])*") {
        if let Ok(read) = parse(&text) {
            prop_assert!(read.len() <= text.lines().count());
        }
    }
}
