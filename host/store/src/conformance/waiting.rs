//! Turns that wait for somebody: who goes on with them, and when they have waited long enough.

use super::{
    Broken, Outcome, World, completed, ensure, ensure_eq, new_turn, of_turn, promises, races::at_once,
    rewinds::to_before, work::seqs,
};
use crate::{
    api::StoreError,
    record::{Accepted, Ending, NewRewind, NewTurn, Seen, Session, Turn},
};
use fumehood_core::{
    Time,
    approval::AskedApproval,
    awaited::AwaitedCall,
    call::Arguments,
    digest::Digest,
    event::{EventBody, NewEvent},
    id::{CallId, TurnId},
    name::{OrgName, ToolName},
    now,
    turn::{TurnStatus, WaitingFor},
};
use std::sync::Arc;

promises! {
    "what is appended after a sight of a turn is appended while nothing else has happened in it" => after_what_was_seen,
    "turns that wait are found with their time, the one that waits least long first" => found,
    "a new turn takes the place of one that waits, with its end, whole or not at all" => replaced,
    "a new turn that can't undo what it was to undo ends none either" => stale_ends_nothing,
    "of many who act on the same sight of a turn one does" => one_acts,
    "of many inputs that would replace one turn one does" => one_replaces,
}

pub(super) struct Waits {
    pub(super) session: Session,
    pub(super) turn: Turn,
    pub(super) seen: Seen,
}

pub(super) async fn waits(world: &World, org: &OrgName, until: Time) -> Result<Waits, Broken> {
    waits_as(world, org, |turn| paused(turn, until)).await
}

async fn waits_as(world: &World, org: &OrgName, pauses: impl FnOnce(TurnId) -> Vec<NewEvent>) -> Result<Waits, Broken> {
    let session = world.session(org).await?;
    let turn = world.turn(org, session.id).await?;
    let events = world.store.append(org, session.id, &pauses(turn.id)).await?;
    let seq = events.last().and_then(|event| event.seq).unwrap_or_default();
    let seen = Seen { turn: turn.id, seq };
    Ok(Waits { session, turn, seen })
}

fn paused(turn: TurnId, until: Time) -> Vec<NewEvent> {
    let asked = AskedApproval {
        call_id: CallId::new(),
        tool: "send".into(),
        arguments: Arguments::new(),
        rule: "a rule".into(),
        fingerprint: Digest::of(b""),
        expires: until,
    };
    let waiting_for = WaitingFor::Approval;
    vec![
        of_turn(turn, EventBody::ApprovalRequested { calls: vec![asked] }),
        of_turn(
            turn,
            EventBody::TurnPaused {
                waiting_for,
                worked_ms: None,
            },
        ),
    ]
}

fn paused_for_results(turn: TurnId, tool: &ToolName, until: Time) -> Vec<NewEvent> {
    let call = |expires| AwaitedCall {
        call_id: CallId::new(),
        tool: tool.clone(),
        arguments: Arguments::new(),
        expires,
        note: None,
    };
    let calls = vec![call(until + std::time::Duration::from_secs(1)), call(until)];
    let waiting_for = WaitingFor::Results;
    vec![
        of_turn(turn, EventBody::ResultsRequested { calls }),
        of_turn(
            turn,
            EventBody::TurnPaused {
                waiting_for,
                worked_ms: None,
            },
        ),
    ]
}

pub(super) fn resumed(turn: TurnId) -> NewEvent {
    let waited_for = WaitingFor::Approval;
    of_turn(turn, EventBody::TurnResumed { waited_for })
}

fn replacing(seen: Seen) -> NewTurn {
    NewTurn {
        ends: Some(Ending {
            seen,
            events: vec![of_turn(
                seen.turn,
                EventBody::TurnCancelled {
                    usage: None,
                    cost: None,
                    worked_ms: None,
                },
            )],
        }),
        ..new_turn()
    }
}

async fn after_what_was_seen(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let Waits { session, turn, seen } = waits(world, &org, now()).await?;
    let stale = Seen {
        seq: seen.seq - 1,
        ..seen
    };
    let late = store.append_after(&org, session.id, stale, &[resumed(turn.id)]).await?;
    ensure_eq!(late, None, "after an event that was not the last");
    let status = store.turn(&org, turn.id).await?.map(|turn| turn.status);
    ensure_eq!(status, Some(TurnStatus::AwaitingApproval), "the turn, untouched");
    // What happens in the session, but not in the turn, changes nothing about it.
    store.append(&org, session.id, &[super::remark("meanwhile")]).await?;
    let appended = store.append_after(&org, session.id, seen, &[resumed(turn.id)]).await?;
    ensure_eq!(
        appended.as_deref().map(seqs),
        Some(vec![seen.seq + 2]),
        "the place of what was appended"
    );
    let again = store.append_after(&org, session.id, seen, &[resumed(turn.id)]).await?;
    ensure_eq!(again, None, "a second time");
    let unknown = Seen {
        turn: TurnId::new(),
        ..seen
    };
    ensure_eq!(
        store
            .append_after(&org, session.id, unknown, &[resumed(turn.id)])
            .await?,
        None,
        "after an unknown turn"
    );
    let now_seen = Seen {
        seq: seen.seq + 2,
        ..seen
    };
    let foreign = world.org().await?;
    let result = store
        .append_after(&foreign, session.id, now_seen, &[completed(turn.id)])
        .await;
    ensure!(
        matches!(result, Err(StoreError::Gone { .. })),
        "by another org: {result:?}"
    );
    Ok(())
}

