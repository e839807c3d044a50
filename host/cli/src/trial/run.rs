//! Running tests: a host on a temporary data directory with the component, a fresh session and workspace for each test, and the
//! outside of the test behind the door.

use super::{
    case::{Answer, Case, Expect, Fault},
    files::Located,
    judge::{Came, Finding, Kept, Verdict, is_an_answer, judge, said, word},
    outside::Outside,
    snapshot::Snapshots,
};
use crate::{boot, compiled_code::CompiledCode, component_file::ComponentFile, config::Loaded, temporary::Temporary};
use anyhow::Context as _;
use fumehood_agent::{host::NewSession, install::NewGrant, tools::Called};
use fumehood_core::{
    call::{Metering, status_of},
    id::SessionId,
    ledger::EgressOutcome,
    name::{ComponentName, OrgName, SecretName},
};
use fumehood_egress::{EgressConfig, Resolver, Wire};
use fumehood_policy::{grant::Grant, manifest::Manifest, quantity::ByteSize};
use fumehood_store::{
    WorkspacePath,
    record::{Owner, PageRequest},
};
use secrecy::SecretString;
use serde::Serialize;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;

/// A host with one component, on which tests are run one after the other.
pub(crate) struct Trial {
    running: Temporary,
    outside: Outside,
    org: OrgName,
    name: ComponentName,
    manifest: Manifest,
}

/// What came of a test.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) findings: Vec<Finding>,
    /// What the door refused, and by which rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<String>,
    pub(crate) metering: Metering,
}

/// What came of a test whose outside fails in one way.
#[derive(Debug, Serialize)]
pub(crate) struct Bent {
    /// How it fails, in words.
    pub(crate) how: &'static str,
    pub(crate) verdict: Verdict,
    /// How the call ended, and what it said.
    pub(crate) came: String,
}

