//! Journals that hold much: what is read of one at a time.

use super::{Outcome, World, ensure, ensure_eq, promises, remark};
use crate::api::EVENTS_BYTES;
use fumehood_core::event::{Event, EventBody};

promises! {
    "a page of events ends at its bytes but for a single event, and the pages are the journal" => pages,
}

async fn pages(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let (page, half) = (EVENTS_BYTES as usize, EVENTS_BYTES as usize / 2);
    for length in [
        0,
        half,
        half,
        1,
        page,
        page + 1,
        3,
        half,
        half - 1000,
        0,
        half,
        2 * page,
    ] {
        store.append(&org, session, &[remark("x".repeat(length))]).await?;
    }
    let last = store.last_seq(&org, session).await?.unwrap_or_default();
    for limit in [1, 2, 3, 100] {
        let (mut after, mut sizes) = (0, Vec::new());
        loop {
            let events = store.events(&org, session, after, limit).await?;
            let Some(end) = events.last().and_then(|event| event.seq) else {
                break;
            };
            let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
            let next: Vec<_> = (after + 1..=end).map(Some).collect();
            ensure!(seqs == next, "after {after}, at most {limit}: {seqs:?}");
            let bytes: usize = events.iter().map(length).sum();
            ensure!(
                bytes <= page || events.len() == 1,
                "{} events of {bytes} bytes after {after}",
                events.len()
            );
            sizes.push(events.len());
            after = end;
        }
        ensure!(after == last, "at most {limit} end with {after} of {last}");
        if limit == 100 {
            // The session's own first event is small, and so is what is kept of an event besides its text.
            ensure_eq!(sizes, [3, 2, 1, 1, 4, 1, 1], "events in each page");
        }
    }
    Ok(())
}

fn length(event: &Event) -> usize {
    match &event.body {
        EventBody::TextCompleted { text, .. } => text.len(),
        _ => 0,
    }
}
