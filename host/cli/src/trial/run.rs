//! Running tests: a host on a temporary data directory, an org of its own for each test, with the component, a session and a
//! workspace, and the outside of the test behind the door. So nothing that one test used up is missed by the next.

use super::{
    ambient::Staged,
    case::{Answer, Case, Expect, Fault},
    files::Located,
    judge::{Came, Finding, Kept, Verdict, is_an_answer, judge, said, shown, word},
    outside::{Asked, Outside},
    record::{self, Recorded},
    snapshot::Snapshots,
};
use crate::{
    boot,
    compiled_code::CompiledCode,
    component_file::Beside,
    config::Loaded,
    printed::{self, Printed},
    temporary::Temporary,
};
use anyhow::Context as _;
use fumehood_agent::{
    host::NewSession,
    install::{LoadedComponent, NewGrant},
    recording::HttpTape,
    tools::{Called, Staging},
};
use fumehood_core::{
    call::{Metering, status_of},
    id::SessionId,
    ledger::EgressOutcome,
    name::{AgentName, OrgName, SecretName, ToolName},
};
use fumehood_egress::{EgressConfig, Resolver, Wire};
use fumehood_policy::{
    agent::AgentConfig, authority::HostPolicy, grant::Grant, limits::Limits, manifest::Manifest, quantity::ByteSize,
    suggest::nearest,
};
use fumehood_store::{
    WorkspacePath,
    record::{Owner, PageRequest},
};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// A host on which tests of one component are run one after the other.
pub(crate) struct Trial {
    running: Temporary,
    outside: Outside,
    component: LoadedComponent,
    manifest: Manifest,
    /// What the component offers.
    tools: Vec<ToolName>,
    agents: BTreeMap<AgentName, AgentConfig>,
    policy: HostPolicy,
    answers: Answers,
    /// How many orgs there were.
    orgs: AtomicU64,
}

/// Who answers the requests that the door lets through.
pub(crate) enum Answers {
    /// The exchanges of the test.
    Written,
    /// Whoever is asked, with these secrets.
    Real(BTreeMap<SecretName, String>),
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
    /// What the component wrote beside its result.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) printed: Vec<Printed>,
    pub(crate) metering: Metering,
    /// What came of the call, as the wire has it.
    pub(crate) result: Value,
    /// All that it says in words.
    pub(crate) text: String,
}

/// A call that was made.
struct Made {
    called: Called,
    printed: Vec<Printed>,
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
/// The largest recording of one test, in bytes.
const MOST_RECORDED: u64 = 32 << 20;
/// How long a tool waits for the outside at most: nothing there is slow unless it never answers.
const PATIENCE: Duration = Duration::from_secs(2);

fn fault(fault: Fault) -> Answer {
    Answer {
        fault: Some(fault),
        ..Answer::default()
    }
}

impl Trial {
    /// Starts a host for this component.
    pub(crate) async fn start(loaded: &Loaded, file: &Path, answers: Answers) -> anyhow::Result<Self> {
        let beside = Beside::of(file)?;
        beside.tell();
        let outside = Outside::default();
        let as_configured = boot::door(loaded)?;
        let door = match &answers {
            Answers::Real(_) => as_configured,
            Answers::Written => EgressConfig {
                resolver: Resolver::Custom(Arc::new(outside.clone())),
                wire: Wire::Given(Arc::new(outside.clone())),
                first_byte_timeout: PATIENCE,
                idle_timeout: PATIENCE,
                ..as_configured
            },
        };
        let (running, file) = Box::pin(Temporary::start(loaded, &door, CompiledCode::of_user(), file)).await?;
        let component = beside.loaded(file.code, NewGrant::Requested);
        let inspected = component.inspect()?;
        Ok(Self {
            agents: loaded.config.agents(),
            policy: loaded.config.host_policy(),
            answers,
            running,
            outside,
            component,
            manifest: inspected.manifest,
            tools: inspected.tools.into_iter().map(|tool| tool.name).collect(),
            orgs: AtomicU64::new(0),
        })
    }

