//! What an explanation says: the same as the authority does, and which layer is why.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::name::{SecretName, ToolName};
use fumehood_policy::{
    agent::{AgentConfig, AgentSpec, resolve_agents},
    authority::{Authority, HostPolicy, SessionNarrowing},
    explain::{Explained, Explanation, Extent, explain},
    files::{Access, Files},
    grant::Grant,
    manifest::Manifest,
    network::{NetworkList, NetworkRule, Target, Verdict},
    refusal::Capability,
    tool_pattern::ToolPattern,
};
use proptest::{prelude::*, sample::subsequence};
use std::collections::BTreeMap;

fn manifest(body: &str) -> Manifest {
    Manifest::parse_toml(&format!("name = \"t\"\nversion = \"1\"\n{body}")).unwrap()
}

/// The layers of one call.
#[derive(Debug)]
struct Layers {
    request: Manifest,
    grant: Grant,
    agents: Vec<AgentSpec>,
    session: SessionNarrowing,
    host: HostPolicy,
}

impl Layers {
    fn new(request: &str, grant: &str) -> Self {
        Self {
            request: manifest(request),
            grant: Grant::parse_toml(grant).unwrap(),
            agents: Vec::new(),
            session: SessionNarrowing::default(),
            host: HostPolicy::default(),
        }
    }

    fn agent(mut self, body: &str) -> Self {
        let text = format!("[x]\n{body}");
        let agents: BTreeMap<_, AgentConfig> = toml::from_str(&text).unwrap();
        self.agents.extend(resolve_agents(&agents).unwrap()["x"].clone());
        self
    }

    fn session(mut self, body: &str) -> Self {
        self.session = toml::from_str(body).unwrap();
        self
    }

    fn explain(&self) -> Explanation {
        let tool: ToolName = "t_do".parse().unwrap();
        explain(
            &self.request,
            &self.grant,
            &self.agents,
            &self.session,
            &self.host,
            [&tool],
        )
    }

    fn authority(&self) -> Authority {
        Authority::compute(&self.request, &self.grant, &self.agents, &self.session, &self.host)
    }
}

