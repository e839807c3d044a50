//! `fumehood config …`

use crate::{
    args::{Config, ConfigPart},
    boot,
    config::{Effective, EffectiveAgent, Loaded},
    configured,
    out::{Out, Style},
    planned, unmatched,
};
use serde_json::json;

/// Loading has checked it already; what is left is to try the models' settings and say what is in effect.
pub(crate) async fn config(out: Out, loaded: &Loaded, command: &Config) -> anyhow::Result<()> {
    let effective = serde_json::to_value(Effective::new(loaded, &boot::variable))?;
    match command {
        Config::Show {
            part: Some(ConfigPart::Agent { name }),
        } => {
            let agent = serde_json::to_value(EffectiveAgent::new(loaded, name)?)?;
            out.either(&agent, |agent| {
                out.line(
                    toml::to_string_pretty(&without_nulls(agent))
                        .unwrap_or_else(|_| agent.to_string())
                        .trim_end(),
                );
            });
        }
        Config::Show { part: None } => out.either(&effective, |effective| {
            out.line(
                toml::to_string_pretty(&without_nulls(effective))
                    .unwrap_or_else(|_| effective.to_string())
                    .trim_end(),
            );
        }),
        Config::Check => {
            boot::models(loaded)?;
            boot::skills(loaded)?;
            configured::read(loaded)?;
            loaded.trust()?;
            loaded.certificate_authorities()?;
            let warnings = [loaded.warnings.clone(), unmatched_tools(loaded).await].concat();
            out.either(
                &json!({"valid": true, "file": loaded.file, "variables": loaded.variables, "warnings": warnings}),
                |_| {
                    let file = loaded
                        .file
                        .as_ref()
                        .map_or("no file: everything at its default".to_owned(), |file| {
                            file.display().to_string()
                        });
                    out.line(format_args!(
                        "{} ({file})",
                        out.style(Style::Good, "the configuration is valid")
                    ));
                    if !loaded.variables.is_empty() {
                        out.line(format_args!("overridden by {}", loaded.variables.join(", ")));
                    }
                    for warning in &warnings {
                        out.line(format_args!("{} {warning}", out.style(Style::Bad, "warning:")));
                    }
                    out.line(format_args!(
                        "listens on {}, keeps everything in {}",
                        loaded.config.listen,
                        loaded.config.data_dir.display()
                    ));
                },
            );
        }
    }
    Ok(())
}

/// What names no tool, as far as the tools are to be known. That they are not makes no configuration wrong.
async fn unmatched_tools(loaded: &Loaded) -> Vec<String> {
    let all_match = |tools: &[_]| unmatched::tools(loaded, tools).is_empty();
    match planned::tools(loaded, all_match).await {
        Ok(tools) => unmatched::tools(loaded, &tools),
        Err(error) => vec![format!(
            "which tools there are can't be looked at, so nothing is said of rules and lists that name none: {error:#}"
        )],
    }
}

/// TOML has no null.
fn without_nulls(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k.clone(), without_nulls(v)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().filter(|v| !v.is_null()).map(without_nulls).collect()),
        other => other.clone(),
    }
}
