//! The effective authority of a call, and agents' chains.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::name::{AgentName, ComponentName, ToolName};
use fumehood_policy::{
    agent::{AgentConfig, AgentConfigError, AgentSpec, TURN_BUDGET, offers, resolve_agents},
    authority::{Authority, HostPolicy, SessionNarrowing},
    files::{Access, Files},
    grant::Grant,
    manifest::Manifest,
    network::{Layer, NetworkList, Target, Verdict},
    quantity::ByteSize,
    tool_pattern::ToolPattern,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn manifest(body: &str) -> Manifest {
    Manifest::parse_toml(&format!("name = \"t\"\nversion = \"1\"\n{body}")).unwrap()
}

fn compute(request: &str, grant: &str, agents: &[AgentSpec], session: &str, host: &HostPolicy) -> Authority {
    Authority::compute(
        &manifest(request),
        &Grant::parse_toml(grant).unwrap(),
        agents,
        &toml::from_str::<SessionNarrowing>(session).unwrap(),
        host,
    )
}

fn between(request: &str, grant: &str) -> Authority {
    compute(request, grant, &[], "", &HostPolicy::default())
}

fn agents(toml: &str) -> Result<BTreeMap<AgentName, Vec<AgentSpec>>, AgentConfigError> {
    resolve_agents(&toml::from_str::<BTreeMap<AgentName, AgentConfig>>(toml).unwrap())
}

fn chain(toml: &str, name: &str) -> Vec<AgentSpec> {
    agents(toml).unwrap()[name].clone()
}

fn verdict(authority: &Authority, url: &str) -> Verdict {
    authority.network.decide(&Target::parse("GET", url).unwrap())
}

fn is_allowed(authority: &Authority, url: &str) -> bool {
    matches!(verdict(authority, url), Verdict::Allowed { .. })
}

fn component(name: &str) -> ComponentName {
    name.parse().unwrap()
}

fn tool(name: &str) -> ToolName {
    name.parse().unwrap()
}

const ALL: &str = r#"
    [network]
    allow = ["https://a.example", "https://b.example"]
    [[credential]]
    secret = "KEY"
    hosts = ["a.example", "*.b.example"]
    inject = { query = "key" }
    [files]
    workspace = "read-write"
    [kv]
    access = "read-write"
    [secrets]
    sign = ["X", "Y"]
    [tools]
    call = ["files_*"]
    [jobs]
    detach = true
    [env]
    names = ["TZ", "LANG"]
    [rate]
    calls = "60/min"
"#;

#[test]
fn what_only_one_side_names_is_not_allowed() {
    for authority in [between(ALL, ""), between("", ALL)] {
        assert!(authority.network.is_closed());
        assert!(authority.credentials.is_empty());
        assert_eq!(authority.files, Files::none());
        assert_eq!(authority.kv, Access::None);
        assert!(authority.sign.is_empty());
        assert!(authority.may_detach().is_err());
        assert!(authority.env.is_empty());
        assert!(!authority.call_tools.allows(&component("files"), &tool("files_read")));
    }
}

#[test]
fn what_both_sides_name_is_allowed() {
    let authority = between(ALL, ALL);
    assert!(is_allowed(&authority, "https://a.example/"));
    assert_eq!(authority.credentials.len(), 1);
    assert!(authority.files.may_write("x"));
    assert_eq!(authority.kv, Access::ReadWrite);
    assert_eq!(authority.sign.len(), 2);
    assert_eq!(authority.env.len(), 2);
    assert!(authority.may_detach().is_ok());
    assert!(authority.call_tools.allows(&component("files"), &tool("files_read")));
}

#[test]
fn agents_and_the_session_narrow_what_runs_in_the_background() {
    let asked = "[jobs]\nbackground = [\"crawl_*\", \"index\"]\n";
    let runs = |agents: &[AgentSpec], session: &str, name: &str| {
        let authority = compute(asked, asked, agents, session, &HostPolicy::default());
        let may = authority.may_run_in_background(&component("t"), &tool(name));
        assert_eq!(may.is_ok(), authority.background.allows(&component("t"), &tool(name)));
        may.map_err(|refusal| (refusal.layer.to_string(), refusal.message))
    };
    assert!(runs(&[], "", "index").is_ok() && runs(&[], "", "crawl_all").is_ok());
    assert_eq!(runs(&[], "", "other").unwrap_err().0, "request");
    let agents = "[root]\nbackground = [\"crawl_*\"]\n[leaf]\nextends = \"root\"\nbackground = [\"t\"]\n";
    let narrow = chain(agents, "leaf");
    assert!(runs(&narrow, "", "crawl_all").is_ok());
    let (layer, message) = runs(&narrow, "", "index").unwrap_err();
    assert_eq!(layer, "agent root", "each agent of the chain is asked");
    assert!(
        message.contains("add `index` to `background` under `[agent.root]`"),
        "{message}"
    );
    assert_eq!(
        runs(&narrow, "background = [\"index\"]", "crawl_all").unwrap_err().0,
        "session"
    );
    assert_eq!(runs(&[], "background = []", "index").unwrap_err().0, "session");
    assert!(
        compute(asked, asked, &[], "background = []", &HostPolicy::default())
            .background
            .is_closed()
    );
}

#[test]
fn a_grant_narrows_each_capability() {
    let authority = between(
        ALL,
        r#"
        [network]
        allow = ["https://a.example/v1"]
        [[credential]]
        secret = "KEY"
        hosts = ["x.b.example", "c.example"]
        [files]
        workspace = "read"
        paths = ["docs"]
        [kv]
        access = "read"
        [secrets]
        sign = ["Y", "Z"]
        [tools]
        call = ["files_read"]
        [env]
        names = ["TZ"]
        [rate]
        calls = "10/min"
        "#,
    );
    assert!(is_allowed(&authority, "https://a.example/v1/x"));
    assert!(!is_allowed(&authority, "https://a.example/"));
    assert!(!is_allowed(&authority, "https://b.example/"));
    let hosts: Vec<String> = authority.credentials[0].hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["x.b.example"]);
    assert!(authority.files.may_read("docs/x") && !authority.files.may_write("docs/x"));
    assert!(!authority.files.may_read("docsecret") && !authority.files.may_read("src/x"));
    assert_eq!(authority.kv, Access::Read);
    assert_eq!(authority.sign, ["Y".parse().unwrap()]);
    assert!(!authority.call_tools.allows(&component("files"), &tool("files_write")));
    assert_eq!(authority.env.len(), 1);
    assert_eq!(authority.rate.unwrap().to_string(), "10/min");
}

