//! `wasi:config/store`: the granted environment variables as settings, for components that ask for those by this interface rather than by
//! `wasi:cli/environment`. What is not granted is a setting that is not there.

use crate::{
    call::Denial,
    state::CallState,
    witness::{Interface, Outcome, Question, bytes},
};
use fumehood_policy::manifest::EnvName;
use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Linker, Lower},
};

/// The interface as it was published; a draft counts only under its exact version.
const VERSIONS: [&str; 2] = ["wasi:config/store@0.2.0-draft", "wasi:config/store@0.2.0-rc.1"];

/// Of a store that is somewhere else. Here, reading never fails.
#[derive(ComponentType, Lower)]
#[component(variant)]
#[expect(dead_code, reason = "part of the interface's type")]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

type Answer<T> = wasmtime::Result<(Result<T, Error>,)>;

pub(crate) fn add_to_linker(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    for version in VERSIONS {
        let mut store = linker.instance(version)?;
        store.func_wrap(
            "get",
            |store: StoreContextMut<'_, CallState>, (key,): (String,)| -> Answer<Option<String>> {
                Ok((Ok(store.data().setting(&key)),))
            },
        )?;
        store.func_wrap(
            "get-all",
            |store: StoreContextMut<'_, CallState>, (): ()| -> Answer<Vec<(String, String)>> {
                Ok((Ok(store.data().settings()),))
            },
        )?;
    }
    Ok(())
}

impl CallState {
    fn setting(&self, key: &str) -> Option<String> {
        let question = self.asked_settings(|| format!("get {key:?}"));
        // THREAT[T-box-env]
        if !self.authority.may_see(key) {
            // The interface has no word for a refusal, and what many components ask for is optional, so it goes into the report. Only
            // what could be granted is named there: a guest may ask for anything, at any length.
            let what = match key.parse::<EnvName>() {
                Ok(name) => format!(
                    "the setting {name} is not there for it: `names` under `[env]` does not have it, in tool.toml or in the grant"
                ),
                Err(_) => "it asked for a setting under a name that no variable can have, and so none can be granted"
                    .to_owned(),
            };
            self.log.deny(Denial::new(what.clone()));
            question.answer(|| Outcome::Denied(what));
            return None;
        }
        let found = self.ports.env.iter().find(|(name, _)| name == key);
        let value = found.map(|(_, value)| value.clone());
        question.answer(|| {
            Outcome::Done(
                value
                    .as_ref()
                    .map_or_else(|| "not set".to_owned(), |value| bytes(value.len())),
            )
        });
        value
    }

    fn settings(&self) -> Vec<(String, String)> {
        let question = self.asked_settings(|| "which settings there are".to_owned());
        let granted = self.ports.env.iter().filter(|(name, _)| self.authority.may_see(name));
        let granted: Vec<(String, String)> = granted.cloned().collect();
        question.answer(|| {
            let names: Vec<&str> = granted.iter().map(|(name, _)| name.as_str()).collect();
            Outcome::Done(if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            })
        });
        granted
    }

    /// For who explains the call.
    fn asked_settings(&self, words: impl FnOnce() -> String) -> Question {
        Question::new(self.ports.witness.as_ref(), Interface::Settings, || {
            (words(), Some("[env] names".to_owned()))
        })
    }
}
