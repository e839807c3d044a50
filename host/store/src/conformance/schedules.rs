//! Schedules: firing once, and what comes of it.

use super::{
    Broken, Outcome, World, agent, archive::archive, completed, created, ensure, ensure_eq, new_session, new_turn,
    promises, races::at_once,
};
use crate::{
    api::StoreError,
    record::{IfBusy, NewTurn, PageRequest, Session, WhichSessions},
    schedules::{
        Aimed, Cause, Deed, Fired, Firing, NewSchedule, Overlap, Place, Plan, RunOutcome, Schedule, ScheduleRun,
        SkipReason, State, Task,
    },
};
use fumehood_core::{
    Time,
    content::Content,
    digest::Digest,
    event::{EventBody, Source},
    id::{ScheduleId, SessionId, TurnId},
    name::OrgName,
    turn::Budget,
};
use fumehood_policy::{
    authority::SessionNarrowing,
    quantity::Span,
    schedule::{Misfire, Passed, When},
};
use std::sync::Arc;

promises! {
    "a schedule is kept as it was made, and changes only as it was seen" => kept,
    "the same idempotency key makes one schedule" => made_once,
    "an org has only so many schedules" => bounded,
    "schedules are found in the order of their next times" => planned,
    "a schedule that fires makes its session, its turn and its next time at once" => fires,
    "of many who fire a schedule for the same time one does" => fires_once,
    "a time that was decided about is not decided about again" => decided,
    "a turn of a schedule waits, unless the one before waits itself" => waits,
    "a schedule that is not to wait is skipped while its session is busy" => skips,
    "a schedule makes no session beyond the bound of its org" => full,
    "times that are passed over are remembered" => passed,
    "a schedule goes with its session, and not with what it made" => goes,
    "a schedule of an archived session is skipped, and fires again when that is brought back" => archived,
    "schedules of another org read as absent" => foreign,
}

/// Seconds since the epoch.
fn at(seconds: i64) -> Result<Time, Broken> {
    Time::from_timestamp(seconds, 0).ok_or_else(|| Broken("no such time".into()))
}

pub(super) fn new_schedule(org: &OrgName, place: Place, next: i64) -> Result<NewSchedule, Broken> {
    Ok(NewSchedule {
        id: ScheduleId::new(),
        org: org.clone(),
        plan: Plan {
            title: Some("Every hour, ü".into()),
            when: When::Every {
                every: Span::from_secs(3600),
                from: at(0)?,
            },
            misfire: Misfire::All,
            overlap: Overlap::Queue,
            max_runs: Some(7),
            place,
            task: Task {
                input: vec![Content::text("hello")],
                system: Some("be brief".into()),
                budget: Budget::default(),
                output_schema: None,
            },
        },
        state: State::Active(at(next)?),
        idempotency: None,
    })
}

pub(super) fn fresh() -> Result<Place, Broken> {
    Ok(Place::Fresh {
        agent: Some(agent("assistant")?),
        metadata: serde_json::json!({"a": 1}),
        narrowing: SessionNarrowing::default(),
    })
}

async fn made(world: &World, org: &OrgName, place: Place) -> Result<Schedule, Broken> {
    let new = new_schedule(org, place, 3600)?;
    Ok(world.store.create_schedule(&new, 100).await?)
}

fn queued() -> NewTurn {
    NewTurn {
        if_busy: IfBusy::Queue,
        ..new_turn()
    }
}

pub(super) fn in_fresh(org: &OrgName) -> Result<(Session, Deed), Broken> {
    let session = new_session(org)?;
    let deed = Deed::Session {
        session: Box::new(session.clone()),
        created: vec![created(&session)],
        turn: queued(),
        most: u64::MAX,
    };
    Ok((session, deed))
}

/// Fires for a time, and plans an hour later.
pub(super) fn firing(schedule: &Schedule, seconds: i64, deed: Deed) -> Result<Firing, Broken> {
    Ok(Firing {
        schedule: schedule.clone(),
        cause: Cause::Due,
        fire: Some((at(seconds)?, deed)),
        makes_up: false,
        passed: None,
        state: State::Active(at(seconds + 3600)?),
    })
}

