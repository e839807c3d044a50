use super::*;
use serde_json::{Value, json};

fn parse(value: Value) -> Result<ModelConfig, serde_json::Error> {
    serde_json::from_value(value)
}

fn try_build(value: Value, variables: &[&str]) -> Result<ModelInfo, String> {
    let config = parse(value).map_err(|error| error.to_string())?;
    let lookup = |name: &str| variables.contains(&name).then(|| "key".to_owned().into());
    build(&config, &lookup)
        .map(|provider| provider.describe())
        .map_err(|error| error.to_string())
}

#[test]
fn unknown_keys_and_providers_are_refused() {
    assert!(
        parse(json!({"provider": "openai", "modle": "x"}))
            .unwrap_err()
            .to_string()
            .contains("modle")
    );
    assert!(
        parse(json!({"provider": "acme"}))
            .unwrap_err()
            .to_string()
            .contains("acme")
    );
    assert!(
        parse(json!({"model": "x"}))
            .unwrap_err()
            .to_string()
            .contains("provider")
    );
}

#[test]
fn a_missing_key_is_named() {
    let error = try_build(json!({"provider": "openai"}), &[]).unwrap_err();
    assert!(
        error.contains("OPENAI_API_KEY") && error.contains("api_key_env"),
        "{error}"
    );
    let error = try_build(
        json!({"provider": "openai", "api_key_env": "MY_KEY"}),
        &["OPENAI_API_KEY"],
    )
    .unwrap_err();
    assert!(error.contains("MY_KEY"), "{error}");
}

#[test]
fn a_blank_key_counts_as_missing_and_one_with_a_line_break_is_refused_without_being_shown() {
    let config = ModelConfig::of(ProviderKind::OpenAi);
    let with = |key: &'static str| build(&config, &move |_| Some(key.to_owned().into())).map(|_| ());
    assert!(matches!(with("  \n"), Err(ModelConfigError::MissingKey { .. })));
    assert!(with("good\n").is_ok());
    let error = with("se\ncret").unwrap_err();
    assert!(matches!(error, ModelConfigError::UnusableKey { .. }));
    assert!(!format!("{error} {error:?}").contains("cret\""));
}

#[test]
fn a_conventional_key_is_not_sent_to_another_host_unless_it_is_named() {
    let lookup = |name: &str| (name == "OPENAI_API_KEY").then(|| SecretString::from("key"));
    let mut config = ModelConfig::of(ProviderKind::OpenAi);
    config.base_url = Some("https://elsewhere.example/v1".parse().unwrap());
    assert!(config.key(&lookup).unwrap().is_none());
    config.api_key_env = Some("OPENAI_API_KEY".into());
    assert!(config.key(&lookup).unwrap().is_some());
}

#[test]
fn each_provider_builds_with_its_defaults() {
    let keys = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"];
    for kind in ["openai", "anthropic", "gemini", "ollama", "scripted"] {
        let info = try_build(json!({ "provider": kind }), &keys).unwrap();
        assert_eq!(
            (info.provider.as_str(), info.model.as_str()),
            (kind, info.provider.default_model())
        );
    }
}

#[test]
fn the_first_key_in_the_environment_chooses_the_provider() {
    let choose = |variables: &[&str]| {
        ModelConfig::from_environment(&|name| variables.contains(&name).then(|| "key".to_owned().into())).provider
    };
    assert_eq!(choose(&["GEMINI_API_KEY", "OPENAI_API_KEY"]), ProviderKind::OpenAi);
    assert_eq!(
        choose(&["ANTHROPIC_API_KEY", "OPENAI_API_KEY"]),
        ProviderKind::Anthropic
    );
    assert_eq!(choose(&["GEMINI_API_KEY"]), ProviderKind::Gemini);
    assert_eq!(choose(&[]), ProviderKind::Scripted);
    let blank = ModelConfig::from_environment(&|_| Some(" ".to_owned().into()));
    assert_eq!(blank.provider, ProviderKind::Scripted);
}

