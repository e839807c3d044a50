//! Sessions, turns and the journal.

use super::{
    Broken, Outcome, World, agent, completed, created, ensure, ensure_eq, new_session, new_turn, of_turn, promises,
    remark,
};
use crate::{
    api::StoreError,
    record::{Accepted, NewTurn, PageRequest, SessionChange, WhichSessions},
};
use fumehood_core::{
    digest::Digest,
    event::{Event, EventBody},
    id::{SessionId, TurnId},
    turn::{Budget, TurnError, TurnErrorCode, TurnStatus},
};
use fumehood_policy::{authority::SessionNarrowing, files::FileAccess, network::NetworkList};

promises! {
    "a session is read as it was made, with its first events" => sessions,
    "a session's changes are kept and the rest stays" => changes,
    "sessions are listed newest first, page by page, each once" => session_pages,
    "a deleted session is gone with everything of it" => deletion,
    "a journal counts from 1 without a gap and is read in order" => order,
    "a turn is queued, runs, and ends exactly once" => lifecycle,
    "what a turn's end undoes when it is refused is everything that came with it" => refused_whole,
    "a session works one turn at a time" => busy,
    "the same idempotency key makes one turn" => idempotency,
    "turns are found by state over all orgs" => recovery,
    "live events and events of foreign turns are not recorded" => refusals,
    "sessions, turns and journals of another org read as absent" => nothing_crosses,
}

async fn sessions(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = new_session(&org)?;
    let events = store
        .create_session(&session, &[created(&session), remark("hi")])
        .await?;
    ensure_eq!(seqs(&events), [1, 2], "the places of the first events");
    ensure_eq!(store.events(&org, session.id, 0, 10).await?, events, "the first events");
    let read = store.session(&org, session.id).await?;
    let mut expected = session.clone();
    expected.updated = events[1].time;
    ensure_eq!(read, Some(expected), "the session");
    let text = |session: &crate::record::Session| session.metadata.to_string();
    ensure_eq!(read.as_ref().map(text), Some(text(&session)), "the metadata's order");
    let again = store.create_session(&session, &[remark("again")]).await;
    ensure!(
        matches!(again, Err(StoreError::Exists { .. })),
        "a second session of the id: {again:?}"
    );
    ensure_eq!(
        store.events(&org, session.id, 0, 10).await?.len(),
        2,
        "events after a refused session"
    );
    ensure_eq!(store.session(&org, SessionId::new()).await?, None, "an unknown session");
    Ok(())
}

async fn changes(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let change = SessionChange {
        agent: Some(agent("other")?),
        title: Some(None),
        ..SessionChange::default()
    };
    let Some((changed, events)) = store
        .update_session(&org, session.id, &change, &[remark("changed")])
        .await?
    else {
        return Err(Broken("the session was not found".into()));
    };
    ensure_eq!(seqs(&events), [2], "the place of the event");
    ensure_eq!(
        (changed.agent.clone(), changed.title.clone()),
        (agent("other")?, None),
        "what changed"
    );
    ensure_eq!(
        (&changed.metadata, changed.created),
        (&session.metadata, session.created),
        "what stays"
    );
    ensure!(changed.updated >= session.updated, "the session was not touched");
    ensure_eq!(
        store.session(&org, session.id).await?,
        Some(changed),
        "the session as it is read"
    );
    let none = store.update_session(&org, SessionId::new(), &change, &[]).await?;
    ensure_eq!(none, None, "an unknown session");
    let narrower = [
        SessionChange {
            network: Some(Some(NetworkList::nothing())),
            ..SessionChange::default()
        },
        SessionChange {
            files: Some(Some(FileAccess::Read)),
            ..SessionChange::default()
        },
        SessionChange {
            background: Some(Some(Vec::new())),
            ..SessionChange::default()
        },
    ];
    for change in &narrower {
        store.update_session(&org, session.id, change, &[]).await?;
    }
    let read = store.session(&org, session.id).await?;
    let all = SessionNarrowing {
        network: Some(NetworkList::nothing()),
        files: Some(FileAccess::Read),
        background: Some(Vec::new()),
    };
    ensure_eq!(
        read.map(|session| session.narrowing),
        Some(all),
        "the narrowings, of which none undid another"
    );
    Ok(())
}