#[test]
fn a_credential_granted_for_another_place_or_only_other_hosts_is_none() {
    for grant in [
        "[[credential]]\nsecret = \"KEY\"\nhosts = [\"c.example\"]",
        "[[credential]]\nsecret = \"KEY\"\ninject = { query = \"other\" }",
        "[[credential]]\nsecret = \"OTHER\"",
    ] {
        assert!(between(ALL, grant).credentials.is_empty(), "{grant}");
    }
    assert_eq!(
        between(ALL, "[[credential]]\nsecret = \"KEY\"").credentials[0]
            .hosts
            .len(),
        2
    );
    assert!(Grant::parse_toml("[[credential]]\nsecret = \"KEY\"\nhosts = [\"*\"]").is_err());
}

#[test]
fn a_session_narrows_network_and_files_and_cannot_widen_them() {
    let session = "files = \"read\"\n[network]\nallow = [\"https://b.example\", \"https://c.example\"]";
    let authority = compute(ALL, ALL, &[], session, &HostPolicy::default());
    assert!(!is_allowed(&authority, "https://a.example/"));
    assert!(is_allowed(&authority, "https://b.example/"));
    assert!(!is_allowed(&authority, "https://c.example/"));
    assert_eq!(authority.files.access, Access::Read);
    let wide = compute("", "", &[], "files = \"read-write\"", &HostPolicy::default());
    assert_eq!(wide.files, Files::none());
    assert!(toml::from_str::<SessionNarrowing>("secrets = []").is_err());
}

#[test]
fn every_agent_of_the_chain_narrows() {
    let toml = r#"
        [base.network]
        allow = ["https://a.example", "https://b.example"]
        [leaf]
        extends = "base"
        tools = ["t", "files_read"]
        network = { allow = ["https://b.example", "https://c.example"] }
    "#;
    let leaf = chain(toml, "leaf");
    let authority = compute(ALL, ALL, &leaf, "", &HostPolicy::default());
    assert!(is_allowed(&authority, "https://b.example/"));
    let Verdict::Denied(denial) = verdict(&authority, "https://a.example/") else {
        panic!("allowed");
    };
    assert_eq!(denial.layer, Layer::Agent("leaf".parse().unwrap()));
    // What the model may not call, no tool calls for it.
    assert!(authority.call_tools.allows(&component("files"), &tool("files_read")));
    assert!(!authority.call_tools.allows(&component("files"), &tool("files_write")));
}

