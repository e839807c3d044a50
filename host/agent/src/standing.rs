//! What holds for a component now. A step keeps the code and the definitions it began with, but what that code may do is what
//! the org decides while the step runs.

use fumehood_core::{
    call::{CallError, CallErrorCode},
    digest::Digest,
    name::{ComponentName, OrgName, ToolName},
};
use fumehood_policy::{grant::Grant, manifest::Manifest};
use fumehood_store::record::Component;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

/// What an org decided about one version of a component: shared by every snapshot that has the version.
pub(crate) struct Standing {
    component: ComponentName,
    now: RwLock<Decided>,
}

#[derive(Clone)]
enum Decided {
    Removed,
    Waiting,
    Granted(Arc<(Manifest, Grant)>),
}

impl From<&Component> for Decided {
    fn from(component: &Component) -> Self {
        match &component.grant {
            Some(grant) => Self::Granted(Arc::new((component.manifest.clone(), grant.clone()))),
            None => Self::Waiting,
        }
    }
}

impl Standing {
    fn new(component: &ComponentName, now: Decided) -> Arc<Self> {
        Arc::new(Self {
            component: component.clone(),
            now: RwLock::new(now),
        })
    }

    /// What the version asks for and is granted now.
    ///
    /// # Errors
    /// `denied` while it has no grant, and once it is removed.
    pub(crate) fn granted(&self, tool: &ToolName) -> Result<Arc<(Manifest, Grant)>, CallError> {
        let component = &self.component;
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner).clone();
        let message = match now {
            Decided::Granted(granted) => return Ok(granted),
            Decided::Waiting => format!(
                "the component {component} of the tool {tool} waits for a grant; the operator decides with `fumehood tool grant {component}`"
            ),
            Decided::Removed => format!(
                "the component {component} of the tool {tool} was removed while the turn ran; use another tool, or ask the operator to add it again"
            ),
        };
        Err(CallError::new(CallErrorCode::Denied, message))
    }

    fn set(&self, now: Decided) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// The standings of every org's components, as far as somebody still uses them.
#[derive(Default)]
pub(crate) struct Standings {
    orgs: Mutex<HashMap<OrgName, OfOrg>>,
}

#[derive(Default)]
struct OfOrg {
    generation: u64,
    versions: HashMap<(ComponentName, Digest), Weak<Standing>>,
}

impl Standings {
    /// Takes what the store says of an org's components, and gives each its standing, in the same order. What was read
    /// before something newer was taken changes nothing.
    pub(crate) fn take(&self, org: &OrgName, generation: u64, components: &[Component]) -> Vec<Arc<Standing>> {
        // THREAT[T-supply-revoked]: every snapshot that has the version shares its standing, those of turns that run as well.
        let mut orgs = self.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        let own = orgs.entry(org.clone()).or_default();
        let newest = generation >= own.generation;
        own.versions.retain(|_, standing| standing.strong_count() > 0);
        if newest {
            own.generation = generation;
            for ((name, _), standing) in &own.versions {
                // A version that another took the place of goes on as it was decided about last.
                if let Some(standing) = standing.upgrade()
                    && !components.iter().any(|component| component.name == *name)
                {
                    standing.set(Decided::Removed);
                }
            }
        }
        let standing_of = |component: &Component| {
            let key = (component.name.clone(), component.digest);
            match own.versions.get(&key).and_then(Weak::upgrade) {
                Some(standing) => {
                    if newest {
                        standing.set(component.into());
                    }
                    standing
                }
                None => {
                    let now = if newest { component.into() } else { Decided::Removed };
                    let standing = Standing::new(&component.name, now);
                    own.versions.insert(key, Arc::downgrade(&standing));
                    standing
                }
            }
        };
        components.iter().map(standing_of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::now;

    fn component(code: &[u8], granted: bool) -> Component {
        let name: ComponentName = "github".parse().unwrap();
        Component {
            org: OrgName::default_org(),
            digest: Digest::of(code),
            manifest: Manifest::without_requests(name.clone()),
            name,
            tools: Vec::new(),
            grant: granted.then(Grant::none),
            added: now(),
        }
    }

    fn may(standing: &Standing) -> bool {
        standing.granted(&"fetch".parse().unwrap()).is_ok()
    }

    #[test]
    fn a_version_in_use_has_the_grant_there_is_now() {
        let (standings, org) = (Standings::default(), OrgName::default_org());
        let held = standings.take(&org, 1, &[component(b"1", true)]).remove(0);
        assert!(may(&held));
        standings.take(&org, 2, &[component(b"1", false)]);
        assert!(!may(&held), "withheld");
        standings.take(&org, 3, &[component(b"1", true)]);
        assert!(may(&held), "granted again");
        let newer = standings.take(&org, 4, &[component(b"2", false)]).remove(0);
        assert!(
            may(&held) && !may(&newer),
            "another version decides nothing about this one"
        );
        standings.take(&org, 5, &[]);
        assert!(!may(&held) && !may(&newer), "removed");
    }

    #[test]
    fn what_was_read_before_a_change_was_taken_undoes_nothing() {
        let (standings, org) = (Standings::default(), OrgName::default_org());
        let held = standings.take(&org, 1, &[component(b"1", true)]).remove(0);
        standings.take(&org, 3, &[component(b"1", false)]);
        let late = standings.take(&org, 2, &[component(b"1", true)]).remove(0);
        assert!(!may(&held) && !may(&late));
    }
}
