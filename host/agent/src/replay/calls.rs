//! The calls of a turn, each run again by itself.

use super::{
    Difference, Replacement, ReplayError, ReplayParts, Verdict, first_difference, ports::Answers, recording_of,
};
use crate::recording::{FilesSeen, Recording, VERSION};
use fumehood_core::{
    call::{CallResult, ComponentRef},
    digest::Digest,
    event::{Event, EventBody},
    id::{CallId, SessionId},
    name::ComponentName,
};
use fumehood_files::Tree;
use fumehood_policy::{authority::Authority, quantity::Span};
use fumehood_sandbox::{Call, Component, Recall, ShareKey, ports::Workspace};
use fumehood_store::{
    record::Turn,
    workspace::{Differing, TakenAlong, WorkspaceError},
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// How much more time and CPU time a call has than it had: the machine may be another, and what it used is not compared.
const PATIENCE: u64 = 10;

/// A call that the model asked for.
pub(super) struct Asked {
    pub(super) id: CallId,
    pub(super) tool: String,
    /// How it began, where it ran in the sandbox; the last time, if it ran again.
    began: Option<Began>,
    recording: Option<Result<Digest, String>>,
}

struct Began {
    component: ComponentRef,
    authority: Option<Value>,
}

impl Asked {
    /// The component that ran.
    pub(super) fn component(&self) -> Option<&ComponentName> {
        self.began.as_ref().map(|began| &began.component.name)
    }
}

/// The calls of a turn, in the order in which the model asked for them.
pub(super) fn asked_for(events: &[Event]) -> Vec<Asked> {
    let asked = events.iter().filter_map(|event| match &event.body {
        EventBody::ToolRequested { call, .. } => Some(Asked {
            id: call.id,
            tool: call.tool.clone(),
            began: began(events, call.id),
            recording: recording_of(events, call.id),
        }),
        _ => None,
    });
    asked.collect()
}

fn began(events: &[Event], of: CallId) -> Option<Began> {
    events.iter().rev().find_map(|event| match &event.body {
        EventBody::ToolStarted {
            call,
            component,
            authority,
            ..
        } if *call == of => Some(Began {
            component: component.clone(),
            authority: authority.clone(),
        }),
        _ => None,
    })
}

/// What a call lacks to be run again.
struct Missing(String);

impl From<&str> for Missing {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// Runs one call again.
pub(super) async fn replay(
    parts: &ReplayParts,
    turn: &Turn,
    call: &Asked,
    with: Option<&Replacement>,
) -> Result<Verdict, ReplayError> {
    let Some(began) = &call.began else {
        return Ok(Verdict::Skipped {
            why: "no component ran in the turn: it was refused, runs in the background, or is a tool of the client or of the host itself"
                .to_owned(),
        });
    };
    match ready(parts, turn, call, began, with).await? {
        Ok(ready) => run(parts, turn.session, call.id, ready).await,
        Err(NotReady::Damaged(difference)) => Ok(Verdict::Differs { difference }),
        Err(NotReady::Missing(Missing(why))) => Ok(Verdict::NotRecorded { why }),
    }
}

/// A call with all it takes.
struct Ready {
    recording: Recording,
    answers: Answers,
    authority: Authority,
    code: Component,
}

enum NotReady {
    Missing(Missing),
    Damaged(Difference),
}

impl<M: Into<Missing>> From<M> for NotReady {
    fn from(missing: M) -> Self {
        Self::Missing(missing.into())
    }
}

async fn ready(
    parts: &ReplayParts,
    turn: &Turn,
    call: &Asked,
    began: &Began,
    with: Option<&Replacement>,
) -> Result<Result<Ready, NotReady>, ReplayError> {
    let digest = match &call.recording {
        Some(Ok(digest)) => digest,
        Some(Err(why)) => return Ok(Err(Missing(why.clone()).into())),
        None => {
            return Ok(Err(
                "it was not recorded: `record = true` was not set when it ran, or it was refused, cancelled, or cut off by a stop of the host"
                    .into()
            ));
        }
    };
    let Some(content) = parts.store.recording(&turn.org, turn.id, call.id).await? else {
        return Ok(Err(
            "its recording is not kept any more: recordings go once they are too old (`[retention] recordings`)".into(),
        ));
    };
    let there = Digest::of(&content);
    if there != *digest {
        let difference = Difference::new("the recording itself", digest.to_string(), there.to_string());
        return Ok(Err(NotReady::Damaged(difference)));
    }
    let recording: Recording = match serde_json::from_slice(&content) {
        Ok(recording) => recording,
        Err(_) => return Ok(Err("its recording is of a form that this version does not know".into())),
    };
    let answers = Answers::new(&recording).filter(|_| recording.version == VERSION);
    let Some(answers) = answers else {
        return Ok(Err("its recording is of a form that this version does not know".into()));
    };
    let authority = began.authority.clone().map(serde_json::from_value::<Authority>);
    let Some(Ok(authority)) = authority else {
        return Ok(Err("the journal does not say what it was allowed to do".into()));
    };
    let code = match with.filter(|with| with.name == began.component.name) {
        Some(with) => with.code.clone(),
        None => match load(parts, began.component.digest).await? {
            Some(code) => code,
            None => {
                let ComponentRef { name, digest } = &began.component;
                let why = format!("the code of the component {name} that it ran, {digest}, is not kept any more");
                return Ok(Err(Missing(why).into()));
            }
        },
    };
    Ok(Ok(Ready {
        recording,
        answers,
        authority: with_patience(authority),
        code,
    }))
}

async fn load(parts: &ReplayParts, digest: Digest) -> Result<Option<Component>, ReplayError> {
    if let Some(cached) = parts.sandbox.load_cached(digest).await {
        return Ok(Some(cached));
    }
    match parts.blobs.get(&digest).await {
        Ok(Some(code)) => Ok(Some(parts.sandbox.load(code, digest).await?)),
        Ok(None) => Ok(None),
        Err(error) => Err(ReplayError::Files(error.to_string())),
    }
}

fn with_patience(mut authority: Authority) -> Authority {
    let longer = |span: Span| Span::from_millis(span.as_millis().saturating_mul(PATIENCE));
    authority.limits.time = longer(authority.limits.time);
    authority.limits.cpu = longer(authority.limits.cpu);
    authority
}

async fn run(parts: &ReplayParts, session: SessionId, id: CallId, ready: Ready) -> Result<Verdict, ReplayError> {
    let Ready {
        recording,
        answers,
        authority,
        code,
    } = ready;
    let laid_out = match &recording.files {
        None => None,
        Some(files) => match lay_out(parts, session, id, files).await? {
            Some(dir) => Some((dir, files)),
            None => {
                return Ok(Verdict::NotRecorded {
                    why: "the state that the session's files were in is not kept any more".to_owned(),
                });
            }
        },
    };
    let workspace = match &laid_out {
        None => None,
        Some((dir, _)) => Some(Workspace {
            tree: Tree::open_ambient(dir, parts.quota)?,
        }),
    };
    let call = Call {
        id,
        tool: recording.tool.clone(),
        arguments: recording.arguments.clone(),
        idempotency_key: id.to_string(),
        locale: recording.locale.clone(),
        deadline: Some(authority.time_limit(Instant::now())),
        recall: Recall::never(),
        share: ShareKey::default(),
        nested: false,
    };
    let ports = answers.ports(&recording.env, workspace);
    let report = parts.sandbox.call(&code, call, authority.into(), ports).await;
    let mut difference = answers
        .difference()
        .await
        .or_else(|| first_difference("the result", &shown(&recording.result), &shown(&report.result)));
    if let (None, Some((dir, files))) = (&difference, &laid_out) {
        match changed_otherwise(parts, session, dir, files).await? {
            Left::Alike => {}
            Left::Otherwise(first) => difference = Some(first),
            Left::Unknown => {
                return Ok(Verdict::NotRecorded {
                    why: "the state that the session's files were left in is not kept any more".to_owned(),
                });
            }
        }
    }
    if let Some((dir, _)) = laid_out {
        // The caller's directory goes as a whole; this only keeps it from growing.
        let _ = tokio::fs::remove_dir_all(dir).await;
    }
    Ok(difference.map_or(Verdict::Identical, |difference| Verdict::Differs { difference }))
}

/// A result as it is compared.
fn shown(result: &CallResult) -> Value {
    match result {
        Ok(output) => serde_json::json!({ "output": output }),
        Err(error) => serde_json::json!({ "error": error }),
    }
}

/// The session's files as the call found them, in a directory of its own. None if the state is not kept any more.
async fn lay_out(
    parts: &ReplayParts,
    session: SessionId,
    call: CallId,
    files: &FilesSeen,
) -> Result<Option<PathBuf>, ReplayError> {
    let name = call.to_string();
    let dir = parts.scratch.join(&name);
    let laid_out = parts
        .workspaces
        .lay_out(session, files.before, &parts.scratch, &name)
        .await;
    match laid_out.map_err(|error| files_failed(&error))? {
        TakenAlong::All => {}
        TakenAlong::Nothing => tokio::fs::create_dir(&dir).await?,
        TakenAlong::Unavailable => return Ok(None),
    }
    Ok(Some(dir))
}

/// How a call left the session's files, beside how it left them when it was recorded.
enum Left {
    Alike,
    Otherwise(Difference),
    /// A state to compare with is not kept any more.
    Unknown,
}

/// Compares the files that the call left. Where others ran beside it, only what it changed itself is looked at.
async fn changed_otherwise(
    parts: &ReplayParts,
    session: SessionId,
    dir: &Path,
    files: &FilesSeen,
) -> Result<Left, ReplayError> {
    let Some(after) = files.after else {
        return Ok(Left::Alike);
    };
    let differing = async |state| {
        let found = parts.workspaces.differing(session, state, dir).await;
        found.map_err(|error| files_failed(&error))
    };
    let Some(mut otherwise): Option<Vec<Differing>> = differing(after).await? else {
        return Ok(Left::Unknown);
    };
    if files.shared {
        let Some(own) = differing(files.before).await? else {
            return Ok(Left::Unknown);
        };
        otherwise.retain(|one| own.iter().any(|own| own.path == one.path));
    }
    Ok(match otherwise.into_iter().next() {
        None => Left::Alike,
        Some(first) => Left::Otherwise(Difference::new(
            format!("/workspace/{}", first.path),
            first.kept,
            first.found,
        )),
    })
}

fn files_failed(error: &WorkspaceError) -> ReplayError {
    ReplayError::Files(error.to_string())
}
