//! Archived sessions: they stay as they are, and take nothing.

use super::{
    Broken, Outcome, World, completed, created, ensure, ensure_eq, jobs, new_session, new_turn, promises, remark,
    schedules::new_schedule,
};
use crate::{
    api::StoreError,
    record::{Accepted, NewRewind, NewTurn, Owner, PageRequest, SessionChange, WhichSessions},
    schedules::Place,
};
use fumehood_core::{
    digest::Digest,
    id::{EventId, SessionId, TurnId},
    name::OrgName,
    rewind::FilesRewound,
    tool::Effect,
};
use std::sync::Arc;

promises! {
    "an archived session takes nothing, and stays as it is until it is brought back" => takes_nothing,
    "an archived session is left out of the list of those in use" => lists,
    "a session with a turn or a job that hasn't ended is not archived" => not_while_busy,
    "what a request led to before is told of an archived session as well" => repeated,
    "of an archive and a turn at the same time one is refused" => race,
}

pub(super) const fn archive(archived: bool) -> SessionChange {
    SessionChange {
        agent: None,
        title: None,
        metadata: None,
        network: None,
        files: None,
        background: None,
        archived: Some(archived),
    }
}

async fn set(world: &World, org: &OrgName, session: SessionId, archived: bool) -> Result<(), Broken> {
    let changed = world
        .store
        .update_session(org, session, &archive(archived), &[remark("moved")])
        .await?;
    let is = changed.map(|(session, _)| session.archived.is_some());
    ensure_eq!(is, Some(archived), "archived");
    Ok(())
}

async fn takes_nothing(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?.id;
    store.append(&org, session, &[completed(turn)]).await?;
    let owner = Owner::Session(org.clone(), session);
    store.kv_set(&owner, "key", b"value").await?;
    set(world, &org, session, true).await?;
    let since = store.session(&org, session).await?.and_then(|session| session.archived);
    set(world, &org, session, true).await?;
    let still = store.session(&org, session).await?.and_then(|session| session.archived);
    ensure_eq!(still, since, "since when it is archived");

    let rewind = NewRewind {
        id: EventId::new(),
        after: 1,
        turns: vec![turn],
        files: FilesRewound::Kept,
        outside: Vec::new(),
        outside_more: 0,
    };
    let refused = [
        store.accept_turn(&org, session, &new_turn()).await.map(drop),
        store.rewind(&org, session, &rewind).await.map(drop),
        store.kv_set(&owner, "key", b"other").await,
        store.kv_delete(&owner, "key").await.map(drop),
        store
            .create_schedule(&new_schedule(&org, Place::Session(session), 3600)?, 10)
            .await
            .map(drop),
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        ensure!(matches!(refused, Err(StoreError::Archived)), "{at}: {refused:?}");
    }
    ensure_eq!(store.turns(&org, session).await?.len(), 1, "the turns");
    ensure_eq!(
        store.kv_get(&owner, "key").await?,
        Some(b"value".to_vec()),
        "the key-value"
    );
    set(world, &org, session, false).await?;
    world.turn(&org, session).await?;
    store.kv_set(&owner, "key", b"other").await?;
    Ok(())
}

async fn lists(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (used, kept) = (world.session(&org).await?.id, world.session(&org).await?.id);
    set(world, &org, kept, true).await?;
    for (which, expected) in [
        (WhichSessions::InUse, vec![used]),
        (WhichSessions::Archived, vec![kept]),
        (WhichSessions::All, vec![kept, used]),
    ] {
        let page = store.sessions(&org, which, &PageRequest::default()).await?;
        let listed: Vec<_> = page.items.into_iter().map(|session| session.id).collect();
        ensure_eq!(listed, expected, "the list");
    }
    ensure!(
        store.session(&org, kept).await?.is_some(),
        "an archived session can't be read"
    );
    Ok(())
}

async fn not_while_busy(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?.id;
    let before = store.last_seq(&org, session).await?;
    let refused = store
        .update_session(&org, session, &archive(true), &[remark("no")])
        .await;
    ensure!(
        matches!(refused, Err(StoreError::Busy(open)) if open == turn),
        "{refused:?}"
    );
    ensure_eq!(store.last_seq(&org, session).await?, before, "the journal");
    store.append(&org, session, &[completed(turn)]).await?;
    set(world, &org, session, true).await?;

    let asked = jobs::asked_in(world, org.clone()).await?;
    let session = asked.session.id;
    let (job, _) = jobs::queue(world, &asked, Effect::Pure).await?;
    store.append(&org, session, &[completed(asked.turn.id)]).await?;
    let refused = store.update_session(&org, session, &archive(true), &[]).await;
    ensure!(
        matches!(refused, Err(StoreError::BusyWithJob(open)) if open == job),
        "{refused:?}"
    );
    jobs::end_unworked(world, &org, job).await?;
    set(world, &org, session, true).await
}

async fn repeated(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let request = Digest::of(b"request");
    let with_key = || NewTurn {
        idempotency: Some(("key".into(), request)),
        ..new_turn()
    };
    let Some(Accepted::New(turn, _)) = store.accept_turn(&org, session, &with_key()).await? else {
        return Err(Broken("the turn was not accepted".into()));
    };
    store.append(&org, session, &[completed(turn.id)]).await?;
    set(world, &org, session, true).await?;
    let again = store.accept_turn(&org, session, &with_key()).await?;
    ensure!(
        matches!(&again, Some(Accepted::Repeated(earlier)) if earlier.id == turn.id),
        "{again:?}"
    );
    Ok(())
}

async fn race(world: &World) -> Outcome {
    let org = world.org().await?;
    for _ in 0..20 {
        let session = new_session(&org)?;
        world.store.create_session(&session, &[created(&session)]).await?;
        let (to_archive, to_work) = (Arc::clone(&world.store), Arc::clone(&world.store));
        let (first, second, id) = (org.clone(), org.clone(), session.id);
        let archiving = tokio::spawn(async move {
            to_archive
                .update_session(&first, id, &archive(true), &[])
                .await
                .map(drop)
        });
        let working: tokio::task::JoinHandle<Result<Option<TurnId>, StoreError>> = tokio::spawn(async move {
            let accepted = to_work.accept_turn(&second, id, &new_turn()).await?;
            Ok(match accepted {
                Some(Accepted::New(turn, _)) => Some(turn.id),
                _ => None,
            })
        });
        let (archived, worked) = (archiving.await, working.await);
        let outcome = match (&archived, &worked) {
            (Ok(Ok(())), Ok(Err(StoreError::Archived))) => true,
            (Ok(Err(StoreError::Busy(open))), Ok(Ok(Some(turn)))) => open == turn,
            _ => false,
        };
        ensure!(outcome, "{archived:?}, {worked:?}");
    }
    Ok(())
}