async fn session_pages(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(world.session(&org).await?.id);
    }
    made.reverse();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store
            .sessions(&org, WhichSessions::All, &PageRequest { after, limit: 2 })
            .await?;
        ensure!(page.items.len() <= 2, "a page of {} rows", page.items.len());
        seen.extend(page.items.into_iter().map(|session| session.id));
        after = page.next;
        if after.is_none() || seen.len() > made.len() {
            break;
        }
    }
    ensure_eq!(seen, made, "the sessions");
    for bad in ["", "x", "AAAA", "c2x4"] {
        let page = PageRequest {
            after: Some(bad.into()),
            limit: 2,
        };
        let result = store.sessions(&org, WhichSessions::InUse, &page).await;
        ensure!(
            matches!(result, Err(StoreError::BadCursor)),
            "the cursor {bad:?}: {result:?}"
        );
    }
    let all = store
        .sessions(
            &org,
            WhichSessions::InUse,
            &PageRequest {
                after: None,
                limit: u32::MAX,
            },
        )
        .await?;
    ensure_eq!((all.items.len(), all.next), (5, None), "one large page");
    Ok(())
}

async fn deletion(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (session, other) = (world.session(&org).await?, world.session(&org).await?);
    let turn = world.turn(&org, session.id).await?;
    ensure!(
        store.delete_session(&org, session.id).await?,
        "the session was not deleted"
    );
    ensure!(
        !store.delete_session(&org, session.id).await?,
        "the session was deleted twice"
    );
    ensure_eq!(store.session(&org, session.id).await?, None, "the session");
    ensure_eq!(store.turn(&org, turn.id).await?, None, "its turn");
    ensure_eq!(store.turns(&org, session.id).await?, [], "its turns");
    ensure_eq!(store.events(&org, session.id, 0, 10).await?, [], "its journal");
    ensure_eq!(store.turn_events(&org, turn.id).await?, [], "its turn's events");
    let late = store.append(&org, session.id, &[remark("late")]).await;
    ensure!(
        matches!(late, Err(StoreError::Gone { .. })),
        "an event for it: {late:?}"
    );
    ensure_eq!(
        store.accept_turn(&org, session.id, &new_turn()).await?,
        None,
        "a turn for it"
    );
    ensure_eq!(
        store.events(&org, other.id, 0, 10).await?.len(),
        1,
        "another session's journal"
    );
    Ok(())
}

async fn order(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let mut appended = store.append(&org, session.id, &[remark("a"), remark("b")]).await?;
    appended.extend(store.append(&org, session.id, &[]).await?);
    appended.extend(store.append(&org, session.id, &[remark("c")]).await?);
    ensure_eq!(seqs(&appended), [2, 3, 4], "the places");
    ensure_eq!(
        store.events(&org, session.id, 1, 10).await?,
        appended,
        "the journal after 1"
    );
    ensure_eq!(
        store.events(&org, session.id, 1, 2).await?,
        appended[..2],
        "at most two"
    );
    ensure_eq!(store.events(&org, session.id, 4, 10).await?, [], "after the last");
    ensure_eq!(
        store.events(&org, session.id, u64::MAX, 10).await?,
        [],
        "after everything"
    );
    let ids: std::collections::BTreeSet<_> = appended.iter().map(|event| event.id).collect();
    ensure_eq!(ids.len(), 3, "different ids");
    let updated = store.session(&org, session.id).await?.map(|session| session.updated);
    ensure_eq!(updated, Some(appended[2].time), "when the session was updated");
    Ok(())
}

async fn lifecycle(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    for (end, status) in ends() {
        let session = world.session(&org).await?;
        let new = new_turn();
        let accepted = store.accept_turn(&org, session.id, &new).await?;
        let Some(Accepted::New(turn, recorded)) = accepted else {
            return Err(Broken(format!("not accepted: {accepted:?}")));
        };
        let [queued] = &recorded[..] else {
            return Err(Broken(format!("recorded with the turn: {recorded:?}")));
        };
        ensure_eq!(
            (turn.status, turn.first_seq, turn.ended),
            (TurnStatus::Queued, 2, None),
            "the new turn"
        );
        ensure_eq!((queued.seq, queued.turn), (Some(2), Some(new.id)), "its turn.queued");
        let says = matches!(&queued.body, EventBody::TurnQueued { input, system, budget, output_schema, tools, record }
            if *input == new.input && *system == new.system && *budget == new.budget && *output_schema == new.output_schema && *tools == new.tools && *record == new.record);
        ensure!(says, "turn.queued says {:?}", queued.body);
        ensure_eq!(
            store.turn(&org, turn.id).await?,
            Some(turn.clone()),
            "the turn as it is read"
        );

        store.append(&org, session.id, &[started(turn.id)?]).await?;
        let running = store.turn(&org, turn.id).await?;
        ensure_eq!(running.map(|turn| turn.status), Some(TurnStatus::Running), "its status");
        let last = store.append(&org, session.id, &[of_turn(turn.id, end.clone())]).await?;
        let ended = store.turn(&org, turn.id).await?;
        let ended = ended.map(|turn| (turn.status, turn.ended));
        ensure_eq!(ended, Some((status, Some(last[0].time))), "its end");
        for again in [of_turn(turn.id, end.clone()), started(turn.id)?, completed(turn.id)] {
            let result = store.append(&org, session.id, &[again]).await;
            ensure!(
                matches!(result, Err(StoreError::Invalid { .. })),
                "after its end: {result:?}"
            );
        }
        let events = store.turn_events(&org, turn.id).await?;
        ensure_eq!(seqs(&events), [2, 3, 4], "its events");
        ensure_eq!(store.turns(&org, session.id).await?.len(), 1, "the session's turns");
    }
    Ok(())
}