async fn again(world: &World, schedule: &Schedule) -> Result<Schedule, Broken> {
    let kept = world.store.schedule(&schedule.org, schedule.id).await?;
    kept.ok_or_else(|| Broken("the schedule is gone".into()))
}

async fn runs(world: &World, schedule: &Schedule) -> Result<Vec<ScheduleRun>, Broken> {
    let page = PageRequest::default();
    Ok(world
        .store
        .schedule_runs(&schedule.org, schedule.id, &page)
        .await?
        .items)
}

async fn kept(world: &World) -> Outcome {
    let org = world.org().await?;
    let new = new_schedule(&org, fresh()?, 3600)?;
    let schedule = world.store.create_schedule(&new, 100).await?;
    ensure_eq!(
        (&schedule.plan, schedule.state),
        (&new.plan, new.state),
        "what was made"
    );
    ensure_eq!(again(world, &schedule).await?, schedule, "what is kept");
    let mut changed = schedule.clone();
    changed.plan.title = None;
    changed.state = State::Paused;
    let kept = world.store.change_schedule(&changed).await?;
    let kept = kept.ok_or_else(|| Broken("a change was refused".into()))?;
    ensure_eq!(
        (&kept.plan, kept.state),
        (&changed.plan, State::Paused),
        "what was changed"
    );
    let stale = world.store.change_schedule(&schedule).await?;
    ensure_eq!(stale, None, "a change of what was changed");
    ensure!(
        world.store.delete_schedule(&org, schedule.id).await?,
        "it is not deleted"
    );
    ensure!(
        !world.store.delete_schedule(&org, schedule.id).await?,
        "it is deleted twice"
    );
    ensure_eq!(world.store.schedule(&org, schedule.id).await?, None, "what is gone");
    Ok(())
}

async fn made_once(world: &World) -> Outcome {
    let (org, other) = (world.org().await?, world.org().await?);
    let (request, another) = (Digest::of(b"a request"), Digest::of(b"another"));
    let new = |org: &OrgName, request: Digest| -> Result<NewSchedule, Broken> {
        Ok(NewSchedule {
            idempotency: Some(("a key".to_owned(), request)),
            ..new_schedule(org, fresh()?, 3600)?
        })
    };
    let store = &world.store;
    ensure_eq!(store.repeated_schedule(&org, "a key", &request).await?, None, "before");
    let first = store.create_schedule(&new(&org, request)?, 1).await?;
    let again = store.create_schedule(&new(&org, request)?, 1).await?;
    ensure_eq!(again, first, "the same request, where there are as many as may be");
    let known = store.repeated_schedule(&org, "a key", &request).await?;
    ensure_eq!(known.as_ref(), Some(&first), "what the same request made");
    let reused = store.create_schedule(&new(&org, another)?, 100).await;
    ensure!(
        matches!(reused, Err(StoreError::KeyReused)),
        "another request: {reused:?}"
    );
    let reused = store.repeated_schedule(&org, "a key", &another).await;
    ensure!(
        matches!(reused, Err(StoreError::KeyReused)),
        "another request: {reused:?}"
    );
    let of_other = store.create_schedule(&new(&other, request)?, 100).await?;
    ensure!(of_other.id != first.id, "another org has the schedule");
    ensure!(store.delete_schedule(&org, first.id).await?, "it is not deleted");
    let anew = store.create_schedule(&new(&org, another)?, 100).await?;
    ensure!(anew.id != first.id, "what was deleted is there");
    Ok(())
}

async fn bounded(world: &World) -> Outcome {
    let org = world.org().await?;
    for _ in 0..2 {
        world
            .store
            .create_schedule(&new_schedule(&org, fresh()?, 1)?, 2)
            .await?;
    }
    let refused = world.store.create_schedule(&new_schedule(&org, fresh()?, 1)?, 2).await;
    ensure!(
        matches!(refused, Err(StoreError::TooMany { limit: 2, .. })),
        "a third: {refused:?}"
    );
    let page = |after| PageRequest { after, limit: 1 };
    let first = world.store.schedules(&org, &page(None)).await?;
    let second = world.store.schedules(&org, &page(first.next.clone())).await?;
    ensure_eq!(
        (first.items.len(), second.items.len(), second.next),
        (1, 1, None),
        "the pages"
    );
    ensure!(first.items[0].id > second.items[0].id, "the newest comes first");
    Ok(())
}

