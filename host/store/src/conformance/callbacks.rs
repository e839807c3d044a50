//! Calls that tools handed on: which there are, who ends them, and what is told of them meanwhile.

use super::{Broken, Factory, Outcome, World, completed, ensure, ensure_eq, of_turn, promises, races::at_once};
use crate::{
    api::StoreError,
    callbacks::{Callback, CallbackState, Giving, Report, Reported},
    record::{Session, Turn},
};
use fumehood_core::{
    Time,
    awaited::AwaitedCall,
    call::{Arguments, CallError, CallErrorCode, CallResult, Metering, Output},
    content::Content,
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{CallId, CallbackId, TurnId},
    name::{OrgName, ToolName},
    now,
    turn::WaitingFor,
};
use std::{sync::Arc, time::Duration};

promises! {
    "a call that is handed on is found by its callback, with the digest of its token, from its event on" => found,
    "a result that is given is kept until its call has its end in the journal" => kept,
    "of many results that are given to one call one is kept" => one_gives,
    "a call whose time is over, or that has its end, takes no result" => late,
    "a call is handed on once" => once,
    "progress of a call is journaled no faster and no more often than it may be" => reports,
    "a turn waits until the first of its calls expires that have no end" => waits_for_the_first,
    "calls that were handed on go with their session" => deleted,
}

const TOKEN: &[u8] = b"a token";
const SOON: Duration = Duration::from_secs(3600);

pub(super) struct HandedOn {
    session: Session,
    turn: Turn,
    call: CallId,
    pub(super) callback: CallbackId,
}

impl HandedOn {
    pub(super) const fn turn(&self) -> TurnId {
        self.turn.id
    }
}

fn tool() -> Result<ToolName, Broken> {
    ToolName::new("build").map_err(|error| Broken(error.to_string()))
}

fn detached(turn: TurnId, call: CallId, callback: CallbackId, expires: Time) -> Result<NewEvent, Broken> {
    let body = EventBody::ToolDetached {
        call,
        tool: tool()?,
        callback,
        token: Digest::of(TOKEN),
        expires,
        note: Some("build 7".into()),
    };
    Ok(of_turn(turn, body))
}

fn paused(turn: TurnId) -> NewEvent {
    let waiting_for = WaitingFor::Results;
    of_turn(
        turn,
        EventBody::TurnPaused {
            waiting_for,
            worked_ms: None,
        },
    )
}

/// The end of a call, by what was brought.
fn brought(turn: TurnId, call: CallId, callback: CallbackId) -> NewEvent {
    NewEvent {
        source: Source::Callback { callback },
        ..of_turn(
            turn,
            EventBody::tool_completed(call, "build".into(), result("built"), Metering::default()),
        )
    }
}

fn ended(turn: TurnId, call: CallId) -> NewEvent {
    let error = CallError::new(CallErrorCode::Timeout, "nobody ended it");
    of_turn(
        turn,
        EventBody::tool_completed(call, "build".into(), Err(error), Metering::default()),
    )
}

/// A turn that waits for one call that was handed on.
pub(super) async fn handed_on(world: &World, org: &OrgName, expires: Time) -> Result<HandedOn, Broken> {
    let session = world.session(org).await?;
    let turn = world.turn(org, session.id).await?;
    let (call, callback) = (CallId::new(), CallbackId::new());
    let events = [detached(turn.id, call, callback, expires)?, paused(turn.id)];
    world.store.append(org, session.id, &events).await?;
    Ok(HandedOn {
        session,
        turn,
        call,
        callback,
    })
}

pub(super) fn giving(callback: CallbackId, said: &str) -> Giving {
    Giving {
        callback,
        request: Digest::of(said.as_bytes()),
        result: result(said),
        at: now(),
    }
}

fn result(said: &str) -> CallResult {
    Ok(Output {
        content: vec![Content::text(said)],
        ..Output::default()
    })
}

async fn state(world: &World, callback: CallbackId) -> Result<Option<CallbackState>, Broken> {
    Ok(world.store.callback(callback).await?.map(|callback| callback.state))
}

async fn found(world: &World) -> Outcome {
    let org = world.org().await?;
    let expires = Time::from_timestamp_nanos(now().timestamp_nanos_opt().unwrap_or_default() + 1_000_000_000);
    let handed = handed_on(world, &org, expires).await?;
    let expected = Callback {
        id: handed.callback,
        token: Digest::of(TOKEN),
        org: org.clone(),
        session: handed.session.id,
        turn: handed.turn.id,
        call: handed.call,
        expires,
        state: CallbackState::Open,
    };
    ensure_eq!(
        world.store.callback(handed.callback).await?,
        Some(expected),
        "the callback"
    );
    ensure_eq!(
        world.store.callback(CallbackId::new()).await?,
        None,
        "an unknown callback"
    );
    Ok(())
}

