use super::*;
use fumehood_model::ProviderKind;
use serde_json::json;

fn with_file(text: &str, variables: &[(&str, &str)]) -> anyhow::Result<Loaded> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fumehood.toml");
    std::fs::write(&file, text).unwrap();
    load(
        Some(&file),
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn refusal(text: &str, variables: &[(&str, &str)]) -> String {
    format!("{:#}", with_file(text, variables).unwrap_err())
}

#[test]
fn no_file_at_all_gives_the_documented_defaults() {
    let config = with_file("", &[]).unwrap().config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(config.data_dir, PathBuf::from(".fumehood"));
    assert_eq!(config.store_url(), "sqlite:.fumehood/fumehood.db");
    assert_eq!(config.default_agent().unwrap().as_str(), "assistant");
    let main = ModelName::new("main").unwrap();
    assert_eq!(config.models(&|_| None)[&main].provider, ProviderKind::Scripted);
    let with_key = config.models(&|name| (name == "ANTHROPIC_API_KEY").then(|| "k".into()));
    assert_eq!(with_key[&main].provider, ProviderKind::Anthropic);
}

#[test]
fn variables_override_the_file() {
    let variables = [
        ("FUMEHOOD_LISTEN", "127.0.0.1:0"),
        ("FUMEHOOD_STORE_URL", "sqlite:x.db"),
        ("FUMEHOOD_NETWORK__DENY", "[\"*.example.com\"]"),
    ];
    let loaded = with_file("listen = \"127.0.0.1:1\"", &variables).unwrap();
    assert_eq!(loaded.config.listen.port(), 0);
    assert_eq!(loaded.config.store_url(), "sqlite:x.db");
    assert_eq!(loaded.config.host_policy().network.deny.len(), 1);
    assert_eq!(loaded.variables.len(), 3);
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let error = refusal("listen = \"127.0.0.1:1\"\nlissten = 1", &[]);
    assert!(error.contains("lissten") && error.contains("line 2"), "{error}");
}

#[test]
fn an_unknown_variable_is_refused_by_name() {
    let error = refusal("", &[("FUMEHOOD_LISSTEN", "x")]);
    assert!(error.contains("FUMEHOOD_LISSTEN"), "{error}");
}

#[test]
fn what_would_not_be_enforced_is_refused() {
    assert!(refusal("[bus]\nurl = \"nats://x\"", &[]).contains("no bus"));
    let url = "[limits_store]\nurl = \"http://user:hunter2@x\"";
    let error = refusal(url, &[]);
    assert!(
        error.contains("[limits_store]") && error.contains("redis://") && !error.contains("hunter2"),
        "{error}"
    );
    assert!(refusal("[mcp.docs]\nurl = \"https://x/mcp\"", &[]).contains("mcp.docs"));
    assert!(refusal("[agent.a]\nskills = [\"x\"]", &[]).contains("add [skill.x]"));
    assert!(refusal("[agent.a]\ntime_zone = \"CEST\"", &[]).contains("IANA"));
}

#[test]
fn an_approval_rule_that_does_not_compile_is_refused_with_its_agent_its_number_and_its_place() {
    let rules = "[[agent.a.approval]]\ntool = \"http_*\"\ndecide = \"ask\"\n[[agent.a.approval]]\ntool = \"files_*\"\nwhen = \"args.path == 'x'\"\ndecide = \"deny\"";
    let error = refusal(rules, &[]);
    for part in ["[[agent.a.approval]] rule 2", "line 1, column 1", "there is no `args`"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = refusal("[agent.a]\napproval_timeout = \"90d\"", &[]);
    assert!(error.contains("from 1s to 30d"), "{error}");
}

#[test]
fn a_hook_that_could_not_be_asked_is_refused_with_its_agent_and_its_line() {
    let hook =
        "listen = \"127.0.0.1:1\"\n[[agent.a.hook]]\nname = \"h\"\nmode = \"guard\"\npoints = [\"before_turn\"]\n";
    for (rest, said) in [
        ("url = \"https://x.example\"", "`url` needs a `key`"),
        ("url = \"x.example\"\nkey = \"K\"", "`url` can't be used"),
        ("component = \"c\"\ntimeout = \"0s\"", "is not from 10ms to 1m"),
    ] {
        let error = refusal(&format!("{hook}{rest}"), &[]);
        assert!(
            error.contains("[[agent.a.hook]] `h`") && error.contains(said),
            "{error}"
        );
    }
    let error = refusal(&format!("{hook}component = \"c\"\nplaces = 1"), &[]);
    assert!(error.contains("places") && error.contains("line 7"), "{error}");
    let error = refusal(&hook.replace("before_turn", "before_all"), &[]);
    assert!(error.contains("before_all"), "{error}");
}

#[test]
fn an_agent_whose_model_is_missing_is_refused() {
    let error = refusal("[agent.a]\nmodel = \"big\"", &[]);
    assert!(error.contains("[model.big]"), "{error}");
}

#[test]
fn the_operator_sets_what_calls_get_and_what_they_never_pass() {
    let text = "[limits.default]\ncpu = \"1s\"\n[limits.ceiling]\nmemory = \"32MiB\"\nprogress = \"5/s\"";
    let policy = with_file(text, &[("FUMEHOOD_LIMITS__CEILING__TIME", "20s")])
        .unwrap()
        .config
        .host_policy();
    assert_eq!(policy.defaults.cpu.to_string(), "1s");
    // A lowered ceiling lowers the default above it.
    assert_eq!(policy.defaults.memory.to_string(), "32MiB");
    assert_eq!(policy.ceilings.progress.to_string(), "5/s");
    assert_eq!(policy.ceilings.time.to_string(), "20s");
}

#[test]
fn a_default_above_its_ceiling_is_refused_in_words() {
    let error = refusal("[limits.default]\nmemory = \"1GiB\"\ncpu = \"2m\"", &[]);
    assert!(
        error.contains("memory = \"1GiB\" is above the host's ceiling of 512MiB")
            && error.contains("cpu = \"2m\"")
            && error.contains("[limits.ceiling]"),
        "{error}"
    );
}

#[test]
fn a_limit_that_does_not_parse_or_would_forbid_everything_is_refused_with_its_line() {
    for (text, says) in [
        ("[limits.ceiling]\nmemory = \"lots\"", "64MiB"),
        ("[limits.ceiling]\nprogress = \"20\"", "60/min"),
        ("[limits.default]\nhandles = 0", "zero"),
        ("[limits.default]\nhandels = 5", "unknown field `handels`"),
        ("[limits]\nmemory = \"1MiB\"", "`default`"),
    ] {
        let error = refusal(text, &[]);
        assert!(error.contains(says) && error.contains("line"), "{text}: {error}");
    }
}

#[test]
fn limits_that_no_host_could_give_are_refused() {
    for (text, says) in [
        ("[limits.ceiling]\nmemory = \"900GiB\"", "4GiB"),
        ("[limits.ceiling]\ntables = 4000000", "100000"),
        ("[limits.ceiling]\ninstances = 65", "64"),
        ("[limits]\ndrain = \"2d\"", "1d"),
        ("[org.acme.limits]\nconcurrent_calls = 4000000000", "1250"),
    ] {
        let error = refusal(text, &[]);
        assert!(
            error.contains(says) && error.contains("lower it") && error.contains("line"),
            "{text}: {error}"
        );
    }
}

#[test]
fn what_is_in_effect_is_shown_without_passwords() {
    let text = "[limits_store]\nurl = \"redis://:hunter2@127.0.0.1:1\"\n[org.acme.limits]\nturns = \"1/hour\"\n\
                [metrics]\npublic = false\n[log]\nformat = \"json\"\n[tool.http]\nsource = \"http.wasm\"";
    let shown = serde_json::to_value(Effective::new(&with_file(text, &[]).unwrap(), &|_| None)).unwrap();
    assert_eq!(shown["limits_store"], "redis://127.0.0.1:1");
    assert_eq!(
        (&shown["orgs"]["acme"]["turns"], &shown["orgs"]["acme"]["fail"]),
        (&"1/hour".into(), &"open".into())
    );
    assert_eq!(
        (&shown["metrics"]["public"], &shown["log"]["format"]),
        (&false.into(), &"json".into())
    );
    assert_eq!(
        (&shown["tools"]["http"]["source"], &shown["tools"]["http"]["granted"]),
        (&"http.wasm".into(), &false.into())
    );
    assert!(!shown.to_string().contains("hunter2"));
}

#[tokio::test]
async fn an_org_has_the_default_limits_but_for_what_its_section_says() {
    let text = "[limits_store]\nurl = \"\"\n[org.acme.limits]\nturns = \"1/hour\"\ntool_calls = \"unlimited\"\negress_bytes = \"1GiB/h\"\n\
                concurrent_calls = 2\nconcurrent_streams = 1\nsessions = 7\nfail = \"closed\"";
    let limits = with_file(text, &[]).unwrap().config.limits().unwrap();
    let (acme, other) = (OrgName::new("acme").unwrap(), OrgName::default_org());
    assert_eq!(limits.turn(&acme).await.unwrap().unwrap().standing.limit, 1);
    assert_eq!((limits.sessions(&acme), limits.sessions(&other)), (7, u64::MAX));
    let _stream = limits.stream(&acme).await.unwrap();
    assert!(limits.stream(&acme).await.is_err());
    assert_eq!(limits.turn(&other).await.unwrap(), None);
    let component = Digest::of(b"x");
    assert_eq!(limits.call(&acme, component, None).await.unwrap(), None);
    assert_eq!(limits.call(&other, component, None).await.unwrap(), None);
}

#[test]
fn a_limit_that_is_none_is_refused_with_what_is_accepted() {
    let limits = |line: &str| refusal(&format!("[org.default.limits]\n{line}"), &[]);
    assert!(limits("turns = \"many\"").contains("60/min"));
    assert!(limits("turns = \"many\"").contains("unlimited"));
    assert!(limits("egress_bytes = \"1GiB\"").contains("1GiB/hour"));
    assert!(limits("concurrent_calls = 0").contains("line 2"));
    assert!(limits("fail = \"maybe\"").contains("closed"));
    assert!(limits("fails = \"open\"").contains("fails"));
}

#[test]
fn a_model_has_retries_fallbacks_and_a_price() {
    let text = "[model.main]\nprovider = \"scripted\"\nmax_retries = 1\nfallback = [\"spare\"]\n\
        price = { input = 3, output = 15, cached_input = 0.3 }\n[model.spare]\nprovider = \"scripted\"";
    let config = with_file(text, &[]).unwrap().config;
    let main = &config.model[&ModelName::main()];
    assert_eq!((main.max_retries, main.fallback.len()), (1, 1));
    assert_eq!(main.price.unwrap().input.millionths(), 3_000_000);
    let spare = &config.model[&ModelName::new("spare").unwrap()];
    assert_eq!((spare.max_retries, spare.price), (3, None));
}

#[test]
fn a_fallback_that_leads_nowhere_or_back_is_refused_with_its_line() {
    let unknown = refusal("[model.main]\nprovider = \"scripted\"\nfallback = [\"gone\"]", &[]);
    assert!(
        unknown.contains("line 1") && unknown.contains("`gone`, which is not configured"),
        "{unknown}"
    );
    let circle = refusal(
        "[model.a]\nprovider = \"scripted\"\nfallback = [\"b\"]\n[model.b]\nprovider = \"scripted\"\nfallback = [\"a\"]",
        &[],
    );
    assert!(circle.contains("in a circle: a → b → a"), "{circle}");
    let price = refusal("[model.a]\nprovider = \"scripted\"\nprice = { input = 1 }", &[]);
    assert!(price.contains("output"), "{price}");
}

#[test]
fn an_org_has_a_budget_for_a_day_or_a_month_and_an_agent_one_for_each_session() {
    let text = "[org.acme.budget]\nper = \"day\"\ntokens = 5000\n[agent.a.session_budget]\ntokens = 7\n\
        [agent.b]\nextends = \"a\"\n[agent.b.session_budget]\ncost = 0.5";
    let loaded = with_file(text, &[]).unwrap();
    let budgets = loaded.config.budgets();
    assert_eq!(budgets[&OrgName::new("acme").unwrap()].tokens, Some(5000));
    let chains = resolve_agents(&loaded.config.agents()).unwrap();
    let leaf = chains[&AgentName::new("b").unwrap()].last().unwrap();
    assert_eq!(leaf.session_budget.tokens, Some(7));
    assert!(leaf.session_budget.cost.is_some());
    let week = refusal("[org.acme.budget]\nper = \"week\"", &[]);
    assert!(week.contains("day") && week.contains("month"), "{week}");
    let calls = refusal("[agent.a.session_budget]\ncalls = 3", &[]);
    assert!(calls.contains("calls"), "{calls}");
    let time = refusal("[org.acme.budget]\ntime = 3", &[]);
    assert!(time.contains("time"), "{time}");
}

#[test]
fn a_budget_of_money_without_a_price_is_warned_of_with_its_line() {
    let model = "[model.main]\nprovider = \"scripted\"\n";
    let budget = "[org.acme.budget]\ncost = 5\n";
    let warnings = with_file(&format!("{model}{budget}"), &[]).unwrap().warnings;
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("line 4") && warning.contains("`main`")),
        "{warnings:?}"
    );
    let priced = format!("{model}price = {{ input = 1, output = 2 }}\n{budget}");
    assert!(with_file(&priced, &[]).unwrap().warnings.is_empty());
}