async fn planned(world: &World) -> Outcome {
    let org = world.org().await?;
    let mut ids = Vec::new();
    for next in [300, 100, 200] {
        ids.push(
            world
                .store
                .create_schedule(&new_schedule(&org, fresh()?, next)?, 100)
                .await?
                .id,
        );
    }
    let mut paused = made(world, &org, fresh()?).await?;
    paused.state = State::Paused;
    world.store.change_schedule(&paused).await?;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = world.store.schedules_planned(after, 2).await?;
        let Some(last) = page.last() else { break };
        after = Some((last.at, last.id));
        for one in page {
            let schedule = one.schedule?;
            ensure_eq!(schedule.state, State::Active(one.at), "the time of it");
            found.extend((schedule.org == org).then_some(one.id));
        }
    }
    ensure_eq!(found, [ids[1], ids[2], ids[0]], "the order");
    Ok(())
}

async fn fires(world: &World) -> Outcome {
    let org = world.org().await?;
    let schedule = made(world, &org, fresh()?).await?;
    let (session, deed) = in_fresh(&org)?;
    let fired = world.store.fire_schedule(&firing(&schedule, 3600, deed)?).await?;
    let Fired::Turn { turn, events, run } = fired else {
        return Err(Broken(format!("it did not fire: {fired:?}")));
    };
    ensure_eq!(turn.session, session.id, "the session of the turn");
    let journal = world.store.events(&org, session.id, 0, 100).await?;
    ensure_eq!(journal, events, "the journal");
    let source = Source::Schedule {
        schedule: schedule.id,
        due: at(3600)?,
    };
    ensure!(
        journal
            .last()
            .is_some_and(|last| matches!(last.body, EventBody::TurnQueued { .. }) && last.source == source),
        "the last event: {journal:?}"
    );
    let kept = again(world, &schedule).await?;
    ensure_eq!((kept.state, kept.runs), (State::Active(at(7200)?), 1), "the schedule");
    ensure_eq!(runs(world, &schedule).await?, [run], "the runs");
    let next = world.store.next_turn(&org, session.id).await?;
    ensure_eq!(next.map(|turn| turn.id), Some(turn.id), "the turn to be worked");
    Ok(())
}

async fn fires_once(world: &World) -> Outcome {
    let org = world.org().await?;
    let schedule = made(world, &org, fresh()?).await?;
    let store = Arc::clone(&world.store);
    let fired = at_once(8, |_| {
        let (store, schedule, org) = (Arc::clone(&store), schedule.clone(), org.clone());
        async move {
            let (_, deed) = in_fresh(&org)?;
            Ok::<_, Broken>(store.fire_schedule(&firing(&schedule, 3600, deed)?).await?)
        }
    })
    .await?;
    let fired = fired.into_iter().collect::<Result<Vec<_>, _>>()?;
    let begun = fired.iter().filter(|fired| matches!(fired, Fired::Turn { .. })).count();
    ensure_eq!(begun, 1, "who fired");
    let sessions = world
        .store
        .sessions(&org, WhichSessions::All, &PageRequest::default())
        .await?;
    ensure_eq!(sessions.items.len(), 1, "the sessions that were made");
    Ok(())
}

async fn full(world: &World) -> Outcome {
    let org = world.org().await?;
    let schedule = made(world, &org, fresh()?).await?;
    for (seconds, fires) in [(3600, true), (7200, false)] {
        let (_, mut deed) = in_fresh(&org)?;
        if let Deed::Session { most, .. } = &mut deed {
            *most = 1;
        }
        let seen = again(world, &schedule).await?;
        let fired = world.store.fire_schedule(&firing(&seen, seconds, deed)?).await?;
        let skipped = match &fired {
            Fired::Nothing(Some(run)) => matches!(
                run.outcome,
                RunOutcome::Skipped {
                    reason: SkipReason::TooManySessions,
                    ..
                }
            ),
            _ => false,
        };
        ensure!(
            matches!(fired, Fired::Turn { .. }) == fires && skipped != fires,
            "at {seconds}: {fired:?}"
        );
    }
    let newest = runs(world, &schedule).await?.into_iter().next();
    ensure!(
        newest.is_some_and(|run| matches!(
            run.outcome,
            RunOutcome::Skipped {
                reason: SkipReason::TooManySessions,
                ..
            }
        )),
        "what is remembered of it"
    );
    let sessions = world
        .store
        .sessions(&org, WhichSessions::All, &PageRequest::default())
        .await?;
    ensure_eq!(sessions.items.len(), 1, "the sessions");
    Ok(())
}

