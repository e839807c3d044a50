//! Who works a turn: one host at a time, also where two believe that they do.

use super::{
    Broken, Outcome, World, completed, ensure, ensure_eq, of_turn, promises, queue::queue, races::at_once, remark,
    work::started,
};
use crate::{
    api::StoreError,
    lease::{Fence, HostId, Lease, Taken},
    record::{Addition, CancelAt, Session, Turn},
};
use fumehood_core::{
    Time,
    call::{CallError, CallErrorCode, Metering},
    content::Content,
    event::{EventBody, NewEvent},
    id::{CallId, TurnId},
    name::OrgName,
    now,
    turn::WaitingFor,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

promises! {
    "a turn is one host's until its lease ends, and another's then" => one_at_a_time,
    "a lease that is renewed does not end, and only a host's own is renewed" => renewed,
    "who held a turn before another writes nothing more for it" => fenced,
    "of many hosts that want a turn at once one gets it" => one_takes,
    "of two that believe to hold a turn one writes its end" => one_ends,
    "a turn that ends, or waits for somebody outside, is held by nobody" => let_go_by_events,
    "a turn that was let go of is taken without a recovery" => let_go,
    "recoveries count in a row, until the turn comes further" => recoveries,
    "turns to be taken are the next of their sessions that nobody holds" => to_take,
    "a turn that is to be cancelled is known as one to who takes it, until it ends" => to_cancel,
    "a turn of another org can't be taken" => foreign,
}

const SECOND: Duration = Duration::from_secs(1);

struct Held {
    org: OrgName,
    session: Session,
    turn: Turn,
    /// The moment from which times are told.
    from: Time,
}

async fn turn(world: &World) -> Result<Held, Broken> {
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let turn = world.turn(&org, session.id).await?;
    let from = now();
    Ok(Held {
        org,
        session,
        turn,
        from,
    })
}

impl Held {
    /// At so many seconds, for ten.
    fn lease(&self, host: HostId, at: u32) -> Lease {
        let at = self.from + SECOND * at;
        let until = at + SECOND * 10;
        Lease { host, at, until }
    }

    async fn ask(&self, world: &World, host: HostId, at: u32) -> Result<Option<Taken>, Broken> {
        let lease = self.lease(host, at);
        Ok(world.store.take_turn(&self.org, self.turn.id, lease).await?)
    }

    async fn take(&self, world: &World, host: HostId, at: u32) -> Result<(Fence, u32), Broken> {
        match self.ask(world, host, at).await? {
            Some(Taken::Mine { fence, recoveries, .. }) => Ok((fence, recoveries)),
            other => Err(Broken(format!("at {at} s the turn was not to be had: {other:?}"))),
        }
    }

    async fn append(&self, world: &World, fence: Fence, event: NewEvent) -> Result<(), StoreError> {
        let events = world
            .store
            .append_held(&self.org, self.session.id, fence, &[event])
            .await?;
        drop(events);
        Ok(())
    }

    fn interrupted(&self) -> NewEvent {
        let error = CallError::new(CallErrorCode::Interrupted, "the host stopped");
        let body = EventBody::tool_completed(CallId::new(), "t".into(), Err(error), Metering::default());
        of_turn(self.turn.id, body)
    }
}

async fn one_at_a_time(world: &World) -> Outcome {
    let held = turn(world).await?;
    let (one, other) = (HostId::new(), HostId::new());
    held.take(world, one, 0).await?;
    ensure_eq!(held.ask(world, other, 9).await?, Some(Taken::Held), "before its end");
    held.take(world, other, 10).await?;
    ensure_eq!(
        held.ask(world, one, 19).await?,
        Some(Taken::Held),
        "what the first had is over"
    );
    // A host whose work on a turn broke takes it again.
    held.take(world, other, 11).await?;
    world
        .store
        .append(&held.org, held.session.id, &[completed(held.turn.id)])
        .await?;
    ensure_eq!(held.ask(world, one, 60).await?, Some(Taken::Ended), "after its end");
    let unknown = world
        .store
        .take_turn(&held.org, TurnId::new(), held.lease(one, 0))
        .await?;
    ensure_eq!(unknown, None, "an unknown turn");
    Ok(())
}

async fn renewed(world: &World) -> Outcome {
    let held = turn(world).await?;
    let (one, other) = (HostId::new(), HostId::new());
    held.take(world, one, 0).await?;
    world.store.renew(&[held.turn.id], held.lease(one, 8)).await?;
    ensure_eq!(held.ask(world, other, 17).await?, Some(Taken::Held), "renewed");
    world.store.renew(&[held.turn.id], held.lease(other, 17)).await?;
    world.store.renew(&[], held.lease(one, 17)).await?;
    held.take(world, other, 18).await?;
    Ok(())
}

async fn fenced(world: &World) -> Outcome {
    let held = turn(world).await?;
    let (first, _) = held.take(world, HostId::new(), 0).await?;
    held.append(world, first, started(held.turn.id)?).await?;
    // It sleeps past the end of its lease, and nobody has come: what it writes counts.
    held.append(world, first, remark("late")).await?;
    let (second, _) = held.take(world, HostId::new(), 60).await?;
    let before = world.store.last_seq(&held.org, held.session.id).await?;
    let late = held.append(world, first, completed(held.turn.id)).await;
    ensure!(matches!(late, Err(StoreError::Lost)), "a late end: {late:?}");
    let addition = Addition {
        fence: first,
        input: vec![Content::text("and this")],
        idempotency: None,
    };
    let late = world
        .store
        .add_to_turn(&held.org, held.session.id, &addition)
        .await
        .map(drop);
    ensure!(matches!(late, Err(StoreError::Lost)), "a late addition: {late:?}");
    let after = world.store.last_seq(&held.org, held.session.id).await?;
    ensure_eq!(after, before, "the journal's last place");
    held.append(world, second, completed(held.turn.id)).await?;
    Ok(())
}

async fn one_takes(world: &World) -> Outcome {
    let held = turn(world).await?;
    let results = at_once(32, |_| {
        let (store, org, id) = (Arc::clone(&world.store), held.org.clone(), held.turn.id);
        let lease = held.lease(HostId::new(), 0);
        async move { store.take_turn(&org, id, lease).await }
    })
    .await?;
    let mut mine = 0;
    for result in results {
        match result? {
            Some(Taken::Mine { .. }) => mine += 1,
            Some(Taken::Held) => {}
            other => return Err(Broken(format!("one was told {other:?}"))),
        }
    }
    ensure_eq!(mine, 1, "those who have it");
    Ok(())
}

async fn one_ends(world: &World) -> Outcome {
    let held = turn(world).await?;
    let (first, _) = held.take(world, HostId::new(), 0).await?;
    let (second, _) = held.take(world, HostId::new(), 60).await?;
    let results = at_once(2, |number| {
        let (store, org, session) = (Arc::clone(&world.store), held.org.clone(), held.session.id);
        let (fence, end) = ([first, second][number], completed(held.turn.id));
        async move { (number, store.append_held(&org, session, fence, &[end]).await.map(drop)) }
    })
    .await?;
    for (number, result) in results {
        let well = match number {
            0 => matches!(result, Err(StoreError::Lost)),
            _ => result.is_ok(),
        };
        ensure!(well, "holder {number} was told {result:?}");
    }
    Ok(())
}

async fn let_go_by_events(world: &World) -> Outcome {
    let held = turn(world).await?;
    let (fence, _) = held.take(world, HostId::new(), 0).await?;
    held.append(world, fence, started(held.turn.id)?).await?;
    let waiting_for = WaitingFor::Approval;
    held.append(
        world,
        fence,
        of_turn(
            held.turn.id,
            EventBody::TurnPaused {
                waiting_for,
                worked_ms: None,
            },
        ),
    )
    .await?;
    // Whoever has just parked it may still end it, as long as nobody goes on with it.
    held.append(world, fence, remark("parked")).await?;
    let (_, recoveries) = held.take(world, HostId::new(), 1).await?;
    ensure_eq!(recoveries, 0, "the recoveries of one that waited");
    Ok(())
}

async fn let_go(world: &World) -> Outcome {
    let held = turn(world).await?;
    let (one, other) = (HostId::new(), HostId::new());
    let (first, _) = held.take(world, one, 0).await?;
    world.store.let_go(first).await?;
    let (_, recoveries) = held.take(world, other, 1).await?;
    ensure_eq!(recoveries, 0, "after one was let go of");
    // Too late: it is another's.
    world.store.let_go(first).await?;
    ensure_eq!(
        held.ask(world, one, 2).await?,
        Some(Taken::Held),
        "let go of by another"
    );
    world.store.let_go_of_all(one).await?;
    ensure_eq!(
        held.ask(world, one, 2).await?,
        Some(Taken::Held),
        "all of another's let go of"
    );
    world.store.let_go_of_all(other).await?;
    let (_, recoveries) = held.take(world, one, 2).await?;
    ensure_eq!(recoveries, 0, "after all were let go of");
    Ok(())
}

async fn recoveries(world: &World) -> Outcome {
    let held = turn(world).await?;
    let mut at = 0;
    let mut counted = async || {
        at += 60;
        held.take(world, HostId::new(), at).await
    };
    let (fence, first) = counted().await?;
    ensure_eq!(first, 0, "nobody had it before");
    held.append(world, fence, started(held.turn.id)?).await?;
    ensure_eq!(counted().await?.1, 1, "the first recovery");
    let (fence, second) = counted().await?;
    ensure_eq!(second, 2, "nothing came of it");
    held.append(world, fence, held.interrupted()).await?;
    held.append(world, fence, remark("not of the turn")).await?;
    let (fence, third) = counted().await?;
    ensure_eq!(third, 3, "what a recovery writes is no progress");
    held.append(
        world,
        fence,
        of_turn(held.turn.id, EventBody::TurnSteered { input: Vec::new() }),
    )
    .await?;
    ensure_eq!(counted().await?.1, 1, "after it came further");
    ensure_eq!(counted().await?.1, 2, "and not again");
    Ok(())
}

async fn to_take(world: &World) -> Outcome {
    let held = turn(world).await?;
    let (org, session) = (&held.org, held.session.id);
    let behind = queue(world, org, session).await?.id;
    let free = world.session(org).await?.id;
    let free = world.turn(org, free).await?;
    let parked = world.session(org).await?.id;
    let parked = world.turn(org, parked).await?;
    let waiting_for = WaitingFor::Approval;
    let events = [
        started(parked.id)?,
        of_turn(
            parked.id,
            EventBody::TurnPaused {
                waiting_for,
                worked_ms: None,
            },
        ),
    ];
    world.store.append(org, parked.session, &events).await?;
    let found = async |at: u32| -> Result<BTreeSet<TurnId>, Broken> {
        let (mut found, mut after) = (BTreeSet::new(), None);
        // By pages of one: none is left out, none comes twice.
        while let [next] = &world.store.turns_to_take(held.from + SECOND * at, after, 1).await?[..] {
            ensure!(found.insert(next.id), "{} came twice", next.id);
            after = Some(next.id);
        }
        let ours = [held.turn.id, behind, free.id, parked.id];
        Ok(found.into_iter().filter(|id| ours.contains(id)).collect())
    };
    ensure_eq!(
        found(0).await?,
        BTreeSet::from([held.turn.id, free.id]),
        "held by nobody"
    );
    let host = HostId::new();
    held.take(world, host, 0).await?;
    ensure_eq!(found(9).await?, BTreeSet::from([free.id]), "while one is held");
    let both = BTreeSet::from([held.turn.id, free.id]);
    ensure_eq!(found(10).await?, both, "when its lease has ended");
    world.store.append(org, session, &[completed(held.turn.id)]).await?;
    ensure_eq!(found(9).await?, BTreeSet::from([behind, free.id]), "after its end");
    Ok(())
}

async fn to_cancel(world: &World) -> Outcome {
    let held = turn(world).await?;
    let (org, id) = (&held.org, held.turn.id);
    let (store, host) = (&world.store, HostId::new());
    let known = async |at: u32| -> Result<(Option<CancelAt>, Option<CancelAt>), Broken> {
        let (mut listed, mut after) = (None, None);
        while let [(turn, at)] = &store.turns_to_cancel(after, 1).await?[..] {
            listed = listed.or((turn.id == id).then_some(*at));
            after = Some(turn.id);
        }
        match held.ask(world, host, at).await? {
            Some(Taken::Mine { cancel, .. }) => Ok((cancel, listed)),
            other => Err(Broken(format!("the turn was not to be had: {other:?}"))),
        }
    };
    ensure_eq!(known(0).await?, (None, None), "before anybody asks");
    let other = world.org().await?;
    let kept = store.keep_cancel(&other, id, CancelAt::Now).await?;
    ensure!(!kept, "another org's turn was to be cancelled");
    ensure_eq!(known(1).await?, (None, None), "asked for in another org");
    for (asked, then) in [
        (CancelAt::Boundary, CancelAt::Boundary),
        (CancelAt::Now, CancelAt::Now),
        (CancelAt::Boundary, CancelAt::Now),
    ] {
        let kept = store.keep_cancel(org, id, asked).await?;
        ensure!(kept, "{asked:?} was not kept");
        ensure_eq!(known(2).await?, (Some(then), Some(then)), "after it was asked for");
    }
    store.append(org, held.session.id, &[completed(id)]).await?;
    let kept = store.keep_cancel(org, id, CancelAt::Now).await?;
    ensure!(!kept, "a turn that has ended was to be cancelled");
    let left = store.turns_to_cancel(None, 1000).await?;
    ensure!(
        left.iter().all(|(turn, _)| turn.id != id),
        "a turn that has ended is to be cancelled"
    );
    Ok(())
}

async fn foreign(world: &World) -> Outcome {
    let held = turn(world).await?;
    let other = world.org().await?;
    let lease = held.lease(HostId::new(), 0);
    let taken = world.store.take_turn(&other, held.turn.id, lease).await?;
    ensure_eq!(taken, None, "for another org");
    let (fence, _) = held.take(world, HostId::new(), 0).await?;
    let session = world.session(&other).await?.id;
    let appended = world
        .store
        .append_held(&other, session, fence, &[remark("x")])
        .await
        .map(drop);
    ensure!(
        matches!(appended, Err(StoreError::Gone { .. })),
        "under a fence of another session: {appended:?}"
    );
    Ok(())
}
