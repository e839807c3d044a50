//! Two acts that exclude each other: whichever comes first counts, in either order.
//!
//! A store decides one after the other, so an order that is forced tries what a race would.

use super::{
    Outcome, World, completed, ensure, ensure_eq, new_turn, of_turn, promises,
    waiting::{Waits, resumed, waits},
};
use crate::api::StoreError;
use fumehood_core::{
    event::{EventBody, NewEvent},
    id::TurnId,
    now,
    turn::TurnStatus,
};

promises! {
    "of a cancel and an end of a turn the first counts, in either order" => ends,
    "of two who go on with a turn as they both saw it the first counts, in either order" => goes_on,
    "a turn that comes to a session that is deleted is refused or goes with it, in either order" => deletion,
}

type Act = fn(TurnId) -> NewEvent;

fn cancelled(turn: TurnId) -> NewEvent {
    let body = EventBody::TurnCancelled {
        usage: None,
        cost: None,
        worked_ms: None,
    };
    of_turn(turn, body)
}

async fn ends(world: &World) -> Outcome {
    let orders: [[Act; 2]; 2] = [[completed, cancelled], [cancelled, completed]];
    let org = world.org().await?;
    for acts in orders {
        let session = world.session(&org).await?.id;
        let turn = world.turn(&org, session).await?.id;
        let [first, second] = acts.map(|act| act(turn));
        world.store.append(&org, session, std::slice::from_ref(&first)).await?;
        let late = world.store.append(&org, session, &[second]).await;
        ensure!(
            matches!(late, Err(StoreError::Invalid { .. })),
            "a second end: {late:?}"
        );
        let events = world.store.turn_events(&org, turn).await?;
        let kept: Vec<_> = events
            .iter()
            .map(|event| &event.body)
            .filter(|body| body.is_terminal())
            .collect();
        ensure_eq!(kept, [&first.body], "the ends that are kept");
    }
    Ok(())
}

async fn goes_on(world: &World) -> Outcome {
    // Somebody decides, and the time to decide is over.
    let orders: [[Act; 2]; 2] = [[resumed, cancelled], [cancelled, resumed]];
    let org = world.org().await?;
    for acts in orders {
        let Waits { session, turn, seen } = waits(world, &org, now()).await?;
        let [first, second] = acts.map(|act| act(turn.id));
        let done = world
            .store
            .append_after(&org, session.id, seen, std::slice::from_ref(&first))
            .await?;
        ensure!(done.is_some(), "the first is refused");
        let late = world.store.append_after(&org, session.id, seen, &[second]).await?;
        ensure_eq!(late, None, "the second");
        let status = world.store.turn(&org, turn.id).await?.map(|turn| turn.status);
        let expected = match first.body.is_terminal() {
            true => TurnStatus::Cancelled,
            false => TurnStatus::Running,
        };
        ensure_eq!(status, Some(expected), "the turn");
    }
    Ok(())
}

async fn deletion(world: &World) -> Outcome {
    let (org, store) = (world.org().await?, &world.store);
    let session = world.session(&org).await?.id;
    store.delete_session(&org, session).await?;
    let late = new_turn();
    let accepted = store.accept_turn(&org, session, &late).await?;
    ensure_eq!(accepted, None, "a turn of a session that is deleted");
    ensure_eq!(store.turn(&org, late.id).await?, None, "what is left of it");

    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?.id;
    store.delete_session(&org, session).await?;
    ensure_eq!(store.turn(&org, turn).await?, None, "a turn that came before");
    ensure_eq!(store.turn_events(&org, turn).await?, [], "its journal");
    let end = store.append(&org, session, &[completed(turn)]).await;
    ensure!(matches!(end, Err(StoreError::Gone { .. })), "its end: {end:?}");
    Ok(())
}
