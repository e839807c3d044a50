//! Going back: what is undone is exactly what was to be undone, and nothing moves meanwhile.

use super::{Broken, Outcome, World, completed, ensure, ensure_eq, new_turn, promises, races::at_once, work::seqs};
use crate::record::{Accepted, NewRewind, NewTurn, Rewound, Turn};
use fumehood_core::{
    event::EventBody,
    id::{CallId, EventId, SessionId},
    name::OrgName,
    rewind::{FilesRewound, OutsideEffect, Rewind},
};
use std::sync::Arc;

promises! {
    "a session goes back to before a turn, and says so in its journal under the id that was made for it" => goes_back,
    "a session with an open turn does not go back" => not_while_busy,
    "a session whose turns are others than those to be undone does not go back" => not_when_stale,
    "a turn that replaces others undoes them in the moment it is accepted, or nothing is done" => replaces,
    "a session of another org or that is not there does not go back" => not_elsewhere,
    "of going back and a new turn at once the one that comes second finds it" => race,
}

/// A turn that has ended.
async fn ended(world: &World, org: &OrgName, session: SessionId) -> Result<Turn, Broken> {
    let turn = world.turn(org, session).await?;
    world.store.append(org, session, &[completed(turn.id)]).await?;
    Ok(turn)
}

pub(super) fn to_before(turns: &[Turn]) -> NewRewind {
    NewRewind {
        id: EventId::new(),
        after: turns.first().map_or(0, |turn| turn.first_seq - 1),
        turns: turns.iter().map(|turn| turn.id).collect(),
        files: FilesRewound::Restored,
        outside: vec![OutsideEffect::Call {
            call: CallId::new(),
            tool: "mail".into(),
        }],
        outside_more: 3,
    }
}

async fn goes_back(world: &World) -> Outcome {
    let (store, org) = (&world.store, world.org().await?);
    let session = world.session(&org).await?.id;
    let mut turns = Vec::new();
    for _ in 0..3 {
        turns.push(ended(world, &org, session).await?);
    }
    ensure_eq!(store.rewinds(&org, session).await?, [], "before");
    let rewind = to_before(&turns[1..]);
    let Some(Rewound::Done(event)) = store.rewind(&org, session, &rewind).await? else {
        return Err(Broken("it did not go back".into()));
    };
    ensure_eq!((event.id, event.seq), (rewind.id, Some(8)), "the id and the place");
    let says = matches!(&event.body, EventBody::SessionRewound { after, turns, files, outside, outside_more }
        if *after == rewind.after && *turns == rewind.turns && *files == rewind.files && *outside == rewind.outside
            && *outside_more == rewind.outside_more);
    ensure!(says, "it says {:?}", event.body);
    let journal = store.events(&org, session, 0, 100).await?;
    ensure_eq!(
        seqs(&journal),
        (1..=8).collect::<Vec<u64>>(),
        "the journal keeps everything"
    );
    ensure_eq!(journal.last(), Some(&event), "its end");
    let first = Rewind { after: 3, seq: 8 };
    ensure_eq!(store.rewinds(&org, session).await?, [first], "where it went back");

    let next = ended(world, &org, session).await?;
    let again = to_before(&[turns[0].clone(), next]);
    ensure!(
        matches!(store.rewind(&org, session, &again).await?, Some(Rewound::Done(_))),
        "further back"
    );
    let second = Rewind { after: 1, seq: 11 };
    ensure_eq!(store.rewinds(&org, session).await?, [first, second], "both, in order");
    Ok(())
}

async fn not_while_busy(world: &World) -> Outcome {
    let (store, org) = (&world.store, world.org().await?);
    let session = world.session(&org).await?.id;
    let done = ended(world, &org, session).await?;
    let open = world.turn(&org, session).await?;
    let rewound = store.rewind(&org, session, &to_before(&[done, open.clone()])).await?;
    ensure_eq!(rewound, Some(Rewound::Busy(open.id)), "what became of it");
    ensure_eq!(store.rewinds(&org, session).await?, [], "where it went back");
    Ok(())
}

