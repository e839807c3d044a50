//! Hooks of agents: their order over a chain, and what is refused before anything is asked.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use fumehood_core::{
    hook::{HookMode, HookPoint},
    name::{AgentName, ComponentName, ToolName},
};
use fumehood_policy::{
    agent::{AgentConfig, AgentConfigError, AgentSpec, resolve_agents},
    authority::HostPolicy,
    hook::{HookRuntime, hooks_at, hooks_of},
    network::{Target, Verdict},
};
use std::collections::BTreeMap;

fn chain(toml: &str, leaf: &str) -> Result<Vec<AgentSpec>, AgentConfigError> {
    let configs: BTreeMap<AgentName, AgentConfig> = toml::from_str(toml).unwrap();
    Ok(resolve_agents(&configs)?.remove(leaf).unwrap())
}

fn hook(rest: &str) -> String {
    format!("[[a.hook]]\nname = \"h\"\nmode = \"guard\"\n{rest}\n")
}

fn refusal(rest: &str) -> String {
    chain(&hook(rest), "a").unwrap_err().to_string()
}

const POINTS: &str = "points = [\"before_tool_call\"]";

#[test]
fn the_lower_priority_comes_first_and_of_the_same_the_roots() {
    let toml = r#"
        [leaf]
        extends = "root"
        [[leaf.hook]]
        name = "early"
        points = ["before_turn"]
        mode = "guard"
        component = "x"
        priority = -1
        [[leaf.hook]]
        name = "late"
        points = ["before_turn"]
        mode = "guard"
        component = "x"
        [[root.hook]]
        name = "own"
        points = ["before_turn", "after_turn"]
        mode = "guard"
        component = "x"
        [[root.hook]]
        name = "told"
        points = ["before_turn"]
        mode = "observe"
        component = "x"
    "#;
    let chain = chain(toml, "leaf").unwrap();
    let names = |hooks: Vec<&fumehood_policy::hook::HookSpec>| {
        hooks.iter().map(|hook| hook.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(hooks_of(&chain)), ["early", "own", "told", "late"]);
    let at = |mode, point| names(hooks_at(&chain, mode, point, None));
    assert_eq!(at(HookMode::Guard, HookPoint::BeforeTurn), ["early", "own", "late"]);
    assert_eq!(at(HookMode::Observe, HookPoint::BeforeTurn), ["told"]);
    assert_eq!(at(HookMode::Guard, HookPoint::AfterTurn), ["own"]);
    assert!(at(HookMode::Guard, HookPoint::BeforeToolCall).is_empty());
}

#[test]
fn a_child_can_neither_replace_nor_remove_what_its_parent_has() {
    let toml = r#"
        [leaf]
        extends = "root"
        hook = []
        [[root.hook]]
        name = "h"
        points = ["before_turn"]
        mode = "guard"
        component = "x"
    "#;
    assert_eq!(hooks_of(&chain(toml, "leaf").unwrap()).len(), 1);
    let own = "[[leaf.hook]]\nname = \"h\"\npoints = [\"before_turn\"]\nmode = \"observe\"\ncomponent = \"x\"\n";
    let error = chain(&toml.replace("hook = []", own), "leaf").unwrap_err().to_string();
    assert!(error.starts_with("[[agent.leaf.hook]] `h`: another hook"), "{error}");
}

#[test]
fn a_list_of_tools_limits_what_it_is_asked_about() {
    let toml = hook(&format!("{POINTS}\ncomponent = \"x\"\ntools = [\"http_*\", \"files\"]"));
    let chain = chain(&toml, "a").unwrap();
    let asked = |component: &str, tool: &str| {
        let (component, tool): (ComponentName, ToolName) = (component.parse().unwrap(), tool.parse().unwrap());
        !hooks_at(
            &chain,
            HookMode::Guard,
            HookPoint::BeforeToolCall,
            Some((&component, &tool)),
        )
        .is_empty()
    };
    assert!(asked("http", "http_fetch") && asked("files", "files_read"));
    assert!(!asked("clock", "clock_now"));
}

#[test]
fn a_hook_that_could_not_be_asked_is_refused() {
    for (rest, said) in [
        ("points = []\ncomponent = \"x\"", "`points` is empty"),
        (POINTS, "either a `component` or a `url`"),
        (
            "points = [\"before_turn\"]\ncomponent = \"x\"\nurl = \"https://a.example/\"\nkey = \"K\"",
            "either a `component` or a `url`",
        ),
        (
            "points = [\"before_turn\"]\nurl = \"https://a.example/\"",
            "`url` needs a `key`",
        ),
        (
            "points = [\"before_turn\"]\ncomponent = \"x\"\nkey = \"K\"",
            "leave it out",
        ),
        (
            "points = [\"before_turn\"]\ncomponent = \"x\"\ntools = [\"a\"]",
            "`tools` is about",
        ),
        (
            "points = [\"before_turn\"]\ncomponent = \"x\"\ntimeout = \"0s\"",
            "timeout = \"0s\" is not from 10ms to 1m",
        ),
        (
            "points = [\"before_turn\"]\ncomponent = \"x\"\ntimeout = \"2m\"",
            "is not from 10ms to 1m",
        ),
    ] {
        let error = refusal(rest);
        assert!(
            error.starts_with("[[agent.a.hook]] `h`: ") && error.contains(said),
            "{rest}: {error}"
        );
    }
    for url in [
        "",
        "a.example/x",
        "ftp://a.example/",
        "https://user:pw@a.example/",
        "https://a.example/\\x",
        "https://",
    ] {
        let error = refusal(&format!("{POINTS}\nurl = '{url}'\nkey = \"K\""));
        assert!(error.contains("`url` can't be used"), "{url}: {error}");
    }
}

#[test]
fn an_agent_has_no_more_hooks_than_every_step_can_wait_for() {
    let one = |n: usize| {
        format!("[[a.hook]]\nname = \"h{n}\"\npoints = [\"before_turn\"]\nmode = \"guard\"\ncomponent = \"x\"\n")
    };
    let many = |n: usize| (0..n).map(one).collect::<String>();
    assert!(chain(&many(32), "a").is_ok());
    let error = chain(&many(33), "a").unwrap_err().to_string();
    assert!(error.contains("more than 32 hooks"), "{error}");
}

#[test]
fn a_webhook_reaches_its_own_place_under_the_host_wide_list_and_no_other() {
    let chain = chain(
        &hook(&format!("{POINTS}\nurl = \"https://a.example/hooks?v=1\"\nkey = \"K\"")),
        "a",
    )
    .unwrap();
    let HookRuntime::Webhook { place, .. } = &hooks_of(&chain)[0].runtime else {
        panic!("it is a webhook");
    };
    let open = HostPolicy::default().only(place.clone());
    let may = |policy: &fumehood_policy::network::NetworkPolicy, method: &str, url: &str| {
        matches!(
            policy.decide(&Target::parse(method, url).unwrap()),
            Verdict::Allowed { .. }
        )
    };
    assert!(may(&open, "POST", "https://a.example/hooks?v=1"));
    for (method, url) in [
        ("GET", "https://a.example/hooks"),
        ("POST", "https://a.example/other"),
        ("POST", "http://a.example/hooks"),
        ("POST", "https://b.example/hooks"),
        ("POST", "https://a.example:8443/hooks"),
    ] {
        assert!(!may(&open, method, url), "{method} {url}");
    }
    let mut closed = HostPolicy::default();
    closed.network.deny = vec!["https://a.example".parse().unwrap()];
    assert!(!may(&closed.only(place.clone()), "POST", "https://a.example/hooks"));
}