fn ends() -> [(EventBody, TurnStatus); 3] {
    let error = TurnError {
        code: TurnErrorCode::Internal,
        message: "broke".into(),
    };
    [
        (completed(TurnId::new()).body, TurnStatus::Completed),
        (
            EventBody::TurnFailed {
                error,
                usage: None,
                cost: None,
                worked_ms: None,
            },
            TurnStatus::Failed,
        ),
        (
            EventBody::TurnCancelled {
                usage: None,
                cost: None,
                worked_ms: None,
            },
            TurnStatus::Cancelled,
        ),
    ]
}

pub(super) fn started(turn: TurnId) -> Result<super::NewEvent, Broken> {
    let body = EventBody::TurnStarted {
        agent: agent("assistant")?,
        model: fumehood_core::name::ModelName::new("main").map_err(|error| Broken(error.to_string()))?,
        tools: Vec::new(),
        components: std::collections::BTreeMap::new(),
        budget: Budget::default(),
        files: None,
    };
    Ok(of_turn(turn, body))
}

async fn refused_whole(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let turn = world.turn(&org, session.id).await?;
    let result = store
        .append(&org, session.id, &[remark("x"), completed(turn.id), completed(turn.id)])
        .await;
    ensure!(
        matches!(result, Err(StoreError::Invalid { .. })),
        "two ends at once: {result:?}"
    );
    let status = store.turn(&org, turn.id).await?.map(|turn| turn.status);
    ensure_eq!(status, Some(TurnStatus::Queued), "the turn afterwards");
    let next = store.append(&org, session.id, &[remark("y")]).await?;
    ensure_eq!(seqs(&next), [3], "the next place");
    ensure_eq!(store.events(&org, session.id, 0, 10).await?.len(), 3, "the journal");
    Ok(())
}

async fn busy(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let first = world.turn(&org, session.id).await?;
    let second = store.accept_turn(&org, session.id, &new_turn()).await?;
    ensure_eq!(second, Some(Accepted::Busy(first.id)), "a second turn");
    ensure_eq!(store.events(&org, session.id, 0, 10).await?.len(), 2, "the journal");
    store.append(&org, session.id, &[completed(first.id)]).await?;
    let third = world.turn(&org, session.id).await?;
    let turns = store.turns(&org, session.id).await?;
    ensure_eq!(
        turns.iter().map(|turn| turn.id).collect::<Vec<_>>(),
        [first.id, third.id],
        "the turns, oldest first"
    );
    Ok(())
}

async fn idempotency(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (session, other) = (world.session(&org).await?, world.session(&org).await?);
    let with_key = |request: &[u8]| NewTurn {
        idempotency: Some(("k".into(), Digest::of(request))),
        ..new_turn()
    };
    let first = store.accept_turn(&org, session.id, &with_key(b"one")).await?;
    let Some(Accepted::New(turn, _)) = first else {
        return Err(Broken(format!("the first: {first:?}")));
    };
    let again = store.accept_turn(&org, session.id, &with_key(b"one")).await?;
    ensure_eq!(again, Some(Accepted::Repeated(turn.clone())), "the same again");
    let asked = store.repeated_turn(&org, session.id, "k", &Digest::of(b"one")).await?;
    ensure_eq!(
        asked,
        Some(Accepted::Repeated(turn.clone())),
        "the same, only asked for"
    );
    let asked = store.repeated_turn(&org, session.id, "k", &Digest::of(b"two")).await?;
    ensure_eq!(
        asked,
        Some(Accepted::KeyReused),
        "the key with another request, only asked for"
    );
    for (session, key) in [(session.id, "other"), (other.id, "k")] {
        let unknown = store.repeated_turn(&org, session, key, &Digest::of(b"one")).await?;
        ensure_eq!(unknown, None, "a key that was not used there");
    }
    let reused = store.accept_turn(&org, session.id, &with_key(b"two")).await?;
    ensure_eq!(reused, Some(Accepted::KeyReused), "the key with another request");
    store.append(&org, session.id, &[completed(turn.id)]).await?;
    let after = store.accept_turn(&org, session.id, &with_key(b"one")).await?;
    let after = match after {
        Some(Accepted::Repeated(repeated)) => (repeated.id, repeated.status),
        other => return Err(Broken(format!("the same after its end: {other:?}"))),
    };
    ensure_eq!(after, (turn.id, TurnStatus::Completed), "the same after its end");
    let elsewhere = store.accept_turn(&org, other.id, &with_key(b"two")).await?;
    ensure!(
        matches!(elsewhere, Some(Accepted::New(..))),
        "the key in another session: {elsewhere:?}"
    );
    Ok(())
}