async fn decided(world: &World) -> Outcome {
    let org = world.org().await?;
    let schedule = made(world, &org, fresh()?).await?;
    let (_, deed) = in_fresh(&org)?;
    world.store.fire_schedule(&firing(&schedule, 3600, deed)?).await?;
    // The clock went back, and the same time comes again.
    let (_, deed) = in_fresh(&org)?;
    let seen = again(world, &schedule).await?;
    let repeated = world.store.fire_schedule(&firing(&seen, 3600, deed)?).await?;
    ensure_eq!(repeated, Fired::Nothing(None), "the same time");
    ensure_eq!(runs(world, &schedule).await?.len(), 1, "the runs");
    let seen = again(world, &schedule).await?;
    let aimed = world.store.aim_schedule(&seen, at(3600)?).await?;
    ensure_eq!(aimed, Aimed::Decided, "planning for it");
    ensure_eq!(
        world.store.aim_schedule(&seen, at(60)?).await?,
        Aimed::Done,
        "planning for another"
    );
    ensure_eq!(
        world.store.aim_schedule(&seen, at(61)?).await?,
        Aimed::Stale,
        "planning what changed"
    );
    ensure_eq!(
        again(world, &schedule).await?.state,
        State::Active(at(60)?),
        "the next time"
    );
    Ok(())
}

async fn outcome_of(world: &World, schedule: &Schedule, seconds: i64, turn: NewTurn) -> Result<Outcomes, Broken> {
    let seen = again(world, schedule).await?;
    let session = seen
        .plan
        .place
        .session()
        .ok_or_else(|| Broken("it has no session".into()))?;
    let deed = Deed::Turn(session, turn);
    Ok(match world.store.fire_schedule(&firing(&seen, seconds, deed)?).await? {
        Fired::Turn { turn, .. } => Outcomes::Turn(turn.id),
        Fired::Nothing(Some(run)) => match run.outcome {
            RunOutcome::Skipped { reason, .. } => Outcomes::Skipped(reason),
            other => return Err(Broken(format!("unexpected: {other:?}"))),
        },
        other => return Err(Broken(format!("unexpected: {other:?}"))),
    })
}

#[derive(Debug, PartialEq)]
enum Outcomes {
    Turn(TurnId),
    Skipped(SkipReason),
}

async fn on_session(world: &World) -> Result<(OrgName, SessionId, Schedule), Broken> {
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let schedule = made(world, &org, Place::Session(session)).await?;
    Ok((org, session, schedule))
}

async fn waits(world: &World) -> Outcome {
    let (org, session, schedule) = on_session(world).await?;
    let busy = world.turn(&org, session).await?;
    let turn = queued();
    let first = outcome_of(world, &schedule, 3600, turn.clone()).await?;
    ensure_eq!(first, Outcomes::Turn(turn.id), "one behind another");
    let second = outcome_of(world, &schedule, 7200, queued()).await?;
    ensure_eq!(
        second,
        Outcomes::Skipped(SkipReason::PreviousWaits),
        "one behind its own"
    );
    let seen = again(world, &schedule).await?;
    let mut late = firing(&seen, 7300, Deed::Turn(session, queued()))?;
    late.makes_up = true;
    let late = world.store.fire_schedule(&late).await?;
    ensure!(matches!(late, Fired::Turn { .. }), "one that is made up for: {late:?}");
    for turn in [busy.id, turn.id] {
        world.store.append(&org, session, &[completed(turn)]).await?;
    }
    Ok(())
}

