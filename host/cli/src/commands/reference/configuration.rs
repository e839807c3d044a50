//! The reference of the configuration: every key that the code reads, with what it takes, its default and its meaning.

use crate::config::{Key, VARIABLES, keys, meanings};
use anyhow::Context as _;
use std::fmt::Write as _;

const BEGINNING: &str = "# Configuration

Made of the code; don't edit.

What `fumehood.toml` may say. Every key is optional, but where it says *needed*: then its section has it. `NAME` is a name that you
choose; a section in double brackets may stand several times. Sizes are `64MiB`, `1MB` or a number of bytes, spans `500ms`, `2s`, `10m`,
`1h`, `1d`. `fumehood config check` says whether a file is understood, `fumehood config show` what is in effect.
[Getting started](../operators/getting-started.md#configure-it) has an example.
";

const ENVIRONMENT: &str = "
## Environment variables

A variable sets the key of its name and wins over the file: `FUMEHOOD_`, then the sections and the key in upper case with `__` between, as in
`FUMEHOOD_MODEL__MAIN__BASE_URL`. Below `store`, `bus`, `limits_store`, `network`, `files`, `kv`, `schedules`, `retention`, `metrics` and `log` one `_`
will do (`FUMEHOOD_STORE_URL`). Its value is read as TOML (numbers, lists), else as a text. One that names no key is refused.

These are no keys:

| variable | what it does |
|---|---|
";

const OTHERS: &str = "| `FUMEHOOD_GUEST_NAME` | The variable NAME for tools that are granted it (`[env] names`). They see no other variable of the host. |
| `OPENAI_API_KEY`, `ANTHROPIC_API_KEY`, `GEMINI_API_KEY` | The key of a model whose `api_key_env` names no other. Without a `[model.main]` the first that is set, of Anthropic, OpenAI, Gemini, says whose model it is. |
| `OTEL_…` | Where [traces](../operators/observability.md) go. |
| `NO_COLOR` | No colours in the terminal. |
";

/// The page.
pub(super) fn page() -> anyhow::Result<String> {
    let mut page = String::from(BEGINNING);
    let (keys, meanings) = (keys(), meanings());
    let mut sections: Vec<Option<String>> = Vec::new();
    for key in &keys {
        let section = key.section();
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    // Keys without a section stand first in a file.
    sections.sort_by_key(Option::is_some);
    for section in sections {
        let title = section
            .as_ref()
            .map_or("At the top".to_owned(), |section| format!("`{section}`"));
        let _ = write!(
            page,
            "\n## {title}\n\n| key | takes | default | meaning |\n|---|---|---|---|\n"
        );
        for key in keys.iter().filter(|key| key.section() == section) {
            let dotted = key.dotted();
            let meaning = meanings.iter().find(|meaning| meaning.key == dotted);
            let meaning = meaning.with_context(|| format!("nothing says what the key {dotted} means"))?;
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                key.name(),
                meaning.takes.map_or_else(|| takes(key), str::to_owned),
                meaning.default.as_deref().unwrap_or_default(),
                meaning.text,
            );
        }
    }
    page.push_str(ENVIRONMENT);
    for (name, text) in VARIABLES {
        let _ = writeln!(page, "| `{name}` | {text} |");
    }
    page.push_str(OTHERS);
    Ok(page)
}

/// What serde says, in words; what the page says at its beginning is not repeated.
fn takes(key: &Key) -> String {
    match &*key.takes {
        "a string" => "a text".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "i32" | "u32" | "u64" => "a whole number".to_owned(),
        size if size.starts_with("a size such as") => "a size".to_owned(),
        span if span.starts_with("a span of time") => "a span".to_owned(),
        other => other.replace('|', "\\|"),
    }
}