async fn kept(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let HandedOn {
        session,
        turn,
        call,
        callback,
    } = handed_on(world, &org, now() + SOON).await?;
    ensure_eq!(store.given(&org, turn.id).await?, [], "what was given before");
    ensure!(store.give(&giving(callback, "built")).await?, "the result was not kept");
    let request = Digest::of(b"built");
    ensure_eq!(
        state(world, callback).await?,
        Some(CallbackState::Given { request }),
        "the callback with a result"
    );
    ensure_eq!(
        store.given(&org, turn.id).await?,
        [(call, callback, result("built"))],
        "what was given"
    );
    let foreign = world.org().await?;
    ensure_eq!(store.given(&foreign, turn.id).await?, [], "what another org is told");
    let waiting = store.turns_given(None, 1000).await?;
    ensure!(
        waiting.iter().any(|waiting| waiting.id == turn.id),
        "the turn was not found that was given something"
    );
    store
        .append(&org, session.id, &[brought(turn.id, call, callback)])
        .await?;
    let request = Some(request);
    ensure_eq!(
        state(world, callback).await?,
        Some(CallbackState::Settled { request }),
        "the callback with an end"
    );
    ensure_eq!(
        store.given(&org, turn.id).await?,
        [],
        "what was given and is in the journal"
    );
    let waiting = store.turns_given(None, 1000).await?;
    ensure!(
        !waiting.iter().any(|waiting| waiting.id == turn.id),
        "the turn was found though all is in the journal"
    );
    Ok(())
}

async fn one_gives(world: &World) -> Outcome {
    let org = world.org().await?;
    let HandedOn { turn, callback, .. } = handed_on(world, &org, now() + SOON).await?;
    let results = at_once(16, |number| {
        let store = Arc::clone(&world.store);
        async move { store.give(&giving(callback, &number.to_string())).await }
    })
    .await?;
    let mut kept = Vec::new();
    for (number, result) in results.into_iter().enumerate() {
        if result? {
            kept.push(number);
        }
    }
    ensure_eq!(kept.len(), 1, "those whose result was kept");
    ensure_eq!(
        world.store.given(&org, turn.id).await?.len(),
        1,
        "the results that are kept"
    );
    Ok(())
}

async fn late(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let over = handed_on(world, &org, now()).await?;
    ensure!(
        !store.give(&giving(over.callback, "late")).await?,
        "a result came too late and was kept"
    );
    let HandedOn {
        session,
        turn,
        call,
        callback,
    } = handed_on(world, &org, now() + SOON).await?;
    store.append(&org, session.id, &[ended(turn.id, call)]).await?;
    ensure!(
        !store.give(&giving(callback, "late")).await?,
        "a result was kept of a call that has its end"
    );
    ensure_eq!(
        state(world, callback).await?,
        Some(CallbackState::Settled { request: None }),
        "the callback of a call that ended by itself"
    );
    let other = handed_on(world, &org, now() + SOON).await?;
    ensure!(
        store.give(&giving(other.callback, "built")).await?,
        "the result was not kept"
    );
    store
        .append(&org, other.session.id, &[ended(other.turn.id, other.call)])
        .await?;
    ensure_eq!(
        state(world, other.callback).await?,
        Some(CallbackState::Settled { request: None }),
        "the callback of a call that ended by itself before its result was in the journal"
    );
    ensure!(
        !store.give(&giving(CallbackId::new(), "nobody's")).await?,
        "a result was kept of no call"
    );
    Ok(())
}

async fn once(world: &World) -> Outcome {
    let org = world.org().await?;
    let handed = handed_on(world, &org, now() + SOON).await?;
    let again = detached(handed.turn.id, handed.call, CallbackId::new(), now() + SOON)?;
    let refused = world.store.append(&org, handed.session.id, &[again]).await;
    ensure!(
        matches!(refused, Err(StoreError::Invalid { .. })),
        "the same call again: {refused:?}"
    );
    Ok(())
}

