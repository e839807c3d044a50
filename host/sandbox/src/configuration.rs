//! `wasi:config/store`: the granted environment variables as settings, for components that ask for those by this interface rather than by
//! `wasi:cli/environment`. What is not granted is a setting that is not there.

use crate::{call::Denial, state::CallState};
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
            self.log.deny(Denial::new(what));
            return None;
        }
        let found = self.ports.env.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.clone())
    }

    fn settings(&self) -> Vec<(String, String)> {
        let granted = self.ports.env.iter().filter(|(name, _)| self.authority.may_see(name));
        granted.cloned().collect()
    }
}
