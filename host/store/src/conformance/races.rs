//! Many tasks at once, and futures dropped half-way.

use super::{
    Broken, Outcome, World, completed, created, ensure, ensure_eq, new_session, new_turn, promises, remark, work::seqs,
};
use crate::{
    api::StoreError,
    record::{Accepted, NewTurn, Owner, PageRequest, WhichSessions},
};
use fumehood_core::{digest::Digest, event::EventBody, name::SecretName};
use secrecy::SecretString;
use std::{future::Future, sync::Arc};
use tokio::task::JoinSet;

promises! {
    "many appends at once leave no gap and no double" => appends,
    "of turns asked for at once one is new and the others find the session busy" => turns,
    "of sessions made at once an org keeps no more than it may" => sessions,
    "of one idempotent request sent many times at once one is new and the others repeat it" => repeats,
    "of ends of a turn at once one holds" => ends,
    "writes of one secret at once leave one of the values" => secrets,
    "an append whose future is dropped happened whole or not at all" => dropped_appends,
    "a turn whose acceptance is dropped is there with its event or not at all" => dropped_turns,
}

const AT_ONCE: usize = 64;

/// Runs a future per number, at once.
pub(super) async fn at_once<T, F>(count: usize, make: impl Fn(usize) -> F) -> Result<Vec<T>, Broken>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        tasks.spawn(make(number));
    }
    let mut results = Vec::with_capacity(count);
    while let Some(result) = tasks.join_next().await {
        results.push(result.map_err(|error| Broken(format!("a task broke: {error}")))?);
    }
    Ok(results)
}

async fn appends(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let results = at_once(AT_ONCE, |number| {
        let (store, org) = (Arc::clone(&world.store), org.clone());
        async move {
            let events = [remark(format!("{number} a")), remark(format!("{number} b"))];
            store.append(&org, session, &events).await
        }
    })
    .await?;
    let mut told = vec![1];
    for result in results {
        let places = seqs(&result?);
        ensure!(
            places.len() == 2 && places[0] + 1 == places[1],
            "one append's places: {places:?}"
        );
        told.extend(places);
    }
    told.sort_unstable();
    let expected: Vec<u64> = (1..=AT_ONCE as u64 * 2 + 1).collect();
    ensure_eq!(told, expected, "the places told");
    let kept = world.store.events(&org, session, 0, 1000).await?;
    ensure_eq!(seqs(&kept), expected, "the places kept");
    let last = world.store.last_seq(&org, session).await?;
    ensure_eq!(last, expected.last().copied(), "the last place");
    let other = world.org().await?;
    let foreign = world.store.last_seq(&other, session).await?;
    ensure_eq!(foreign, None, "the last place, for another org");
    Ok(())
}