fn only(explanation: &Explanation, capability: Capability) -> Explained {
    let found: Vec<_> = of(explanation, capability).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn of(explanation: &Explanation, capability: Capability) -> impl Iterator<Item = &Explained> {
    explanation
        .capabilities
        .iter()
        .filter(move |explained| explained.capability == capability)
}

fn cut_by(explained: &Explained) -> Vec<String> {
    explained.cuts.iter().map(|cut| cut.layer.to_string()).collect()
}

#[test]
fn what_runs_in_the_background_names_each_layer_that_cuts_it() {
    let asked = "[jobs]\nbackground = [\"crawl\", \"index\"]\n";
    let layers = Layers::new(asked, asked)
        .agent("background = [\"crawl\"]")
        .session("background = []");
    let explanation = layers.explain();
    let explained: Vec<_> = of(&explanation, Capability::Background).collect();
    assert_eq!(explained.len(), 2);
    assert_eq!(
        (explained[0].asked.as_deref(), cut_by(explained[0])),
        (Some("crawl"), vec!["session".to_owned()])
    );
    assert_eq!(cut_by(explained[1]), ["agent x", "session"]);
    assert_eq!(explained[1].extent, Extent::None);
    assert!(
        explained[1].cuts[1].change.contains("the session's `background`"),
        "{:?}",
        explained[1].cuts
    );
    let granted = Layers::new(asked, asked).explain();
    assert!(of(&granted, Capability::Background).all(|one| one.extent == Extent::All));
}

#[test]
fn each_layer_that_cuts_a_network_rule_is_named_with_what_it_leaves() {
    let asked = "[network]\nallow = [\"https://api.example.com\"]";
    let layers = Layers::new(asked, "[network]\nallow = [\"GET https://api.example.com/v1\"]")
        .agent("network.allow = [\"*.example.com/v1/a\"]")
        .session("network.allow = [\"other.example.com\"]");
    let explained = only(&layers.explain(), Capability::Network);
    assert_eq!(explained.extent, Extent::None);
    assert_eq!(cut_by(&explained), ["grant", "agent x", "session"]);
    assert_eq!(explained.cuts[0].left, ["GET https://api.example.com/v1"]);
    assert_eq!(explained.cuts[1].left, ["https://api.example.com/v1/a"]);
    assert!(explained.cuts[2].left.is_empty());
    assert!(
        explained.cuts[0].change.contains("fumehood tool grant"),
        "{explained:?}"
    );
    assert!(explained.cuts[1].change.contains("[agent.x.network]"), "{explained:?}");
    let layers = layers.session("");
    let explained = only(&layers.explain(), Capability::Network);
    assert_eq!(explained.has, ["GET https://api.example.com/v1/a"]);
    assert_eq!(explained.extent, Extent::Part);
}

#[test]
fn a_deny_rule_is_an_exception_or_takes_all() {
    let rule = "[network]\nallow = [\"https://api.example.com/v1\"]";
    let layers = Layers::new(rule, rule).agent("network.deny = [\"api.example.com/v1/admin\", \"b.example.com\"]");
    let explained = only(&layers.explain(), Capability::Network);
    assert_eq!(explained.extent, Extent::Part);
    assert_eq!(explained.except.len(), 1);
    assert_eq!(explained.except[0].rule, "api.example.com/v1/admin");
    let layers = Layers::new(rule, rule).session("network.deny = [\"*.example.com\"]");
    let explained = only(&layers.explain(), Capability::Network);
    assert_eq!(explained.extent, Extent::None);
    assert_eq!(explained.cuts[0].rule.as_deref(), Some("*.example.com"));
    assert_eq!(cut_by(&explained), ["session"]);
}

#[test]
fn methods_granted_one_by_one_make_up_the_whole() {
    let layers = Layers::new(
        "[network]\nallow = [\"GET,POST https://a.example.com\"]",
        "[network]\nallow = [\"GET https://a.example.com\", \"POST https://a.example.com\"]",
    );
    let explained = only(&layers.explain(), Capability::Network);
    assert_eq!((explained.extent, explained.cuts.len()), (Extent::All, 0));
}

#[test]
fn the_hosts_bare_star_cuts_nothing() {
    let rule = "[network]\nallow = [\"http://a.example.com:8080\"]";
    let mut layers = Layers::new(rule, rule);
    layers.host.network.allow = Some(vec!["*".parse().unwrap()]);
    assert_eq!(only(&layers.explain(), Capability::Network).extent, Extent::All);
    layers.host.network.allow = Some(vec!["b.example.com".parse().unwrap()]);
    let explained = only(&layers.explain(), Capability::Network);
    assert_eq!(cut_by(&explained), ["host"]);
    assert!(explained.cuts[0].change.contains("fumehood.toml"), "{explained:?}");
}

#[test]
fn every_other_capability_says_what_it_has_and_who_cut_it() {
    let asked = r#"
        [[credential]]
        secret = "KEY"
        hosts = ["a.example", "b.example"]
        inject = { query = "key" }
        [files]
        workspace = "read-write"
        paths = ["src", "docs"]
        [kv]
        access = "read-write"
        [secrets]
        sign = ["X", "Y"]
        [tools]
        call = ["files_*"]
        [env]
        names = ["TZ", "LANG"]
        [limits]
        memory = "1GiB"
        cpu = "2s"
        [rate]
        calls = "60/min"
    "#;
    let grant = r#"
        [[credential]]
        secret = "KEY"
        hosts = ["a.example"]
        [files]
        workspace = "read-write"
        paths = ["src"]
        [kv]
        access = "read"
        [secrets]
        sign = ["X"]
        [tools]
        call = ["files_*"]
        [env]
        names = ["TZ"]
        [limits]
        cpu = "1s"
        [rate]
        calls = "10/min"
    "#;
    let layers = Layers::new(asked, grant)
        .agent("tools = [\"files_read\"]")
        .session("files = \"read\"");
    let explanation = layers.explain();
    let one = |capability| only(&explanation, capability);
    let credential = one(Capability::Credential);
    assert_eq!(cut_by(&credential), ["grant"]);
    assert_eq!(credential.has, ["KEY to a.example in the query parameter `key`"]);
    assert!(credential.cuts[0].change.contains("b.example"), "{credential:?}");
    let files = one(Capability::Files);
    assert_eq!(cut_by(&files), ["grant", "session"]);
    assert_eq!(files.has, ["read in src"]);
    assert_eq!(files.cuts[0].left, ["read-write in src"]);
    assert!(files.cuts[0].change.contains("`docs` to `paths`"), "{files:?}");
    assert!(files.cuts[1].change.contains("the session's `files`"), "{files:?}");
    assert_eq!(one(Capability::Kv).has, ["read"]);
    let sign: Vec<_> = of(&explanation, Capability::Sign).map(|e| e.extent).collect();
    assert_eq!(sign, [Extent::All, Extent::None]);
    let env: Vec<_> = of(&explanation, Capability::Env).map(|e| e.extent).collect();
    assert_eq!(env, [Extent::All, Extent::None]);
    let calls = one(Capability::CallTools);
    assert_eq!(
        (calls.extent, cut_by(&calls)),
        (Extent::Part, vec!["agent x".to_owned()])
    );
    assert_eq!(calls.cuts[0].left, ["files_read"]);
    let limit = |key: &str| {
        of(&explanation, Capability::Limit)
            .find(|limit| limit.has[0].starts_with(key))
            .unwrap()
            .clone()
    };
    assert_eq!(
        (cut_by(&limit("memory ")), limit("memory ").has),
        (vec!["host".to_owned()], vec!["memory 512MiB".to_owned()])
    );
    assert_eq!(
        (cut_by(&limit("cpu ")), limit("cpu ").has),
        (vec!["grant".to_owned()], vec!["cpu 1s".to_owned()])
    );
    assert_eq!((limit("time ").asked, limit("time ").extent), (None, Extent::All));
    let rate = one(Capability::Rate);
    assert_eq!(
        (rate.has, cut_by(&one(Capability::Rate))),
        (vec!["10/min".to_owned()], vec!["grant".to_owned()])
    );
    assert_eq!(explanation.tools[0].cut_by[0].to_string(), "agent x");
}

#[test]
fn a_grant_that_raises_a_limit_nobody_asked_for_does_not_cut_it() {
    let explanation = Layers::new("", "[limits]\nmemory = \"128MiB\"").explain();
    assert!(
        explanation
            .capabilities
            .iter()
            .all(|explained| explained.cuts.is_empty())
    );
}

#[test]
fn a_refusal_names_capability_layer_and_setting_and_nothing_else_of_the_layer() {
    let asked = "[secrets]\nsign = [\"X\"]\n[kv]\naccess = \"read-write\"\n[files]\nworkspace = \"read-write\"\npaths = [\"src\"]\n[tools]\ncall = [\"files_*\"]";
    let granted = "[secrets]\nsign = [\"OTHER\"]\n[kv]\naccess = \"read\"\n[files]\nworkspace = \"read-write\"\npaths = [\"src/hidden\"]\n[tools]\ncall = [\"files_*\"]";
    let authority = Layers::new(asked, granted)
        .agent("tools = [\"files_read\"]")
        .authority();
    let name = |text: &str| SecretName::new(text).unwrap();
    let component = "files".parse().unwrap();
    let tool = |text: &str| text.parse::<ToolName>().unwrap();
    for (refusal, words) in [
        (
            authority.may_sign(&name("X")).unwrap_err(),
            &[
                "signing with X was denied",
                "grant does not allow",
                "`X` to `sign` under `[secrets]`",
                "fumehood tool grant",
            ][..],
        ),
        (
            authority.may_sign(&name("OTHER")).unwrap_err(),
            &["manifest does not request", "tool.toml"],
        ),
        (
            authority.may_use_key_values(Access::ReadWrite).unwrap_err(),
            &[
                "changing the session's key-values was denied",
                "grant does not allow",
                "`access = \"read-write\"` under `[kv]`",
            ],
        ),
        (
            authority.may_use_file("src/a", Access::ReadWrite).unwrap_err(),
            &[
                "changing src/a",
                "grant does not allow",
                "`src/a` to `paths` under `[files]`",
            ],
        ),
        (
            authority.may_use_file("docs", Access::Read).unwrap_err(),
            &["reading docs", "manifest does not request"],
        ),
        (
            authority.may_call(&component, &tool("files_write")).unwrap_err(),
            &[
                "calling files_write was denied",
                "agent `x`",
                "`tools` under `[agent.x]`",
            ],
        ),
    ] {
        let message = refusal.to_string();
        for word in words {
            assert!(message.contains(word), "{message}: {word}");
        }
        for other in ["src/hidden", "files_read", "files_*"] {
            assert!(!message.contains(other), "{message}");
        }
        if !message.contains("with OTHER") {
            assert!(!message.contains("OTHER"), "{message}");
        }
    }
    assert!(authority.may_use_key_values(Access::Read).is_ok());
    assert!(authority.may_use_file("src/hidden/x", Access::ReadWrite).is_ok());
    assert!(authority.may_call(&component, &tool("files_read")).is_ok());
    let session = Layers::new(asked, asked).session("files = \"read\"").authority();
    let message = session
        .may_use_file("src/a", Access::ReadWrite)
        .unwrap_err()
        .to_string();
    assert!(message.contains("the session's `files`"), "{message}");
}

const RULES: [&str; 22] = [
    "*",
    "http://*",
    "*:*",
    "a.example.com",
    "https://a.example.com/v1",
    "GET a.example.com",
    "POST,PUT a.example.com/v1",
    "GET,POST https://a.example.com/v1/x",
    "http://a.example.com",
    "a.example.com:*",
    "a.example.com:8443",
    "a.example.com:443/v1",
    "*.example.com",
    "GET *.example.com/v1",
    "*.com",
    "example.com",
    "b.example.com/v1",
    "http://localhost:8080",
    "198.51.100.7",
    "https://198.51.100.7:*/v1",
    "[2001:db8::1]",
    "a.example.com/v1%2Fx",
];

const URLS: [&str; 17] = [
    "https://a.example.com/",
    "https://a.example.com/v1",
    "https://a.example.com/v1/x/y",
    "https://a.example.com//v1//x",
    "https://a.example.com/v1%2Fx",
    "https://a.example.com/v1evil",
    "http://a.example.com/v1",
    "https://a.example.com:8443/v1/x",
    "http://a.example.com:443/v1",
    "https://b.example.com/v1",
    "https://x.b.example.com/",
    "https://example.com/",
    "https://other.com/v1/x",
    "http://localhost:8080/",
    "https://198.51.100.7/v1",
    "https://198.51.100.7:9/v1/z",
    "https://[2001:db8::1]/",
];

fn rules() -> impl Strategy<Value = Vec<NetworkRule>> {
    subsequence(RULES.to_vec(), 0..5).prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn list() -> impl Strategy<Value = NetworkList> {
    (
        prop::option::weighted(0.8, rules()),
        prop_oneof![3 => Just(Vec::new()), 1 => rules()],
    )
        .prop_map(|(allow, deny)| NetworkList { allow, deny })
}

fn some_files() -> impl Strategy<Value = Files> {
    let access = prop_oneof![Just(Access::None), Just(Access::Read), Just(Access::ReadWrite)];
    let paths = prop::option::of(subsequence(vec!["src", "src/a", "docs", "x/y"], 0..3));
    (access, paths).prop_map(|(access, paths)| Files {
        access,
        paths: paths.map(|paths| paths.iter().map(|path| path.parse().unwrap()).collect()),
    })
}

fn patterns() -> impl Strategy<Value = Vec<ToolPattern>> {
    subsequence(vec!["*", "files", "files_*", "files_read", "http_*", "*_read"], 0..4)
        .prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn layers() -> impl Strategy<Value = Layers> {
    let agent = (prop::option::of(list()), prop::option::of(patterns()));
    (
        (list(), some_files(), patterns()),
        (list(), some_files(), patterns()),
        prop::collection::vec(agent, 0..3),
        (
            prop::option::of(list()),
            prop::option::of(prop_oneof![
                Just(Access::None),
                Just(Access::Read),
                Just(Access::ReadWrite)
            ]),
            prop::option::of(patterns()),
        ),
        list(),
    )
        .prop_map(|(request, grant, agents, (network, files, background), host)| {
            let mut layers = Layers::new("", "");
            (layers.request.network, layers.request.files, layers.request.tools.call) = request;
            (layers.grant.network, layers.grant.files, layers.grant.tools.call) = grant;
            // The same lists say what runs in the background.
            layers.request.jobs.background = layers.request.tools.call.clone();
            layers.grant.jobs.background = layers.grant.tools.call.clone();
            for (network, tools) in agents {
                layers = layers.agent("");
                let agent = layers.agents.last_mut().unwrap();
                agent.background = tools.clone();
                (agent.network, agent.tools) = (network, tools);
            }
            layers.session = SessionNarrowing {
                network,
                files,
                background,
            };
            layers.host.network = host;
            layers
        })
}

/// What the explanation's words say of a request.
fn says_allowed(explanation: &Explanation, target: &Target) -> bool {
    let rule = |text: &String| text.parse::<NetworkRule>().unwrap();
    of(explanation, Capability::Network).any(|explained| {
        explained.has.iter().any(|text| rule(text).allows(target))
            && !explained
                .except
                .iter()
                .any(|exception| rule(&exception.rule).denies(target))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_the_explanation_says_is_reached_is_what_the_authority_lets_through(layers in layers()) {
        let (explanation, authority) = (layers.explain(), layers.authority());
        for url in URLS {
            for method in ["GET", "POST", "DELETE"] {
                let target = Target::parse(method, url).unwrap();
                let allowed = matches!(authority.network.decide(&target), Verdict::Allowed { .. });
                prop_assert_eq!(says_allowed(&explanation, &target), allowed, "{} {}: {:#?}", method, url, explanation);
            }
        }
    }

    #[test]
    fn nothing_is_cut_where_everything_is_left_and_something_where_not(layers in layers()) {
        for explained in layers.explain().capabilities {
            let cut = !explained.cuts.is_empty() || !explained.except.is_empty();
            prop_assert_eq!(cut, explained.extent != Extent::All, "{:?}", explained);
            prop_assert_eq!(explained.has.is_empty(), explained.extent == Extent::None, "{:?}", explained);
        }
    }

    #[test]
    fn what_it_says_of_files_and_tools_is_what_the_authority_says(layers in layers()) {
        let (explanation, authority) = (layers.explain(), layers.authority());
        let files = of(&explanation, Capability::Files).next().map_or(Vec::new(), |files| files.has.clone());
        prop_assert_eq!(files.is_empty(), authority.files.access == Access::None);
        for path in ["src", "src/a/b", "docs/x", "x/y", "srcs", "z"] {
            prop_assert_eq!(authority.may_use_file(path, Access::Read).is_ok(), authority.files.may_read(path));
            prop_assert_eq!(authority.may_use_file(path, Access::ReadWrite).is_ok(), authority.files.may_write(path));
        }
        for (component, tool) in [("files", "files_read"), ("files", "files_write"), ("http", "http_get"), ("x", "files_read")] {
            let (component, tool) = (component.parse().unwrap(), tool.parse().unwrap());
            let names = |text: &String| text.parse::<ToolPattern>().unwrap().matches(&component, &tool);
            let says = |capability| {
                of(&explanation, capability)
                    .any(|e| e.has.iter().any(names) && e.cuts.iter().all(|cut| cut.left.iter().any(names)))
            };
            let in_background = authority.may_run_in_background(&component, &tool).is_ok();
            prop_assert_eq!(says(Capability::Background), in_background);
            prop_assert_eq!(in_background, authority.background.allows(&component, &tool));
            let says = says(Capability::CallTools);
            prop_assert_eq!(says, authority.call_tools.allows(&component, &tool));
            prop_assert_eq!(says, authority.may_call(&component, &tool).is_ok());
        }
    }

    #[test]
    fn what_two_rules_have_in_common_is_what_both_allow(a in 0..RULES.len(), b in 0..RULES.len()) {
        let (a, b): (NetworkRule, NetworkRule) = (RULES[a].parse().unwrap(), RULES[b].parse().unwrap());
        let both = a.intersect(&b);
        for url in URLS {
            for method in ["GET", "POST", "DELETE"] {
                let target = Target::parse(method, url).unwrap();
                prop_assert_eq!(both.as_ref().is_some_and(|rule| rule.allows(&target)), a.allows(&target) && b.allows(&target));
                if b.allows(&target) {
                    prop_assert!(!a.denies_all_of(&b) || a.denies(&target));
                    prop_assert!(a.denies_some_of(&b) || !a.denies(&target));
                }
            }
        }
    }
}