#[test]
fn an_agent_is_shown_with_every_rule_and_budget_it_has_and_whose_rule_each_is() {
    let text = "[agent.base]\napproval_timeout = \"1h\"\nsession_budget = { tokens = 9000, time = \"8h\", steps = 7 }\nbudget = { steps = 5 }\n\
        [[agent.base.approval]]\ntool = \"http_*\"\nwhen = \"has(arguments.body)\"\ndecide = \"deny\"\n\
        [agent.middle]\nextends = \"base\"\n\
        [agent.leaf]\nextends = \"middle\"\nsession_budget = { cost = 2, steps = 9 }\n\
        [[agent.leaf.approval]]\ntool = \"files_write\"\ndecide = \"ask\"\n";
    let loaded = with_file(text, &[]).unwrap();
    let shown = |name: &str| {
        let name = AgentName::new(name).unwrap();
        serde_json::to_value(EffectiveAgent::new(&loaded, &name).unwrap()).unwrap()
    };
    let leaf = shown("leaf");
    let rules = json!([
        {"agent": "base", "list": [{"tool": "http_*", "when": "has(arguments.body)", "decide": "deny"}]},
        {"agent": "leaf", "list": [{"tool": "files_write", "decide": "ask"}]},
    ]);
    assert_eq!(leaf["approval"], rules);
    assert_eq!(leaf["approval_timeout"], "1h");
    assert_eq!(
        leaf["session_budget"],
        json!({"tokens": 9000, "time": "8h", "steps": 9, "cost": 2.0})
    );
    let budget = json!({"tokens": null, "time": "10m", "tool_calls": 100, "steps": 5, "cost": null});
    assert_eq!(leaf["budget"], budget);
    assert_eq!(
        shown("base")["session_budget"],
        json!({"tokens": 9000, "time": "8h", "steps": 7})
    );
    let nothing_said = with_file("", &[]).unwrap();
    let assistant = EffectiveAgent::new(&nothing_said, &default_agent_name().unwrap()).unwrap();
    let assistant = serde_json::to_value(assistant).unwrap();
    assert_eq!(
        (&assistant["approval_timeout"], &assistant["budget"]["steps"]),
        (&"1d".into(), &50.into())
    );
}