    /// Ends the host.
    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }

    /// Runs one test.
    pub(crate) async fn run(&self, located: &Located, case: &Case, how: Snapshots) -> anyhow::Result<Outcome> {
        let world = self.world(case).await?;
        let made = self.call(located, case, &world, None).await?;
        let asked = self.outside.end();
        self.judge(located, case, how, (&world, made, asked)).await
    }

    /// Runs one test with the real outside, and takes down what that answers; nothing where it can't be written, which is a finding.
    pub(crate) async fn record(
        &self,
        located: &Located,
        case: &Case,
        how: Snapshots,
    ) -> anyhow::Result<(Outcome, Option<Recorded>)> {
        let world = self.world(case).await?;
        let tape = HttpTape::new(MOST_RECORDED);
        let made = self.call(located, case, &world, Some(tape.clone())).await?;
        let mut outcome = self.judge(located, case, how, (&world, made, Asked::default())).await?;
        let granted = self.grant(case)?;
        let secrets = record::Secrets {
            values: &self.secrets(located.file.secrets_of(case))?,
            credentials: self
                .manifest
                .credentials
                .iter()
                .flat_map(|asked| granted.credentials.iter().filter_map(|grant| grant.narrow(asked)))
                .collect(),
        };
        if self.absent(located, case).is_some() {
            return Ok((outcome, None));
        }
        let taken = tape.take().map_err(|error| record::too_much(&error, MOST_RECORDED));
        let recorded = taken.and_then(|taken| record::recorded(&located.stem(), &case.name, taken, &secrets));
        match recorded {
            Ok(recorded) => Ok((outcome, Some(recorded))),
            Err(finding) => {
                outcome.findings.push(finding);
                outcome.verdict = Verdict::Failed;
                Ok((outcome, None))
            }
        }
    }

    async fn judge(
        &self,
        located: &Located,
        case: &Case,
        how: Snapshots,
        (world, Made { called, printed }, asked): (&World, Made, Asked),
    ) -> anyhow::Result<Outcome> {
        let came = Came {
            result: &called.result,
            files: world.files(&case.expect)?,
            kv: self.kv(world, &case.expect).await?,
            asked,
        };
        let stem = located.stem();
        let kept = Kept {
            how,
            dir: located.dir(),
            stem: &stem,
            name: &case.name,
        };
        // Where there is no tool, nothing else that came of the call says anything of it.
        let findings = match self.absent(located, case) {
            Some(absent) => vec![absent],
            None => judge(&case.expect, &came, &kept)?,
        };
        Ok(Outcome {
            name: case.name.clone(),
            verdict: if findings.is_empty() {
                Verdict::Passed
            } else {
                Verdict::Failed
            },
            findings,
            refused: self.refused(world).await?,
            printed,
            metering: called.metering,
            result: shown(&called.result),
            text: said(&called.result),
        })
    }

    /// What there is to say of a test whose tool the component does not have.
    fn absent(&self, located: &Located, case: &Case) -> Option<Finding> {
        let tool = located.file.tool_of(case).unwrap_or_default();
        if self.tools.iter().any(|there| there.as_str() == tool) {
            return None;
        }
        let there: Vec<&str> = self.tools.iter().map(ToolName::as_str).collect();
        Some(Finding {
            about: "tool".to_owned(),
            expected: match there.is_empty() {
                true => "a component with tools".to_owned(),
                false => format!("one of {}", there.join(", ")),
            },
            found: format!("the component has no `{tool}`{}", nearest(tool, there.iter().copied())),
        })
    }