async fn recovery(world: &World) -> Outcome {
    let store = &world.store;
    let mut open = Vec::new();
    for _ in 0..2 {
        let org = world.org().await?;
        let session = world.session(&org).await?;
        let done = world.turn(&org, session.id).await?;
        store.append(&org, session.id, &[completed(done.id)]).await?;
        open.push(world.turn(&org, session.id).await?.id);
    }
    let found = store.turns_in(&[TurnStatus::Queued, TurnStatus::Running]).await?;
    ensure!(
        found.iter().all(|turn| !turn.status.is_terminal()),
        "an ended turn was found"
    );
    let found: Vec<_> = found
        .iter()
        .map(|turn| turn.id)
        .filter(|id| open.contains(id))
        .collect();
    ensure_eq!(found, open, "the open turns, oldest first");
    ensure_eq!(store.turns_in(&[]).await?, [], "no state");
    Ok(())
}

async fn refusals(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (session, other) = (world.session(&org).await?, world.session(&org).await?);
    let turn = world.turn(&org, other.id).await?;
    let mut live = remark("");
    live.body = EventBody::TextDelta {
        step: 1,
        index: 0,
        delta: "x".into(),
    };
    let mut no_turn = completed(turn.id);
    no_turn.turn = None;
    let foreign = of_turn(turn.id, remark("x").body);
    let unknown = of_turn(TurnId::new(), remark("x").body);
    for event in [live, no_turn, foreign, completed(turn.id), unknown] {
        let what = event.clone();
        let result = store.append(&org, session.id, &[remark("first"), event]).await;
        ensure!(
            matches!(result, Err(StoreError::Invalid { .. })),
            "{what:?}: {result:?}"
        );
    }
    ensure_eq!(store.events(&org, session.id, 0, 10).await?.len(), 1, "the journal");
    let status = store.turn(&org, turn.id).await?.map(|turn| turn.status);
    ensure_eq!(status, Some(TurnStatus::Queued), "the other session's turn");
    Ok(())
}

async fn nothing_crosses(world: &World) -> Outcome {
    let store = &world.store;
    let (org, foreign) = (world.org().await?, world.org().await?);
    let session = world.session(&org).await?;
    let turn = world.turn(&org, session.id).await?;
    let change = SessionChange {
        title: Some(None),
        ..SessionChange::default()
    };
    ensure_eq!(store.session(&foreign, session.id).await?, None, "a session");
    ensure_eq!(
        store
            .sessions(&foreign, WhichSessions::All, &PageRequest::default())
            .await?
            .items,
        [],
        "sessions"
    );
    ensure_eq!(
        store.update_session(&foreign, session.id, &change, &[]).await?,
        None,
        "a change"
    );
    ensure!(
        !store.delete_session(&foreign, session.id).await?,
        "a foreign session was deleted"
    );
    ensure_eq!(
        store.accept_turn(&foreign, session.id, &new_turn()).await?,
        None,
        "a new turn"
    );
    ensure_eq!(store.turn(&foreign, turn.id).await?, None, "a turn");
    ensure_eq!(store.turns(&foreign, session.id).await?, [], "turns");
    ensure_eq!(store.events(&foreign, session.id, 0, 10).await?, [], "a journal");
    ensure_eq!(store.turn_events(&foreign, turn.id).await?, [], "a turn's events");
    let append = store.append(&foreign, session.id, &[completed(turn.id)]).await;
    ensure!(matches!(append, Err(StoreError::Gone { .. })), "an event: {append:?}");
    let kept = store.session(&org, session.id).await?.map(|session| session.title);
    ensure_eq!(kept, Some(session.title), "the session afterwards");
    ensure_eq!(
        store.events(&org, session.id, 0, 10).await?.len(),
        2,
        "its journal afterwards"
    );
    Ok(())
}

pub(super) fn seqs(events: &[Event]) -> Vec<u64> {
    events.iter().filter_map(|event| event.seq).collect()
}