/// A way in which an outside fails: in words, and its answer.
type Failing = (&'static str, fn() -> Answer);

const FAILURES: [Failing; 8] = [
    ("429, come back in 7 s", || Answer {
        status: Some(429),
        headers: BTreeMap::from([("retry-after".to_owned(), "7".to_owned())]),
        ..Answer::default()
    }),
    ("500", || Answer {
        status: Some(500),
        ..Answer::default()
    }),
    ("an empty body", Answer::default),
    ("a page of HTML", || Answer {
        headers: BTreeMap::from([("content-type".to_owned(), "text/html".to_owned())]),
        body: Some("<!doctype html><title>Sign in</title>".to_owned()),
        ..Answer::default()
    }),
    ("10 MiB", || Answer {
        size: Some(ByteSize(10 << 20)),
        ..Answer::default()
    }),
    ("no answer", || fault(Fault::Hang)),
    ("a connection that breaks", || fault(Fault::Reset)),
    ("half of a body", || Answer {
        body: Some("{\"never\": \"finished\"}".to_owned()),
        ..fault(Fault::Cut)
    }),
];
/// How long a tool waits for the outside at most: nothing there is slow unless it never answers.
const PATIENCE: Duration = Duration::from_secs(2);

fn fault(fault: Fault) -> Answer {
    Answer {
        fault: Some(fault),
        ..Answer::default()
    }
}

impl Trial {
    /// Starts a host with this component.
    pub(crate) async fn start(loaded: &Loaded, file: &Path) -> anyhow::Result<Self> {
        let file = ComponentFile::read(file)?;
        file.tell();
        let outside = Outside::default();
        let door = EgressConfig {
            resolver: Resolver::Custom(Arc::new(outside.clone())),
            wire: Wire::Given(Arc::new(outside.clone())),
            first_byte_timeout: PATIENCE,
            idle_timeout: PATIENCE,
            ..boot::door(&loaded.config)
        };
        let running = Temporary::start(loaded, &door, CompiledCode::of_user()).await?;
        let org = OrgName::default_org();
        let added = running
            .host
            .add_component(&org, file.component(NewGrant::Requested))
            .await?;
        Ok(Self {
            running,
            outside,
            org,
            name: added.component.name,
            manifest: added.component.manifest,
        })
    }

    /// Ends the host.
    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }

    /// Runs one test.
    pub(crate) async fn run(&self, located: &Located, case: &Case, how: Snapshots) -> anyhow::Result<Outcome> {
        let world = self.world(case).await?;
        let called = self.call(located, case, &world).await?;
        let asked = self.outside.end();
        let came = Came {
            result: &called.result,
            files: world.files(&case.expect)?,
            kv: self.kv(&world, &case.expect).await?,
            asked,
        };
        let stem = located.stem();
        let kept = Kept {
            how,
            dir: located.dir(),
            stem: &stem,
            name: &case.name,
        };
        let findings = judge(&case.expect, &came, &kept)?;
        Ok(Outcome {
            name: case.name.clone(),
            verdict: if findings.is_empty() {
                Verdict::Passed
            } else {
                Verdict::Failed
            },
            findings,
            refused: self.refused(&world).await?,
            metering: called.metering,
        })
    }

    /// Runs a test with each way in which its outside may fail. What the tool says then is its own matter; that it says
    /// something, and neither traps nor has to be stopped, is what passes.
    pub(crate) async fn bend(&self, located: &Located, case: &Case) -> anyhow::Result<Vec<Bent>> {
        let mut bent = Vec::new();
        for (how, answer) in FAILURES {
            let mut case = case.clone();
            for exchange in &mut case.exchanges {
                exchange.response = answer();
                exchange.repeat = true;
            }
            let world = self.world(&case).await?;
            let called = self.call(located, &case, &world).await?;
            self.outside.end();
            let status = status_of(&called.result);
            bent.push(Bent {
                how,
                verdict: if is_an_answer(status) {
                    Verdict::Passed
                } else {
                    Verdict::Failed
                },
                came: format!("{}: {}", word(&status), said(&called.result)),
            });
        }
        Ok(bent)
    }

    /// A session, a workspace and key-values as a test wants to find them.
    async fn world(&self, case: &Case) -> anyhow::Result<World> {
        let dir = tempfile::tempdir().context("cannot make a temporary workspace")?;
        for (path, text) in &case.files {
            let path = WorkspacePath::new(path).with_context(|| format!("`files` of the test {:?}", case.name))?;
            let path = dir.path().join(path.as_str());
            path.parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| std::fs::write(&path, text))
                .with_context(|| format!("cannot write the file `{}` of the test {:?}", path.display(), case.name))?;
        }
        let host = &self.running.host;
        let session = host.create_session(&self.org, NewSession::default()).await?.id;
        let owner = Owner::Session(self.org.clone(), session);
        for (key, value) in &case.kv {
            host.store().kv_set(&owner, key, value.as_bytes()).await?;
        }
        Ok(World { dir, session, owner })
    }

    /// Makes the call, and leaves the outside as it is then.
    async fn call(&self, located: &Located, case: &Case, world: &World) -> anyhow::Result<Called> {
        let host = &self.running.host;
        let mut grant = match &case.grant {
            Some(grant) => grant.clone(),
            None => Grant::everything_requested(&self.manifest),
        };
        for (key, value) in &case.limits {
            let set = grant.limits.set(key, value);
            set.with_context(|| format!("`limits` of the test {:?}", case.name))?;
        }
        host.set_grant(&self.org, &self.name, &grant, None).await?;
        let secrets = self.secrets(located.file.secrets_of(case));
        for (name, value) in &secrets {
            let value = SecretString::from(value.clone());
            host.store().secret_set(&world.owner, name, &value).await?;
        }
        self.outside
            .begin(case.exchanges.clone(), secrets, located.dir().to_owned());
        let tool = located.file.tool_of(case).unwrap_or_default();
        let files = world.dir.path();
        let call = host.call_tool_observed(&self.org, world.session, Some(files), tool, case.arguments.clone());
        let (called, _) = Box::pin(call).await?;
        Ok(called)
    }

    /// What is given, and something made up for every other secret that the component names.
    fn secrets(&self, given: BTreeMap<SecretName, String>) -> BTreeMap<SecretName, String> {
        let credentials = self.manifest.credentials.iter().map(|credential| &credential.secret);
        let mut secrets: BTreeMap<SecretName, String> = credentials
            .chain(&self.manifest.secrets.sign)
            .map(|name| (name.clone(), format!("made-up-{}", name.as_str().to_lowercase())))
            .collect();
        secrets.extend(given);
        secrets
    }

    async fn kv(&self, world: &World, expect: &Expect) -> anyhow::Result<BTreeMap<String, Option<String>>> {
        let mut found = BTreeMap::new();
        for key in expect.kv.keys() {
            let value = self.running.host.store().kv_get(&world.owner, key).await?;
            found.insert(key.clone(), value.and_then(|value| String::from_utf8(value).ok()));
        }
        Ok(found)
    }

    /// What the door refused, in the order in which it was asked.
    async fn refused(&self, world: &World) -> anyhow::Result<Vec<String>> {
        self.running.egress.flush().await;
        let page = PageRequest {
            after: None,
            limit: 1000,
        };
        let ledger = self
            .running
            .host
            .store()
            .ledger(&self.org, world.session, &page)
            .await?;
        let refused = ledger.items.into_iter().filter_map(|entry| match entry.outcome {
            EgressOutcome::Denied { reason } => {
                Some(format!("{} {}{}: {reason}", entry.method, entry.host, entry.path))
            }
            _ => None,
        });
        Ok(refused.collect())
    }
}

/// Where a test runs.
struct World {
    /// Its workspace, removed with this.
    dir: TempDir,
    session: SessionId,
    owner: Owner,
}

impl World {
    /// The files that something is expected of.
    fn files(&self, expect: &Expect) -> anyhow::Result<BTreeMap<String, Option<String>>> {
        let mut found = BTreeMap::new();
        for path in expect.files.keys() {
            let checked = WorkspacePath::new(path).context("`expect.files`")?;
            let text = std::fs::read_to_string(self.dir.path().join(checked.as_str())).ok();
            found.insert(path.clone(), text);
        }
        Ok(found)
    }
}
