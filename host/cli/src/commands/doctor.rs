//! `fumehood doctor`: what is wrong with this installation, one line per check.

pub(crate) mod store;

use crate::{
    boot,
    config::Loaded,
    out::{Out, Style, count},
    standard,
};
use fumehood_sandbox::{Sandbox, SandboxConfig};
use fumehood_store::{
    Schema, StoreUrl,
    examine::{Depth, Examination, examine},
};
use serde_json::json;

/// What a check found.
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Note,
    Bad,
}

/// Whether nothing is bad.
pub(crate) async fn doctor(out: Out, loaded: &Loaded) -> anyhow::Result<bool> {
    let findings = [
        configuration(loaded),
        models(loaded),
        standard_tools(),
        sandbox(),
        store(loaded).await,
        limits(loaded).await,
    ];
    let value = findings
        .iter()
        .map(|f| json!({"check": f.check, "verdict": f.verdict, "detail": f.detail}))
        .collect::<Vec<_>>();
    out.either(&json!({"checks": value}), |_| {
        for Finding { check, verdict, detail } in &findings {
            let mark = match verdict {
                Verdict::Good => out.style(Style::Good, "✓"),
                Verdict::Note => out.style(Style::Name, "·"),
                Verdict::Bad => out.style(Style::Bad, "✗"),
            };
            out.line(format_args!("{mark} {check}: {detail}"));
        }
    });
    Ok(findings.iter().all(|finding| finding.verdict != Verdict::Bad))
}

fn configuration(loaded: &Loaded) -> Finding {
    let detail = loaded
        .file
        .as_ref()
        .map_or("valid; no file, everything at its default".into(), |file| {
            format!("valid: {}", file.display())
        });
    if loaded.warnings.is_empty() {
        return Finding {
            check: "configuration",
            verdict: Verdict::Good,
            detail,
        };
    }
    Finding {
        check: "configuration",
        verdict: Verdict::Note,
        detail: format!("{detail}; {}", loaded.warnings.join("; ")),
    }
}

fn models(loaded: &Loaded) -> Finding {
    let check = "models";
    match boot::models(loaded) {
        Err(error) => Finding {
            check,
            verdict: Verdict::Bad,
            detail: format!("{error:#}"),
        },
        Ok(models) => {
            let scripted = models
                .values()
                .all(|model| model.provider.describe().provider == fumehood_model::ProviderKind::Scripted);
            let names = models
                .iter()
                .map(|(name, model)| format!("{name} ({})", model.provider.describe().model))
                .collect::<Vec<_>>()
                .join(", ");
            if scripted {
                let hint = "no provider key found: only the scripted model answers; set ANTHROPIC_API_KEY, OPENAI_API_KEY or GEMINI_API_KEY";
                Finding {
                    check,
                    verdict: Verdict::Note,
                    detail: hint.into(),
                }
            } else {
                Finding {
                    check,
                    verdict: Verdict::Good,
                    detail: names,
                }
            }
        }
    }
}

fn standard_tools() -> Finding {
    let names = standard::STANDARD_TOOLS
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ");
    if names.is_empty() {
        let detail =
            "this binary was built without the standard tools; `cargo xtask build` builds one with them".into();
        return Finding {
            check: "standard tools",
            verdict: Verdict::Note,
            detail,
        };
    }
    Finding {
        check: "standard tools",
        verdict: Verdict::Good,
        detail: names,
    }
}

fn sandbox() -> Finding {
    let made = SandboxConfig::new().and_then(|config| Sandbox::new(&config));
    match made {
        Ok(_) => Finding {
            check: "sandbox",
            verdict: Verdict::Good,
            detail: "the WebAssembly engine starts".into(),
        },
        Err(error) => Finding {
            check: "sandbox",
            verdict: Verdict::Bad,
            detail: error.to_string(),
        },
    }
}

async fn limits(loaded: &Loaded) -> Finding {
    let check = "limits";
    let (verdict, detail) = match loaded.config.ping_limits_store().await {
        Ok(None) => (Verdict::Good, "kept in the process".to_owned()),
        Ok(Some(Ok(()))) => (Verdict::Good, "the store of the limits answers".to_owned()),
        Ok(Some(Err(error))) => (
            Verdict::Bad,
            format!(
                "the store of the limits does not answer ({error}): orgs with `fail = \"open\"` are not limited by rates, those with \
                 `fail = \"closed\"` are refused; check [limits_store] and its server"
            ),
        ),
        Err(error) => (Verdict::Bad, format!("{error:#}")),
    };
    Finding { check, verdict, detail }
}

async fn store(loaded: &Loaded) -> Finding {
    let check = "store";
    let bad = |detail: String| Finding {
        check,
        verdict: Verdict::Bad,
        detail,
    };
    if !loaded.config.data_dir.exists() {
        let detail = format!(
            "{} does not exist yet; the first start makes it",
            loaded.config.data_dir.display()
        );
        return Finding {
            check,
            verdict: Verdict::Note,
            detail,
        };
    }
    match examined(loaded, Depth::Database).await {
        Err(error) => bad(format!("{error:#}")),
        Ok(Examination {
            schema: None | Some(Schema::Earlier { .. }),
            findings,
            ..
        }) if findings.is_empty() => {
            let detail = "the next start makes the database, or brings it up to date".into();
            Finding {
                check,
                verdict: Verdict::Note,
                detail,
            }
        }
        Ok(found) => {
            let damage: Vec<_> = found.findings.iter().filter(|finding| finding.is_damage()).collect();
            if damage.is_empty() {
                let verdict = if found.secrets.len() > 1 {
                    Verdict::Note
                } else {
                    Verdict::Good
                };
                let detail = format!("whole, and every journal without gaps; {}", sealed(&found.secrets));
                return Finding { check, verdict, detail };
            }
            let damage: Vec<_> = damage.iter().map(|finding| finding.problem.to_string()).collect();
            bad(format!(
                "{}; `fumehood doctor --store` says what to do",
                damage.join("; ")
            ))
        }
    }
}

/// Looks at what is kept, and changes nothing.
async fn examined(loaded: &Loaded, depth: Depth) -> anyhow::Result<Examination> {
    let url: StoreUrl = loaded.config.store_url().parse()?;
    Ok(examine(&loaded.config.data_dir, &url, depth).await?)
}

/// Under which master keys the secrets are.
fn sealed(keys: &[(String, u64)]) -> String {
    let each: Vec<_> = keys
        .iter()
        .map(|(key, secrets)| format!("{} under the master key {key}", count(*secrets, "secret")))
        .collect();
    match each.as_slice() {
        [] => "no secrets".into(),
        [one] => one.clone(),
        more => format!("{}; complete the change with `fumehood secret rotate`", more.join(", ")),
    }
}
