//! Who is asked when a model doesn't answer.

use crate::config::ModelConfig;
use fumehood_core::name::ModelName;
use std::collections::BTreeMap;

/// Why the fallbacks of a configuration make no order in which to ask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FallbackError {
    /// A fallback names nobody.
    #[error(
        "[model.{model}] fallback names `{fallback}`, which is not configured; add [model.{fallback}] or take it out"
    )]
    Unknown {
        /// Whose fallback.
        model: ModelName,
        /// Whom it names.
        fallback: ModelName,
    },
    /// The fallbacks of a model come back to it.
    #[error("[model.{}] falls back to itself in a circle: {}; take one of them out", .0.first().map_or("", ModelName::as_str), circle(.0))]
    Circle(Vec<ModelName>),
}

fn circle(names: &[ModelName]) -> String {
    names.iter().map(ModelName::as_str).collect::<Vec<_>>().join(" → ")
}

/// For each model those that are asked in its place, in this order: each of its fallbacks, followed by the fallbacks of that one,
/// nobody twice.
///
/// # Errors
/// When a fallback is not configured, or a model's fallbacks come back to it.
pub fn resolve_fallbacks(
    models: &BTreeMap<ModelName, ModelConfig>,
) -> Result<BTreeMap<ModelName, Vec<ModelName>>, FallbackError> {
    models
        .keys()
        .map(|name| {
            let mut order = Vec::new();
            follow(name, models, &mut vec![name.clone()], &mut order)?;
            Ok((name.clone(), order))
        })
        .collect()
}

/// `path` leads from the model that is resolved to `name`.
fn follow(
    name: &ModelName,
    models: &BTreeMap<ModelName, ModelConfig>,
    path: &mut Vec<ModelName>,
    order: &mut Vec<ModelName>,
) -> Result<(), FallbackError> {
    let Some(config) = models.get(name) else { return Ok(()) };
    for fallback in &config.fallback {
        if !models.contains_key(fallback) {
            return Err(FallbackError::Unknown {
                model: name.clone(),
                fallback: fallback.clone(),
            });
        }
        if let Some(start) = path.iter().position(|seen| seen == fallback) {
            let mut names = path[start..].to_vec();
            names.push(fallback.clone());
            return Err(FallbackError::Circle(names));
        }
        // What was followed before leads to nobody new, and to no circle.
        if order.contains(fallback) {
            continue;
        }
        order.push(fallback.clone());
        path.push(fallback.clone());
        follow(fallback, models, path, order)?;
        path.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProviderKind;

    fn name(name: &str) -> ModelName {
        ModelName::new(name).unwrap()
    }

    fn resolved(fallbacks: &[(&str, &[&str])]) -> Result<BTreeMap<ModelName, Vec<ModelName>>, String> {
        let models = fallbacks
            .iter()
            .map(|(model, others)| {
                let config = ModelConfig {
                    fallback: others.iter().map(|other| name(other)).collect(),
                    ..ModelConfig::of(ProviderKind::Scripted)
                };
                (name(model), config)
            })
            .collect();
        resolve_fallbacks(&models).map_err(|error| error.to_string())
    }

    #[test]
    fn fallbacks_of_fallbacks_follow_them_and_nobody_is_asked_twice() {
        let order = resolved(&[("a", &["b", "d"]), ("b", &["c"]), ("c", &["d"]), ("d", &[])]).unwrap();
        assert_eq!(order[&name("a")], ["b", "c", "d"].map(name));
        assert_eq!(order[&name("d")], []);
    }

    #[test]
    fn a_fallback_that_is_not_there_or_leads_back_is_refused_with_its_name() {
        let unknown = resolved(&[("a", &["b"])]).unwrap_err();
        assert!(unknown.contains("[model.a] fallback names `b`"), "{unknown}");
        let itself = resolved(&[("a", &["a"])]).unwrap_err();
        assert!(itself.contains("a → a"), "{itself}");
        let circle = resolved(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]).unwrap_err();
        assert!(circle.contains("b → c → b"), "{circle}");
    }
}