async fn skips(world: &World) -> Outcome {
    let (org, session, schedule) = on_session(world).await?;
    let busy = world.turn(&org, session).await?;
    let skipped = outcome_of(world, &schedule, 3600, new_turn()).await?;
    ensure_eq!(skipped, Outcomes::Skipped(SkipReason::Busy), "while another is at work");
    world.store.append(&org, session, &[completed(busy.id)]).await?;
    let turn = new_turn();
    let fired = outcome_of(world, &schedule, 7200, turn.clone()).await?;
    ensure_eq!(fired, Outcomes::Turn(turn.id), "when it is done");
    ensure_eq!(again(world, &schedule).await?.runs, 1, "how often it fired");
    Ok(())
}

async fn archived(world: &World) -> Outcome {
    let (org, session, schedule) = on_session(world).await?;
    world.store.update_session(&org, session, &archive(true), &[]).await?;
    let skipped = outcome_of(world, &schedule, 3600, queued()).await?;
    ensure_eq!(skipped, Outcomes::Skipped(SkipReason::Archived), "while it is archived");
    ensure_eq!(world.store.turns(&org, session).await?, [], "its turns");
    world.store.update_session(&org, session, &archive(false), &[]).await?;
    let turn = queued();
    let fired = outcome_of(world, &schedule, 7200, turn.clone()).await?;
    ensure_eq!(fired, Outcomes::Turn(turn.id), "when it is brought back");
    let kept = runs(world, &schedule).await?;
    ensure_eq!(kept.len(), 2, "what came of its times");
    Ok(())
}

async fn passed(world: &World) -> Outcome {
    let org = world.org().await?;
    let schedule = made(world, &org, fresh()?).await?;
    let (_, deed) = in_fresh(&org)?;
    let mut late = firing(&schedule, 10_800, deed)?;
    late.passed = Some(Passed {
        first: at(3600)?,
        count: 2,
    });
    world.store.fire_schedule(&late).await?;
    let runs = runs(world, &schedule).await?;
    let times: Vec<_> = runs.iter().map(|run| run.fire_at.timestamp()).collect();
    ensure_eq!(times, [10_800, 3600], "the latest comes first");
    ensure_eq!(runs[1].outcome, RunOutcome::Missed { count: 2 }, "what was missed");
    Ok(())
}

async fn goes(world: &World) -> Outcome {
    let (org, session, schedule) = on_session(world).await?;
    ensure!(
        world.store.delete_session(&org, session).await?,
        "the session is not deleted"
    );
    ensure_eq!(world.store.schedule(&org, schedule.id).await?, None, "its schedule");
    let schedule = made(world, &org, fresh()?).await?;
    let (session, deed) = in_fresh(&org)?;
    world.store.fire_schedule(&firing(&schedule, 3600, deed)?).await?;
    world.store.delete_session(&org, session.id).await?;
    let runs = runs(world, &schedule).await?;
    ensure!(
        matches!(
            &runs[..],
            [ScheduleRun {
                outcome: RunOutcome::Fired { status: None, .. },
                ..
            }]
        ),
        "the run whose session is gone: {runs:?}"
    );
    Ok(())
}

async fn foreign(world: &World) -> Outcome {
    let (org, session, schedule) = on_session(world).await?;
    let other = world.org().await?;
    ensure_eq!(world.store.schedule(&other, schedule.id).await?, None, "reading");
    ensure_eq!(
        world.store.schedules(&other, &PageRequest::default()).await?.items,
        [],
        "listing"
    );
    ensure!(!world.store.delete_schedule(&other, schedule.id).await?, "deleting");
    let moved = Schedule {
        org: other.clone(),
        ..schedule.clone()
    };
    ensure_eq!(world.store.change_schedule(&moved).await?, None, "changing");
    let runs = world
        .store
        .schedule_runs(&other, schedule.id, &PageRequest::default())
        .await;
    ensure!(matches!(runs, Err(StoreError::Gone { .. })), "its runs: {runs:?}");
    let on_foreign = new_schedule(&other, Place::Session(session), 1)?;
    let refused = world.store.create_schedule(&on_foreign, 100).await;
    ensure!(
        matches!(refused, Err(StoreError::Gone { what: "session" })),
        "one on another org's session: {refused:?}"
    );
    ensure_eq!(again(world, &schedule).await?.org, org, "it is as it was");
    Ok(())
}
