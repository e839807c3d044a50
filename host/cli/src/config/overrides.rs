//! `FUMEHOOD_` environment variables as overrides of configuration keys.

use super::keys::VARIABLES;
use anyhow::{Context as _, bail};

/// One key set by the environment.
pub(super) struct Override {
    pub(super) variable: String,
    path: Vec<String>,
    value: toml::Value,
}

impl Override {
    pub(super) fn set(&self, table: &mut toml::Table) -> anyhow::Result<()> {
        let Some((last, parents)) = self.path.split_last() else {
            return Ok(());
        };
        let mut at = table;
        for parent in parents {
            at = at
                .entry(parent.clone())
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()
                .with_context(|| format!("{}: `{parent}` is not a section", self.variable))?;
        }
        at.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

/// `FUMEHOOD_LISTEN` sets `listen`, `FUMEHOOD_STORE_URL` sets `store.url`, `FUMEHOOD_MODEL__MAIN__BASE_URL` sets
/// `model.main.base_url`: `__` goes one section down, and may be `_` where that is unmistakable.
pub(super) fn overrides(variables: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<Vec<Override>> {
    const SECTIONS: &[&str] = &[
        "store",
        "bus",
        "limits_store",
        "network",
        "files",
        "kv",
        "recordings",
        "shutdown",
        "schedules",
        "retention",
        "callbacks",
        "jobs",
        "metrics",
        "log",
        "tools",
    ];
    let mut found = Vec::new();
    for (variable, text) in variables {
        let Some(key) = variable.strip_prefix("FUMEHOOD_") else {
            continue;
        };
        if VARIABLES.iter().any(|(other, _)| *other == variable) || key.starts_with("GUEST_") {
            continue;
        }
        let key = key.to_ascii_lowercase();
        let path: Vec<String> = if key.contains("__") {
            key.split("__").map(str::to_owned).collect()
        } else {
            match SECTIONS
                .iter()
                .find_map(|section| Some((section, key.strip_prefix(section)?.strip_prefix('_')?)))
            {
                Some((section, rest)) => vec![(*section).to_owned(), rest.to_owned()],
                None => vec![key],
            }
        };
        if path.iter().any(String::is_empty) {
            bail!("the variable {variable} names no configuration key");
        }
        // TOML where it parses as TOML (numbers, lists), else the text itself.
        let value = toml::from_str::<toml::Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or(toml::Value::String(text));
        found.push(Override { variable, path, value });
    }
    found.sort_by(|a, b| a.variable.cmp(&b.variable));
    Ok(found)
}
