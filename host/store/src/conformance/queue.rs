//! Turns that wait for their turn, and what is added to one that is worked.

use super::{
    Broken, Outcome, World, completed, ensure, ensure_eq, new_turn, promises, races::at_once, taken, work::started,
};
use crate::{
    api::StoreError,
    record::{Accepted, Added, Addition, IfBusy, MAX_QUEUED, NewTurn, Turn},
};
use fumehood_core::{
    content::Content,
    digest::Digest,
    event::EventBody,
    id::{SessionId, TurnId},
    name::OrgName,
    turn::TurnStatus,
};
use std::sync::Arc;

promises! {
    "turns that may wait are worked in the order in which they came" => in_order,
    "of a session's turns one at most has begun and not ended" => one_begun,
    "only so many turns wait in a session" => bounded,
    "a waiting turn that ends leaves the others where they are" => leaves,
    "of turns that may wait, sent at once, each has its own place" => sent_at_once,
    "what is added to a turn is recorded once for its idempotency key" => added_once,
    "what waits in another org's session reads as absent" => foreign,
}

fn waiting() -> NewTurn {
    NewTurn {
        if_busy: IfBusy::Queue,
        ..new_turn()
    }
}

/// Accepts a turn that may wait.
pub(super) async fn queue(world: &World, org: &OrgName, session: SessionId) -> Result<Turn, Broken> {
    match world.store.accept_turn(org, session, &waiting()).await? {
        Some(Accepted::New(turn, _)) => Ok(turn),
        other => Err(Broken(format!("a turn that may wait was not accepted: {other:?}"))),
    }
}

async fn next(world: &World, org: &OrgName, session: SessionId) -> Result<Option<TurnId>, Broken> {
    Ok(world.store.next_turn(org, session).await?.map(|turn| turn.id))
}

async fn in_order(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    ensure_eq!(next(world, &org, session).await?, None, "the next of none");
    let first = world.turn(&org, session).await?;
    let (second, third) = (queue(world, &org, session).await?, queue(world, &org, session).await?);
    ensure_eq!(second.status, TurnStatus::Queued, "the second");
    let refused = world.store.accept_turn(&org, session, &new_turn()).await?;
    ensure_eq!(refused, Some(Accepted::Busy(first.id)), "one that may not wait");
    for turn in [first, second, third] {
        ensure_eq!(next(world, &org, session).await?, Some(turn.id), "the next");
        let begun = world.store.append(&org, session, &[started(turn.id)?]).await?;
        ensure_eq!(next(world, &org, session).await?, Some(turn.id), "the one at work");
        let kept = world.store.turn(&org, turn.id).await?.map(|turn| turn.first_seq);
        ensure_eq!(kept, begun[0].seq, "the place of one that waited is where it begins");
        world.store.append(&org, session, &[completed(turn.id)]).await?;
    }
    ensure_eq!(next(world, &org, session).await?, None, "the next after the last");
    Ok(())
}

async fn one_begun(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let first = world.turn(&org, session).await?;
    let second = queue(world, &org, session).await?;
    world.store.append(&org, session, &[started(first.id)?]).await?;
    let refused = world.store.append(&org, session, &[started(second.id)?]).await;
    ensure!(
        matches!(refused, Err(StoreError::Invalid { .. })),
        "a second start: {refused:?}"
    );
    world.store.append(&org, session, &[completed(first.id)]).await?;
    world.store.append(&org, session, &[started(second.id)?]).await?;
    Ok(())
}

async fn bounded(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let first = world.turn(&org, session).await?;
    for _ in 0..MAX_QUEUED {
        queue(world, &org, session).await?;
    }
    let before = world.store.events(&org, session, 0, 100).await?.len();
    let full = world.store.accept_turn(&org, session, &waiting()).await?;
    ensure_eq!(full, Some(Accepted::QueueFull), "one more");
    let after = world.store.events(&org, session, 0, 100).await?.len();
    ensure_eq!(after, before, "the journal");
    world.store.append(&org, session, &[completed(first.id)]).await?;
    queue(world, &org, session).await?;
    Ok(())
}

async fn leaves(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let first = world.turn(&org, session).await?;
    let (second, third) = (queue(world, &org, session).await?, queue(world, &org, session).await?);
    world.store.append(&org, session, &[completed(second.id)]).await?;
    ensure_eq!(next(world, &org, session).await?, Some(first.id), "the next");
    let place = world.store.turn(&org, second.id).await?.map(|turn| turn.first_seq);
    ensure_eq!(place, Some(0), "the place of one that never began");
    world.store.append(&org, session, &[completed(first.id)]).await?;
    ensure_eq!(next(world, &org, session).await?, Some(third.id), "the one after it");
    Ok(())
}

async fn sent_at_once(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let results = at_once(8, |_| {
        let (store, org) = (Arc::clone(&world.store), org.clone());
        async move { store.accept_turn(&org, session, &waiting()).await }
    })
    .await?;
    let mut places = Vec::new();
    for result in results {
        match result? {
            Some(Accepted::New(turn, _)) => places.push((turn.first_seq, turn.id)),
            other => return Err(Broken(format!("not accepted: {other:?}"))),
        }
    }
    places.sort_unstable();
    for (_, turn) in places {
        ensure_eq!(next(world, &org, session).await?, Some(turn), "the next");
        world.store.append(&org, session, &[completed(turn)]).await?;
    }
    Ok(())
}

async fn added_once(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?;
    world.store.append(&org, session, &[started(turn.id)?]).await?;
    let fence = taken(world, &org, turn.id).await?;
    let addition = |request: &[u8]| Addition {
        fence,
        input: vec![Content::text("and this")],
        idempotency: Some(("k".into(), Digest::of(request))),
    };
    let first = world.store.add_to_turn(&org, session, &addition(b"one")).await?;
    let Added::Recorded(event) = first else {
        return Err(Broken(format!("not recorded: {first:?}")));
    };
    let says = matches!(&event.body, EventBody::TurnSteered { input } if *input == addition(b"one").input);
    ensure!(says && event.turn == Some(turn.id), "what was recorded: {event:?}");
    let again = world.store.add_to_turn(&org, session, &addition(b"one")).await?;
    let again = matches!(&again, Added::Repeated(repeated) if repeated.id == turn.id);
    ensure!(again, "the same again was not known");
    let other = world.store.add_to_turn(&org, session, &addition(b"two")).await?;
    ensure_eq!(other, Added::KeyReused, "the key with another request");
    let known = world
        .store
        .repeated_turn(&org, session, "k", &Digest::of(b"one"))
        .await?;
    let known = matches!(&known, Some(Accepted::Repeated(repeated)) if repeated.id == turn.id);
    ensure!(known, "the key is not known where turns are accepted");
    let events = world.store.turn_events(&org, turn.id).await?;
    ensure_eq!(events.len(), 3, "the turn's events");
    Ok(())
}

async fn foreign(world: &World) -> Outcome {
    let (org, other) = (world.org().await?, world.org().await?);
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?;
    ensure_eq!(next(world, &other, session).await?, None, "the next turn");
    let fence = taken(world, &org, turn.id).await?;
    let addition = Addition {
        fence,
        input: Vec::new(),
        idempotency: None,
    };
    let refused = world.store.add_to_turn(&other, session, &addition).await;
    ensure!(
        matches!(refused, Err(StoreError::Gone { .. })),
        "an addition: {refused:?}"
    );
    Ok(())
}