    /// Refuses a test that could not be recorded, before anybody is asked: without its secrets, or with a grant that can't be.
    pub(crate) fn can_record(&self, located: &Located, case: &Case) -> anyhow::Result<()> {
        self.grant(case)?;
        self.secrets(located.file.secrets_of(case))?;
        Ok(())
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
            let Made { called, .. } = self.call(located, &case, &world, None).await?;
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
        let org = self.org().await?;
        let session = host.create_session(&org, NewSession::default()).await?.id;
        let owner = Owner::Session(org.clone(), session);
        for (key, value) in &case.kv {
            let set = host.store().kv_set(&owner, key, value.as_bytes()).await;
            set.with_context(|| format!("`kv` of the test {:?}", case.name))?;
        }
        Ok(World {
            dir,
            org,
            session,
            owner,
        })
    }

    /// Another org, which has the component and has used nothing yet.
    async fn org(&self) -> anyhow::Result<OrgName> {
        let org = OrgName::new(format!("test-{}", self.orgs.fetch_add(1, Ordering::Relaxed)))?;
        let host = &self.running.host;
        host.store().create_org(&org).await?;
        host.store().replace_agents(&org, &self.agents).await?;
        host.add_loaded(&org, self.component.clone()).await?;
        Ok(org)
    }

    /// Makes the call, and leaves the outside as it is then.
    async fn call(
        &self,
        located: &Located,
        case: &Case,
        world: &World,
        exchanges: Option<HttpTape>,
    ) -> anyhow::Result<Made> {
        let host = &self.running.host;
        let grant = self.grant(case)?;
        host.set_grant(&world.org, &self.manifest.name, &grant, None).await?;
        let secrets = self.secrets(located.file.secrets_of(case))?;
        for (name, value) in &secrets {
            let value = SecretString::from(value.clone());
            host.store().secret_set(&world.owner, name, &value).await?;
        }
        self.outside
            .begin(case.exchanges.clone(), secrets, located.dir().to_owned());
        let HostPolicy { defaults, ceilings, .. } = &self.policy;
        let limits = Limits::effective(defaults, &self.manifest.limits, &grant.limits, ceilings);
        let ambient = Staged::new(case.clock, case.seed, limits.time.as_millis())?;
        let staging = Staging {
            dir: Some(world.dir.path().to_owned()),
            ambient: ambient.map(|staged| Arc::new(staged) as Arc<_>),
            exchanges,
            host_calls: false,
        };
        let tool = located.file.tool_of(case).unwrap_or_default();
        let call = host.call_tool_observed(&world.org, world.session, staging, tool, case.arguments.clone());
        let (called, events) = Box::pin(call).await?;
        let printed = printed::of(&events);
        Ok(Made { called, printed })
    }

    /// What the component may do in a test.
    fn grant(&self, case: &Case) -> anyhow::Result<Grant> {
        let mut grant = match &case.grant {
            Some(grant) => grant.clone(),
            None => Grant::everything_requested(&self.manifest),
        };
        for (key, value) in &case.limits {
            let set = grant.limits.set(key, value);
            set.with_context(|| format!("`limits` of the test {:?}", case.name))?;
        }
        Ok(grant)
    }

    /// What is given, and for every other secret that the component names something made up; nothing where it would be sent somewhere.
    fn secrets(&self, given: BTreeMap<SecretName, String>) -> anyhow::Result<BTreeMap<SecretName, String>> {
        let credentials = self.manifest.credentials.iter().map(|credential| &credential.secret);
        let mut named: BTreeSet<SecretName> = credentials.chain(&self.manifest.secrets.sign).cloned().collect();
        let mut secrets = given;
        if let Answers::Real(real) = &self.answers {
            secrets.extend(real.clone());
        }
        named.retain(|name| !secrets.contains_key(name));
        match (&self.answers, named.first()) {
            (Answers::Real(_), Some(name)) => Err(crate::fault::of_usage(format!(
                "the component asks for the secret {name}, and whoever it is for would refuse one that is made up; give it: --secret {name}=…"
            ))),
            _ => {
                let made_up = |name: SecretName| {
                    let value = format!("made-up-{}", name.as_str().to_lowercase());
                    (name, value)
                };
                secrets.extend(named.into_iter().map(made_up));
                Ok(secrets)
            }
        }
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
            .ledger(&world.org, world.session, &page)
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
    org: OrgName,
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