#[test]
fn plain_http_is_taken_only_to_hosts_that_are_not_public() {
    for url in [
        "http://127.0.0.1:11434/v1",
        "http://[::1]/v1",
        "http://localhost:8080",
        "http://10.1.2.3/v1",
        "http://[fd00::1]/",
        "http://ollama:11434/v1",
        "http://gpu.local/v1",
        "http://models.corp.internal/v1",
        "https://api.example.com/v1",
        "https://8.8.8.8/v1",
    ] {
        assert!(check_base_url(&url.parse().unwrap()).is_ok(), "{url}");
    }
    for url in [
        "http://api.example.com/v1",
        "http://8.8.8.8/v1",
        "http://notlocalhost.com",
        "http://evil.mylocal.com",
        "http://[2001:4860::1]/",
        "http://[::ffff:8.8.8.8]/",
        "ftp://127.0.0.1/",
        "https://user@api.example.com/",
        "https://api.example.com/#a",
        "data:text/plain,x",
    ] {
        assert!(check_base_url(&url.parse().unwrap()).is_err(), "{url}");
    }
}

#[test]
fn a_base_url_that_is_none_is_refused_without_repeating_it() {
    let error = parse(json!({"provider": "openai", "base_url": "sk-secret"}))
        .unwrap_err()
        .to_string();
    assert!(error.contains("base_url") && !error.contains("sk-secret"), "{error}");
}

#[test]
fn keys_that_do_nothing_for_the_provider_are_refused() {
    for (value, key) in [
        (json!({"provider": "anthropic", "wire": "chat"}), "wire"),
        (json!({"provider": "openai", "script": "a.yaml"}), "script"),
        (
            json!({"provider": "openai", "thinking_budget_tokens": 2000}),
            "thinking_budget_tokens",
        ),
        (json!({"provider": "scripted", "api_key_env": "X"}), "api_key_env"),
        (
            json!({"provider": "scripted", "base_url": "https://x.example"}),
            "base_url",
        ),
        (
            json!({"provider": "scripted", "reasoning_effort": "low"}),
            "reasoning_effort",
        ),
    ] {
        let error = try_build(value, &["ANTHROPIC_API_KEY", "OPENAI_API_KEY"]).unwrap_err();
        assert!(error.contains(key) && error.contains("no meaning"), "{error}");
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    for (value, key) in [
        (json!({"provider": "ollama", "model": " "}), "model"),
        (
            json!({"provider": "ollama", "max_output_tokens": 0}),
            "max_output_tokens",
        ),
        (
            json!({"provider": "anthropic", "thinking_budget_tokens": 100}),
            "thinking_budget_tokens",
        ),
        (
            json!({"provider": "anthropic", "thinking_budget_tokens": 2000, "reasoning_effort": "low"}),
            "thinking_budget_tokens",
        ),
        (json!({"provider": "ollama", "idle_timeout": "0s"}), "idle_timeout"),
        (
            json!({"provider": "ollama", "connect_timeout": "2h"}),
            "connect_timeout",
        ),
        (json!({"provider": "ollama", "idle_timeout": "soon"}), "not a duration"),
        (json!({"provider": "ollama", "idle_timeout": "30"}), "not a duration"),
    ] {
        let error = try_build(value.clone(), &["ANTHROPIC_API_KEY"]).unwrap_err();
        assert!(error.contains(key), "{value}: {error}");
    }
}

#[test]
fn durations_have_units() {
    for (text, expected) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)] {
        assert_eq!(parse_duration(text), Some(Duration::from_millis(expected)));
    }
    for text in [
        "",
        "s",
        "1.5s",
        "-1s",
        "1d",
        "99999999999999999999s",
        "18446744073709551615h",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

#[test]
fn a_script_that_is_missing_is_named() {
    let error = try_build(json!({"provider": "scripted", "script": "no/such.yaml"}), &[]).unwrap_err();
    assert!(error.contains("no/such.yaml"), "{error}");
}