async fn found(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    // Earlier than any other that the suite makes, and than any there may be already.
    let [soon, late] = [Time::from_timestamp_nanos(1), Time::from_timestamp_nanos(2)];
    let tool = ToolName::new("locate").map_err(|error| Broken(error.to_string()))?;
    let later = waits_as(world, &org, |turn| paused_for_results(turn, &tool, late)).await?;
    let sooner = waits(world, &org, soon).await?;
    let after = |after, limit| async move {
        let found = store.turns_waiting(after, limit).await?;
        Ok::<_, Broken>(
            found
                .into_iter()
                .map(|(turn, until)| (turn.id, until))
                .collect::<Vec<_>>(),
        )
    };
    ensure_eq!(
        after(None, 2).await?,
        [(sooner.turn.id, soon), (later.turn.id, late)],
        "those that wait"
    );
    ensure_eq!(after(None, 1).await?.len(), 1, "at most as many as were asked for");
    ensure_eq!(
        after(Some((soon, sooner.turn.id)), 1).await?,
        [(later.turn.id, late)],
        "those after one"
    );
    for (waits, event) in [(&sooner, resumed(sooner.turn.id)), (&later, completed(later.turn.id))] {
        store.append(&org, waits.session.id, &[event]).await?;
    }
    let found = after(None, 1000).await?;
    ensure!(
        !found
            .iter()
            .any(|(turn, _)| *turn == sooner.turn.id || *turn == later.turn.id),
        "one that waits no more was found"
    );
    Ok(())
}

async fn replaced(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let Waits { session, turn, seen } = waits(world, &org, now()).await?;
    let stale = Seen {
        seq: seen.seq - 1,
        ..seen
    };
    let refused = store.accept_turn(&org, session.id, &replacing(stale)).await?;
    ensure_eq!(refused, Some(Accepted::Busy(turn.id)), "after a stale sight");
    let broken = NewTurn {
        ends: Some(Ending {
            seen,
            events: Vec::new(),
        }),
        ..new_turn()
    };
    let result = store.accept_turn(&org, session.id, &broken).await;
    ensure!(result.is_err(), "a replaced turn that does not end: {result:?}");
    ensure_eq!(
        store.events(&org, session.id, 0, 100).await?.len() as u64,
        seen.seq,
        "the journal after refusals"
    );
    let new = replacing(seen);
    let Some(Accepted::New(accepted, events)) = store.accept_turn(&org, session.id, &new).await? else {
        return Err(Broken("the new turn was not accepted".into()));
    };
    ensure_eq!(seqs(&events), [seen.seq + 1, seen.seq + 2], "the places");
    ensure_eq!(accepted.first_seq, seen.seq + 2, "where the new turn begins");
    let types: Vec<_> = events.iter().map(|event| event.body.type_name()).collect();
    ensure_eq!(types, ["turn.cancelled", "turn.queued"], "what was appended");
    let status = store.turn(&org, turn.id).await?.map(|turn| turn.status);
    ensure_eq!(status, Some(TurnStatus::Cancelled), "the replaced turn");
    Ok(())
}

async fn stale_ends_nothing(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let Waits { session, turn, seen } = waits(world, &org, now()).await?;
    let rewind = to_before(std::slice::from_ref(&turn));
    let with = |turns| NewTurn {
        replaces: Some(NewRewind {
            turns,
            ..rewind.clone()
        }),
        ..replacing(seen)
    };
    let refused = store
        .accept_turn(&org, session.id, &with(vec![turn.id, TurnId::new()]))
        .await?;
    ensure_eq!(refused, Some(Accepted::Stale), "what became of a stale one");
    ensure_eq!(
        store.events(&org, session.id, 0, 100).await?.len() as u64,
        seen.seq,
        "the journal after it"
    );
    let status = store.turn(&org, turn.id).await?.map(|turn| turn.status);
    ensure_eq!(status, Some(TurnStatus::AwaitingApproval), "the turn that was to end");
    let accepted = store.accept_turn(&org, session.id, &with(vec![turn.id])).await?;
    let Some(Accepted::New(_, events)) = accepted else {
        return Err(Broken(format!("it was not accepted: {accepted:?}")));
    };
    let types: Vec<_> = events.iter().map(|event| event.body.type_name()).collect();
    ensure_eq!(
        types,
        ["turn.cancelled", "session.rewound", "turn.queued"],
        "what was appended"
    );
    Ok(())
}

async fn one_acts(world: &World) -> Outcome {
    let org = world.org().await?;
    let Waits { session, turn, seen } = waits(world, &org, now()).await?;
    let results = at_once(16, |_| {
        let (store, org) = (Arc::clone(&world.store), org.clone());
        async move { store.append_after(&org, session.id, seen, &[resumed(turn.id)]).await }
    })
    .await?;
    let mut acted = 0;
    for result in results {
        acted += usize::from(result?.is_some());
    }
    ensure_eq!(acted, 1, "those who acted");
    let kept = world.store.turn_events(&org, turn.id).await?;
    ensure_eq!(kept.len(), 4, "the events of the turn");
    Ok(())
}

async fn one_replaces(world: &World) -> Outcome {
    let org = world.org().await?;
    let Waits { session, seen, .. } = waits(world, &org, now()).await?;
    let results = at_once(8, |_| {
        let (store, org) = (Arc::clone(&world.store), org.clone());
        async move { store.accept_turn(&org, session.id, &replacing(seen)).await }
    })
    .await?;
    let (mut new, mut busy) = (Vec::new(), Vec::new());
    for result in results {
        match result? {
            Some(Accepted::New(turn, _)) => new.push(turn.id),
            Some(Accepted::Busy(turn)) => busy.push(turn),
            other => return Err(Broken(format!("neither new nor busy: {other:?}"))),
        }
    }
    ensure_eq!(new.len(), 1, "new turns");
    ensure!(
        busy.iter().all(|turn| *turn == new[0]),
        "busy with {busy:?}, not {new:?}"
    );
    Ok(())
}