async fn turns(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let results = at_once(8, |_| {
        let (store, org) = (Arc::clone(&world.store), org.clone());
        async move { store.accept_turn(&org, session, &new_turn()).await }
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

async fn sessions(world: &World) -> Outcome {
    const MOST: u64 = 3;
    let (org, other) = (world.org().await?, world.org().await?);
    world.session(&other).await?;
    let results = at_once(8, |_| {
        let (store, session) = (Arc::clone(&world.store), new_session(&org));
        async move {
            let session = session?;
            Ok::<_, Broken>(store.create_session_within(&session, MOST, &[created(&session)]).await)
        }
    })
    .await?;
    let mut made = 0;
    for result in results {
        match result? {
            Ok(_) => made += 1,
            Err(StoreError::TooMany { limit: MOST, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let page = PageRequest::default();
    let kept = world.store.sessions(&org, WhichSessions::All, &page).await?.items;
    ensure_eq!((made, kept.len()), (MOST, 3), "the sessions that were made, and kept");
    world.store.delete_session(&org, kept[0].id).await?;
    let session = new_session(&org)?;
    world.store.create_session_within(&session, MOST, &[]).await?;
    Ok(())
}

async fn repeats(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let results = at_once(8, |_| {
        let (store, org) = (Arc::clone(&world.store), org.clone());
        async move {
            let turn = NewTurn {
                idempotency: Some(("k".into(), Digest::of(b"request"))),
                ..new_turn()
            };
            store.accept_turn(&org, session, &turn).await
        }
    })
    .await?;
    let (mut new, mut repeated) = (Vec::new(), Vec::new());
    for result in results {
        match result? {
            Some(Accepted::New(turn, _)) => new.push(turn.id),
            Some(Accepted::Repeated(turn)) => repeated.push(turn.id),
            other => return Err(Broken(format!("neither new nor repeated: {other:?}"))),
        }
    }
    ensure_eq!(new.len(), 1, "new turns");
    ensure!(
        repeated.iter().all(|turn| *turn == new[0]),
        "repeated {repeated:?}, not {new:?}"
    );
    Ok(())
}

async fn ends(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?.id;
    let results = at_once(8, |_| {
        let (store, org) = (Arc::clone(&world.store), org.clone());
        async move { store.append(&org, session, &[completed(turn)]).await }
    })
    .await?;
    ensure_eq!(
        results.iter().filter(|result| result.is_ok()).count(),
        1,
        "ends that held"
    );
    let events = world.store.turn_events(&org, turn).await?;
    ensure_eq!(
        events.iter().filter(|event| event.body.is_terminal()).count(),
        1,
        "ends kept"
    );
    Ok(())
}

async fn secrets(world: &World) -> Outcome {
    let org = world.org().await?;
    let name = SecretName::new("A").map_err(|error| Broken(error.to_string()))?;
    let results = at_once(8, |number| {
        let (store, owner, name) = (Arc::clone(&world.store), Owner::Org(org.clone()), name.clone());
        async move {
            store
                .secret_set(&owner, &name, &SecretString::from(format!("value {number}")))
                .await
        }
    })
    .await?;
    for result in results {
        result?;
    }
    let found = super::values::effective(&*world.store, &org, None).await?;
    ensure!(
        found.len() == 1 && found[0].1.starts_with("value "),
        "the secret: {found:?}"
    );
    Ok(())
}

/// Polls a future until it is done or the task has been woken that often without it; then drops it.
async fn abandoned_after<T>(yields: usize, future: impl Future<Output = T>) -> Option<T> {
    let patience = async {
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        result = future => Some(result),
        () = patience => None,
    }
}

async fn dropped_appends(world: &World) -> Outcome {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let mut told = 0;
    for yields in 0..200 {
        let events = [remark("1"), remark("2"), remark("3")];
        if let Some(result) = abandoned_after(yields, world.store.append(&org, session, &events)).await {
            result?;
            told += 1;
        }
    }
    // Queued behind whatever was begun.
    world.store.append(&org, session, &[remark("last")]).await?;
    let kept = world.store.events(&org, session, 1, 1000).await?;
    let places: Vec<u64> = (2..).take(kept.len()).collect();
    ensure_eq!(seqs(&kept), places, "the places");
    let texts: Vec<&str> = kept
        .iter()
        .map(|event| match &event.body {
            EventBody::TextCompleted { text, .. } => text.as_str(),
            _ => "?",
        })
        .collect();
    let whole = texts.len() % 3 == 1 && texts.chunks_exact(3).all(|chunk| chunk == ["1", "2", "3"]);
    ensure!(whole, "parts of an append: {texts:?}");
    ensure!(
        texts.len() / 3 >= told,
        "{told} appends were told, {} are kept",
        texts.len() / 3
    );
    Ok(())
}

async fn dropped_turns(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    for yields in 0..50 {
        let session = world.session(&org).await?.id;
        let turn = new_turn();
        let _ = abandoned_after(yields, store.accept_turn(&org, session, &turn)).await;
        store.append(&org, session, &[remark("last")]).await?;
        let there = store.turn(&org, turn.id).await?.is_some();
        let events = store.turn_events(&org, turn.id).await?.len();
        ensure_eq!(events, usize::from(there), "the events of the turn");
    }
    Ok(())
}