#[test]
fn the_host_wide_list_narrows_and_its_default_star_does_not() {
    let http = "[network]\nallow = [\"http://127.0.0.1:9000\", \"https://a.example:8443\"]";
    let host = |allow: &[&str], deny: &[&str]| HostPolicy {
        network: NetworkList {
            allow: Some(allow.iter().map(|rule| rule.parse().unwrap()).collect()),
            deny: deny.iter().map(|rule| rule.parse().unwrap()).collect(),
        },
        ..HostPolicy::default()
    };
    let open = compute(http, http, &[], "", &host(&["*"], &[]));
    assert!(is_allowed(&open, "http://127.0.0.1:9000/") && is_allowed(&open, "https://a.example:8443/"));
    let denying = compute(http, http, &[], "", &host(&["*"], &["a.example"]));
    assert!(!is_allowed(&denying, "https://a.example:8443/"));
    let narrow = compute(http, http, &[], "", &host(&["https://*"], &[]));
    assert!(!is_allowed(&narrow, "http://127.0.0.1:9000/"));
    let closed = compute(http, http, &[], "", &host(&[], &[]));
    assert!(!is_allowed(&closed, "https://a.example:8443/"));
}

#[test]
fn the_authority_can_be_recorded() {
    let json = serde_json::to_value(between(ALL, ALL)).unwrap();
    assert_eq!(json["files"]["workspace"], "read-write");
    assert_eq!(json["network"]["layers"][1][0], "grant");
    assert_eq!(json["limits"]["memory"], "64MiB");
}

#[test]
fn a_chain_folds_from_root_to_leaf() {
    let toml = r#"
        [root]
        model = "big"
        instructions = "Be kind."
        budget = { tokens = 1000, time = "10m" }
        [mid]
        extends = "root"
        [leaf]
        extends = "mid"
        instructions = "Be brief."
        budget = { time = "30s", steps = 5 }
        [alone]
    "#;
    let leaf = chain(toml, "leaf");
    let names: Vec<&str> = leaf.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["root", "mid", "leaf"]);
    assert_eq!(leaf[2].model.as_str(), "big");
    assert_eq!(leaf[2].instructions, "Be kind.\n\nBe brief.");
    assert_eq!(leaf[2].budget.tokens, Some(1000));
    assert_eq!(leaf[2].budget.time_ms, Some(30_000));
    assert_eq!(leaf[2].budget.steps, Some(5));
    assert_eq!(leaf[2].budget.tool_calls, TURN_BUDGET.tool_calls, "which nobody sets");
    assert_eq!(leaf[1].instructions, "Be kind.");
    assert_eq!(chain(toml, "alone")[0].model.as_str(), "main");
}

#[test]
fn a_tool_is_offered_if_every_agent_that_lists_tools_lists_it() {
    let toml = r#"
        [base]
        tools = ["files", "http_*"]
        [mid]
        extends = "base"
        [leaf]
        extends = "mid"
        tools = ["files_read", "http", "clock"]
        [none]
        tools = []
        [open]
    "#;
    let offered = |agent: &str, c: &str, t: &str| offers(&chain(toml, agent), &component(c), &tool(t));
    assert!(offered("leaf", "files", "files_read"));
    assert!(offered("leaf", "http", "http_get"));
    assert!(!offered("leaf", "files", "files_write"));
    assert!(!offered("leaf", "clock", "now"));
    assert!(!offered("none", "files", "files_read"));
    assert!(offered("open", "files", "files_read"));
}

#[test]
fn a_circle_or_an_unknown_parent_is_refused_in_words() {
    let message = |toml: &str| agents(toml).unwrap_err().to_string();
    assert_eq!(
        message("[a]\nextends = \"b\"\n[b]\nextends = \"c\"\n[c]\nextends = \"b\""),
        "[agent.b] extends itself in a circle: b → c → b; take `extends` out of one of them"
    );
    assert!(message("[a]\nextends = \"a\"").contains("a → a"));
    assert_eq!(
        message("[a]\nextends = \"base\""),
        "[agent.a] extends `base`, which is not configured; add `[agent.base]` or correct `extends`"
    );
}

#[test]
fn the_size_of_results_is_the_nearest_in_the_chain_and_within_bounds() {
    let toml = "[base]\ntool_output = \"8KiB\"\n[leaf]\nextends = \"base\"\n[other]";
    let of = |agent| chain(toml, agent).pop().unwrap().tool_output;
    assert_eq!((of("leaf"), of("other")), (ByteSize::kib(8), ByteSize::kib(64)));
    for size in ["1023", "17MiB"] {
        let error = agents(&format!("[a]\ntool_output = \"{size}\"")).unwrap_err();
        assert!(error.to_string().contains("from 1KiB to 16MiB"), "{error}");
    }
}