async fn reports(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let HandedOn {
        session,
        turn,
        call,
        callback,
    } = handed_on(world, &org, now() + SOON).await?;
    let begun = now();
    let report = |seconds: u64, most| Report {
        callback,
        at: begun + Duration::from_secs(seconds),
        after: Duration::from_secs(10),
        most,
        event: of_turn(
            turn.id,
            EventBody::ToolProgress {
                call,
                message: "half".into(),
                fraction: Some(0.5),
            },
        ),
    };
    let first = store.report(&report(0, 2)).await?;
    ensure!(
        matches!(&first, Reported::Recorded(event) if event.seq.is_some() && event.turn == Some(turn.id)),
        "the first report: {first:?}"
    );
    ensure_eq!(store.report(&report(9, 2)).await?, Reported::TooMany, "one too soon");
    let second = store.report(&report(10, 2)).await?;
    ensure!(matches!(second, Reported::Recorded(_)), "the second report: {second:?}");
    ensure_eq!(
        store.report(&report(30, 2)).await?,
        Reported::TooMany,
        "one more than may be"
    );
    store.give(&giving(callback, "built")).await?;
    ensure_eq!(
        store.report(&report(60, 9)).await?,
        Reported::Late,
        "one after the result"
    );
    let kept = store.events(&org, session.id, 0, 100).await?;
    let told = kept
        .iter()
        .filter(|event| matches!(event.body, EventBody::ToolProgress { .. }));
    ensure_eq!(told.count(), 2, "the reports in the journal");
    Ok(())
}

pub(super) const OF_A_DELETED: &str = "what is brought for a session whose deletion is decided counts for nothing";

pub(super) async fn of_a_deleted(world: &World, factory: &dyn Factory) -> Outcome {
    let (store, org) = (&world.store, world.org().await?);
    let given = handed_on(world, &org, now() + SOON).await?;
    let open = handed_on(world, &org, now() + SOON).await?;
    ensure!(
        store.give(&giving(given.callback, "built")).await?,
        "it was not taken before"
    );
    ensure_eq!(
        store.given(&org, given.turn.id).await?.len(),
        1,
        "what was given before"
    );
    for session in [given.session.id, open.session.id] {
        factory.decide_deletion(session).await;
    }
    ensure_eq!(store.given(&org, given.turn.id).await?, [], "what was given");
    ensure!(!store.give(&giving(open.callback, "built")).await?, "a result is taken");
    let call = open.call;
    let report = Report {
        callback: open.callback,
        at: now(),
        after: Duration::ZERO,
        most: 9,
        event: of_turn(
            open.turn.id,
            EventBody::ToolProgress {
                call,
                message: "half".into(),
                fraction: None,
            },
        ),
    };
    ensure_eq!(store.report(&report).await?, Reported::Late, "a report");
    Ok(())
}

async fn waits_for_the_first(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let turn = world.turn(&org, session.id).await?;
    // Earlier than any other that the suite makes, and than any there may be already.
    let at = Time::from_timestamp_nanos;
    let calls = [CallId::new(), CallId::new(), CallId::new()];
    let asked = AwaitedCall {
        call_id: calls[2],
        tool: tool()?,
        arguments: Arguments::new(),
        expires: at(-7),
        note: None,
    };
    let events = [
        detached(turn.id, calls[0], CallbackId::new(), at(-9))?,
        detached(turn.id, calls[1], CallbackId::new(), at(-8))?,
        of_turn(turn.id, EventBody::ResultsRequested { calls: vec![asked] }),
        paused(turn.id),
    ];
    store.append(&org, session.id, &events).await?;
    for (number, expires) in [(0, -9), (1, -8), (2, -7)] {
        let first = store.turns_waiting(None, 1).await?;
        let first: Vec<_> = first.into_iter().map(|(turn, until)| (turn.id, until)).collect();
        ensure_eq!(first, [(turn.id, at(expires))], "the turn that waits least long");
        store.append(&org, session.id, &[ended(turn.id, calls[number])]).await?;
    }
    store.append(&org, session.id, &[completed(turn.id)]).await?;
    Ok(())
}

async fn deleted(world: &World) -> Outcome {
    let org = world.org().await?;
    let handed = handed_on(world, &org, now() + SOON).await?;
    world.store.delete_session(&org, handed.session.id).await?;
    ensure_eq!(
        world.store.callback(handed.callback).await?,
        None,
        "the callback of a session that is gone"
    );
    ensure!(
        !world.store.give(&giving(handed.callback, "late")).await?,
        "a result was kept of a session that is gone"
    );
    Ok(())
}
