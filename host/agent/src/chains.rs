//! The chains of agents, as turns and calls use them: each is made ready once, and again when one of its agents is configured
//! otherwise.

use fumehood_core::name::{AgentName, OrgName};
use fumehood_policy::agent::{AgentConfigError, AgentSpec, Lineage};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Chains that are kept ready, of all orgs.
const MOST: usize = 1024;

/// The chains that are ready.
#[derive(Default)]
pub(crate) struct Chains {
    ready: Mutex<HashMap<(OrgName, AgentName), Ready>>,
}

struct Ready {
    /// What it was made of.
    lineage: Lineage,
    chain: Arc<[AgentSpec]>,
    used: Instant,
}

impl Chains {
    /// The chain of one of an org's agents, root to leaf.
    ///
    /// # Errors
    /// When the agents do not fit together. `None`: making it ready broke.
    pub(crate) async fn get(
        &self,
        org: &OrgName,
        agent: &AgentName,
        lineage: Lineage,
    ) -> Result<Option<Arc<[AgentSpec]>>, AgentConfigError> {
        let key = (org.clone(), agent.clone());
        if let Some(ready) = self.ready().get_mut(&key).filter(|ready| ready.lineage == lineage) {
            ready.used = Instant::now();
            return Ok(Some(Arc::clone(&ready.chain)));
        }
        // THREAT[T-appr-expression-cost]: conditions take a while to compile, so not on a thread that serves others.
        let making = tokio::task::spawn_blocking(move || (lineage.resolve(), lineage));
        let (chain, lineage) = match making.await {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, "a chain of agents could not be made ready");
                return Ok(None);
            }
        };
        let chain: Arc<[AgentSpec]> = chain?.into();
        let mut all = self.ready();
        if all.len() >= MOST && !all.contains_key(&key) {
            let oldest = all.iter().min_by_key(|(_, ready)| ready.used);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                all.remove(&key);
            }
        }
        let ready = Ready {
            lineage,
            chain: Arc::clone(&chain),
            used: Instant::now(),
        };
        all.insert(key, ready);
        Ok(Some(chain))
    }

    fn ready(&self) -> MutexGuard<'_, HashMap<(OrgName, AgentName), Ready>> {
        // What it guards can be made anew at any time.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_policy::agent::AgentConfig;
    use std::collections::BTreeMap;

    fn configured(agents: &[(&str, Option<&str>, &str)]) -> BTreeMap<AgentName, AgentConfig> {
        let agents = agents.iter().map(|(name, extends, instructions)| {
            let config = AgentConfig {
                extends: extends.map(|name| AgentName::new(name).unwrap()),
                instructions: Some((*instructions).to_owned()),
                ..AgentConfig::default()
            };
            (AgentName::new(*name).unwrap(), config)
        });
        agents.collect()
    }

    async fn got(chains: &Chains, org: &str, agent: &str, all: &BTreeMap<AgentName, AgentConfig>) -> Arc<[AgentSpec]> {
        let agent = AgentName::new(agent).unwrap();
        let lineage = Lineage::of(&agent, all).unwrap().unwrap();
        let org = OrgName::new(org).unwrap();
        chains.get(&org, &agent, lineage).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_chain_is_made_ready_once_until_one_of_its_agents_changes() {
        let chains = Chains::default();
        let before = configured(&[
            ("base", None, "one"),
            ("leaf", Some("base"), "two"),
            ("other", None, "x"),
        ]);
        let first = got(&chains, "acme", "leaf", &before).await;
        assert!(Arc::ptr_eq(&first, &got(&chains, "acme", "leaf", &before).await));

        let elsewhere = configured(&[
            ("base", None, "one"),
            ("leaf", Some("base"), "two"),
            ("other", None, "y"),
        ]);
        assert!(Arc::ptr_eq(&first, &got(&chains, "acme", "leaf", &elsewhere).await));

        let changed = configured(&[("base", None, "three"), ("leaf", Some("base"), "two")]);
        let second = got(&chains, "acme", "leaf", &changed).await;
        assert_eq!(second[1].instructions, "three\n\ntwo");
        assert!(Arc::ptr_eq(&second, &got(&chains, "acme", "leaf", &changed).await));
    }

    #[tokio::test]
    async fn what_an_org_has_ready_is_no_other_orgs() {
        let chains = Chains::default();
        let (mine, theirs) = (configured(&[("a", None, "mine")]), configured(&[("a", None, "theirs")]));
        for _ in 0..2 {
            assert_eq!(got(&chains, "acme", "a", &mine).await[0].instructions, "mine");
            assert_eq!(got(&chains, "rival", "a", &theirs).await[0].instructions, "theirs");
        }
        assert_eq!(chains.ready().len(), 2);
    }

    #[tokio::test]
    async fn only_so_many_are_kept_ready() {
        let chains = Chains::default();
        let all = configured(&[("a", None, "x"), ("b", None, "x")]);
        for n in 0..=MOST {
            got(&chains, &format!("org-{n}"), "a", &all).await;
        }
        assert_eq!(chains.ready().len(), MOST);
    }
}