#[test]
fn an_agent_has_no_skill_that_its_parent_lists_without() {
    let of = |toml: &str| agents(toml);
    let inherited = chain("[base]\nskills = [\"a\", \"b\"]\n[leaf]\nextends = \"base\"", "leaf")
        .pop()
        .unwrap();
    assert_eq!(inherited.skills.unwrap().len(), 2);
    assert!(of("[base]\nskills = [\"a\", \"b\"]\n[leaf]\nextends = \"base\"\nskills = [\"b\"]").is_ok());
    assert!(of("[base]\n[leaf]\nextends = \"base\"\nskills = [\"b\"]").is_ok());
    let refused = of("[base]\nskills = [\"a\"]\n[leaf]\nextends = \"base\"\nskills = [\"b\"]").unwrap_err();
    assert!(refused.to_string().contains("the skill `b`"), "{refused}");
}

#[test]
fn an_unknown_key_of_an_agent_is_refused() {
    for toml in [
        "modle = \"x\"",
        "[budget]\nmoney = 1",
        "[network]\nallowed = []",
        "tools = [\"A\"]",
    ] {
        assert!(toml::from_str::<AgentConfig>(toml).is_err(), "{toml}");
    }
}

#[test]
fn a_pattern_names_a_tool_several_tools_or_a_component() {
    let matches =
        |pattern: &str, c: &str, t: &str| pattern.parse::<ToolPattern>().unwrap().matches(&component(c), &tool(t));
    assert!(matches("files_read", "files", "files_read"));
    assert!(matches("files_*", "files", "files_read"));
    assert!(matches("*", "x", "anything"));
    assert!(matches("files", "files", "read"));
    assert!(matches("*_re*d", "x", "a_re_read"));
    assert!(!matches("files_read", "files", "files_read_all"));
    assert!(!matches("files", "other", "files_read"));
    assert!(!matches("files_*", "x", "my_files_read"));
    for bad in ["", "Files", "a b", "files.read", "?", &"a".repeat(65)] {
        assert!(bad.parse::<ToolPattern>().is_err(), "{bad}");
    }
}

#[test]
fn workspace_paths_match_by_whole_parts_and_never_climb() {
    let files = |toml: &str| toml::from_str::<Files>(toml).unwrap();
    let src = files("workspace = \"read\"\npaths = [\"src/\", \"a/b\"]");
    assert!(src.may_read("src") && src.may_read("src/x/y") && src.may_read("a/b/c"));
    assert!(!src.may_read("srcx") && !src.may_read("a") && !src.may_read("") && !src.may_read("a/bc"));
    assert!(!files("workspace = \"read\"\npaths = []").may_read("x"));
    let both = src.intersect(&files("workspace = \"read-write\"\npaths = [\"src/x\", \"a\"]"));
    assert!(both.may_read("src/x/1") && both.may_read("a/b/1"));
    assert!(!both.may_read("src/y") && !both.may_read("a/c") && !both.may_write("src/x"));
    assert_eq!(
        src.intersect(&files("workspace = \"read\"\npaths = [\"z\"]")),
        Files::none()
    );
    for bad in ["", "/", "/src", "../x", "a/../b", "./a", "a//b", "a\\\\b", "a\\u0000"] {
        let toml = format!("workspace = \"read\"\npaths = [\"{bad}\"]");
        assert!(toml::from_str::<Files>(&toml).is_err(), "{bad}");
    }
}

fn any_files() -> impl Strategy<Value = Files> {
    let path = prop_oneof![Just("a"), Just("a/b"), Just("ab"), Just("c"), Just("a/b/c")];
    (
        prop_oneof![Just(Access::None), Just(Access::Read), Just(Access::ReadWrite)],
        prop::option::of(prop::collection::vec(path, 0..3)),
    )
        .prop_map(|(access, paths)| Files {
            access,
            paths: paths.map(|paths| paths.into_iter().map(|path| path.parse().unwrap()).collect()),
        })
}

proptest! {
    #[test]
    fn file_access_in_common_is_what_both_allow(
        a in any_files(), b in any_files(), path in "(a|ab|c)(/(b|c)){0,2}"
    ) {
        let both = a.intersect(&b);
        prop_assert_eq!(both.may_read(&path), a.may_read(&path) && b.may_read(&path));
        prop_assert_eq!(both.may_write(&path), a.may_write(&path) && b.may_write(&path));
        if a.covers(&b) && b.may_write(&path) {
            prop_assert!(a.may_write(&path));
        }
    }

    #[test]
    fn a_pattern_that_covers_another_names_all_its_tools(
        a in "[ab_*]{1,5}", b in "[ab_*]{1,5}", name in "[ab_]{1,6}"
    ) {
        let (a, b): (ToolPattern, ToolPattern) = (a.parse().unwrap(), b.parse().unwrap());
        let other = component("unrelated");
        if a.covers(&b) && b.matches(&other, &tool(&name)) {
            prop_assert!(a.matches(&other, &tool(&name)));
        }
    }
}