async fn not_when_stale(world: &World) -> Outcome {
    let (store, org) = (&world.store, world.org().await?);
    let session = world.session(&org).await?.id;
    let (first, second) = (ended(world, &org, session).await?, ended(world, &org, session).await?);
    let later = NewRewind {
        turns: vec![first.id],
        ..to_before(std::slice::from_ref(&second))
    };
    for stale in [to_before(std::slice::from_ref(&first)), to_before(&[]), later] {
        let rewound = store.rewind(&org, session, &stale).await?;
        ensure_eq!(rewound, Some(Rewound::Stale), "what became of it");
    }
    let last = to_before(&[second]);
    store.rewind(&org, session, &last).await?;
    let again = NewRewind {
        id: EventId::new(),
        ..last
    };
    let rewound = store.rewind(&org, session, &again).await?;
    ensure_eq!(rewound, Some(Rewound::Stale), "the same once more");
    ensure_eq!(store.rewinds(&org, session).await?.len(), 1, "how often it went back");
    Ok(())
}

async fn replaces(world: &World) -> Outcome {
    let (store, org) = (&world.store, world.org().await?);
    let session = world.session(&org).await?.id;
    let old = ended(world, &org, session).await?;
    let rewind = to_before(&[old]);
    let stale = NewTurn {
        replaces: Some(NewRewind {
            turns: Vec::new(),
            ..rewind.clone()
        }),
        ..new_turn()
    };
    let accepted = store.accept_turn(&org, session, &stale).await?;
    ensure_eq!(accepted, Some(Accepted::Stale), "what became of a stale one");
    ensure_eq!(store.turns(&org, session).await?.len(), 1, "the turns");
    ensure_eq!(store.rewinds(&org, session).await?, [], "where it went back");

    let new = NewTurn {
        replaces: Some(rewind.clone()),
        ..new_turn()
    };
    let accepted = store.accept_turn(&org, session, &new).await?;
    let Some(Accepted::New(turn, recorded)) = accepted else {
        return Err(Broken(format!("not accepted: {accepted:?}")));
    };
    ensure_eq!(seqs(&recorded), [4, 5], "what was recorded");
    ensure_eq!(
        (recorded[0].id, turn.first_seq),
        (rewind.id, 5),
        "the event and the turn"
    );
    ensure_eq!(
        store.turn(&org, turn.id).await?,
        Some(turn.clone()),
        "the turn as it is read"
    );
    let busy = NewTurn {
        replaces: Some(to_before(std::slice::from_ref(&turn))),
        ..new_turn()
    };
    let accepted = store.accept_turn(&org, session, &busy).await?;
    ensure_eq!(accepted, Some(Accepted::Busy(turn.id)), "while it is open");
    ensure_eq!(store.rewinds(&org, session).await?.len(), 1, "how often it went back");
    Ok(())
}

async fn not_elsewhere(world: &World) -> Outcome {
    let (store, org, foreign) = (&world.store, world.org().await?, world.org().await?);
    let session = world.session(&org).await?.id;
    let rewind = to_before(&[ended(world, &org, session).await?]);
    ensure_eq!(store.rewind(&foreign, session, &rewind).await?, None, "another org");
    ensure_eq!(store.rewind(&org, SessionId::new(), &rewind).await?, None, "no session");
    store.rewind(&org, session, &rewind).await?;
    ensure_eq!(store.rewinds(&foreign, session).await?, [], "to another org");
    Ok(())
}

async fn race(world: &World) -> Outcome {
    for _ in 0..8 {
        let (store, org) = (&world.store, world.org().await?);
        let session = world.session(&org).await?.id;
        let old = ended(world, &org, session).await?;
        let results = at_once(8, |number| {
            let (store, org, old) = (Arc::clone(store), org.clone(), old.clone());
            async move {
                if number % 2 == 0 {
                    let accepted = store.accept_turn(&org, session, &new_turn()).await?;
                    return Ok((matches!(accepted, Some(Accepted::New(..))), false));
                }
                let rewound = store.rewind(&org, session, &to_before(&[old])).await?;
                Ok::<_, crate::StoreError>((false, matches!(rewound, Some(Rewound::Done(_)))))
            }
        })
        .await?;
        let results = results.into_iter().collect::<Result<Vec<_>, _>>()?;
        let accepted = results.iter().filter(|(new, _)| *new).count();
        let rewound = results.iter().filter(|(_, rewound)| *rewound).count();
        ensure_eq!(accepted, 1, "turns accepted");
        ensure!(rewound <= 1, "it went back {rewound} times");
        let last = store.events(&org, session, 0, 100).await?.pop();
        let is_queued = matches!(last.map(|event| event.body), Some(EventBody::TurnQueued { .. }));
        ensure!(is_queued, "it went back while a turn was open");
    }
    Ok(())
}
