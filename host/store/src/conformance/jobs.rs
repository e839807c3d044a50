//! Calls that run on in the background: which there are, who has taken one, what is told of it.

use super::{
    Broken, Factory, Outcome, World, agent, completed, ensure, ensure_eq, of_turn, promises, races::at_once,
    rewinds::to_before, taken,
};
use crate::{
    api::StoreError,
    jobs::{Job, JobState, MOST_ATTEMPTS},
    record::{PageRequest, Session, Turn},
};
use fumehood_core::{
    call::{Arguments, CallStatus, ComponentRef, Metering, Output},
    digest::Digest,
    event::{EventBody, NewEvent, OutputChannel, Source},
    id::{CallId, JobId},
    name::{ComponentName, OrgName, ToolName},
    tool::Effect,
    turn::{Note, NoteKind},
};
use std::{collections::BTreeSet, sync::Arc};

promises! {
    "a job is there from its event on, in its org and session, and its place in the journal is known" => found,
    "a job is made while its org has fewer than it may, and of many at once no more" => bounded,
    "of many who take jobs each gets another, and no more of an org than may run" => taken_once,
    "what happens in a job is told by who took it, until its end, and that is told once" => ends_once,
    "a job that is to be stopped before it begins is ended by who finds it, and never taken" => stopped,
    "how far a job is and what it writes is kept with it, as much as may be" => says,
    "the end of a job is to be told until a step's note tells it, and again where the session goes back from that" => told,
    "jobs go with their session" => deleted,
}

pub(super) const REOPENED: &str =
    "of jobs that an earlier opening ran, those that may run again are taken once more, and the others are to end";

pub(super) struct Asked {
    pub(super) org: OrgName,
    pub(super) session: Session,
    pub(super) turn: Turn,
}

async fn asked(world: &World) -> Result<Asked, Broken> {
    asked_in(world, world.org().await?).await
}

/// A turn that may ask for jobs, in a session of its own.
pub(super) async fn asked_in(world: &World, org: OrgName) -> Result<Asked, Broken> {
    let session = world.session(&org).await?;
    let turn = world.turn(&org, session.id).await?;
    Ok(Asked { org, session, turn })
}

fn tool() -> Result<ToolName, Broken> {
    ToolName::new("build").map_err(|error| Broken(error.to_string()))
}

fn queued(asked: &Asked, job: JobId, call: CallId, effect: Effect) -> Result<NewEvent, Broken> {
    let name = ComponentName::new("builder").map_err(|error| Broken(error.to_string()))?;
    let digest = Digest::of(b"code");
    let body = EventBody::JobQueued {
        job,
        call,
        tool: tool()?,
        component: ComponentRef { name, digest },
        effect,
        fingerprint: Digest::of(b"call"),
        arguments: Arguments::new(),
        agent: agent("a")?,
        approved: false,
    };
    Ok(of_turn(asked.turn.id, body))
}

/// A job that waits for a place.
pub(super) async fn queue(world: &World, asked: &Asked, effect: Effect) -> Result<(JobId, CallId), Broken> {
    let (job, call) = (JobId::new(), CallId::new());
    let event = queued(asked, job, call, effect)?;
    world.store.append(&asked.org, asked.session.id, &[event]).await?;
    Ok((job, call))
}

fn in_job(body: EventBody) -> NewEvent {
    NewEvent {
        turn: None,
        source: Source::Host,
        body,
    }
}

fn end(job: &Job) -> NewEvent {
    let result = Ok(Output::default());
    in_job(EventBody::job_completed(
        job.id,
        job.call,
        job.tool.clone(),
        result,
        Metering::default(),
    ))
}

/// Ends a job that nobody runs.
pub(super) async fn end_unworked(world: &World, org: &OrgName, id: JobId) -> Result<(), Broken> {
    let job = world.store.job(org, id).await?;
    let job = job.ok_or_else(|| Broken("the job is not there".into()))?;
    let ended = world.store.end_job(id, &end(&job)).await?;
    ensure!(ended.is_some(), "it can't be ended");
    Ok(())
}

/// Takes jobs until this one is taken: others of the suite may have left some.
async fn take(world: &World, job: JobId) -> Result<Job, Broken> {
    loop {
        match world.store.take_job(u32::MAX).await? {
            Some(taken) if taken.id == job => return Ok(taken),
            Some(_) => {}
            None => return Err(Broken("the job was not to be had".into())),
        }
    }
}

async fn found(world: &World) -> Outcome {
    let (store, asked) = (&world.store, asked(world).await?);
    let (id, call) = queue(world, &asked, Effect::Pure).await?;
    let job = store
        .job(&asked.org, id)
        .await?
        .ok_or_else(|| Broken("the job is not there".into()))?;
    ensure_eq!(
        (job.session, job.turn, job.call),
        (asked.session.id, asked.turn.id, call),
        "whose it is"
    );
    ensure_eq!(
        (job.state, job.attempts, job.stopping),
        (JobState::Queued, 0, false),
        "where it is"
    );
    let events = store
        .events(&asked.org, asked.session.id, job.queued_seq - 1, 1)
        .await?;
    let tells = matches!(&events[0].body, EventBody::JobQueued { job, .. } if *job == id);
    ensure!(tells, "its place has {:?}", events[0].body);
    let other = world.org().await?;
    ensure_eq!(store.job(&other, id).await?, None, "in another org");
    ensure_eq!(store.stop_job(&other, id).await?, None, "to be stopped by another org");
    let page = store
        .jobs(&asked.org, asked.session.id, &PageRequest { after: None, limit: 10 })
        .await?;
    ensure_eq!(page.items, [job], "the jobs of its session");
    Ok(())
}

async fn bounded(world: &World) -> Outcome {
    let asked = Arc::new(asked(world).await?);
    let fence = taken(world, &asked.org, asked.turn.id).await?;
    let made = at_once(16, |_| {
        let (store, asked) = (Arc::clone(&world.store), Arc::clone(&asked));
        async move {
            let event = queued(&asked, JobId::new(), CallId::new(), Effect::Pure)?;
            Ok::<bool, Broken>(
                store
                    .queue_job(&asked.org, asked.session.id, fence, 3, &[event])
                    .await?
                    .is_some(),
            )
        }
    })
    .await?;
    let made = made.into_iter().collect::<Result<Vec<bool>, Broken>>()?;
    ensure_eq!(made.iter().filter(|made| **made).count(), 3, "how many were made");
    Ok(())
}

async fn taken_once(world: &World) -> Outcome {
    let asked = asked(world).await?;
    let mut ids = BTreeSet::new();
    for _ in 0..6 {
        ids.insert(queue(world, &asked, Effect::AtMostOnce).await?.0);
    }
    let taken = at_once(12, |_| {
        let store = Arc::clone(&world.store);
        async move { store.take_job(4).await }
    })
    .await?;
    let mut own = Vec::new();
    for job in taken {
        own.extend(job?.filter(|job| ids.contains(&job.id)));
    }
    let distinct: BTreeSet<JobId> = own.iter().map(|job| job.id).collect();
    ensure_eq!(
        (own.len(), distinct.len()),
        (4, 4),
        "how many of the org were taken, and how many others"
    );
    ensure!(
        own.iter()
            .all(|job| job.attempts == 1 && job.state == JobState::Running),
        "taken as {own:?}"
    );
    world.store.append_to_job(own[0].id, 1, &[end(&own[0])]).await?;
    while let Some(next) = world.store.take_job(4).await? {
        if ids.contains(&next.id) {
            return Ok(());
        }
    }
    Err(Broken("an end makes no room".into()))
}

async fn ends_once(world: &World) -> Outcome {
    let (store, asked) = (&world.store, asked(world).await?);
    let (id, _) = queue(world, &asked, Effect::AtMostOnce).await?;
    let job = take(world, id).await?;
    ensure_eq!(
        store.end_job(id, &end(&job)).await?,
        None,
        "an end by who has not taken it"
    );
    let wrong = store.append_to_job(id, 2, &[end(&job)]).await;
    ensure!(
        matches!(wrong, Err(StoreError::Lost)),
        "an end for another attempt: {wrong:?}"
    );
    let ended = store.append_to_job(id, 1, &[end(&job)]).await?;
    let again = store.append_to_job(id, 1, &[end(&job)]).await;
    ensure!(matches!(again, Err(StoreError::Lost)), "a second end: {again:?}");
    let straight = store.append(&asked.org, asked.session.id, &[end(&job)]).await;
    ensure!(
        matches!(straight, Err(StoreError::Invalid { .. })),
        "a second end past the job: {straight:?}"
    );
    let now_is = store.job(&asked.org, id).await?.map(|job| job.state);
    let told = JobState::Ended {
        status: CallStatus::Ok,
        at: ended[0].time,
        seq: ended[0].seq.unwrap_or_default(),
    };
    ensure_eq!(now_is, Some(told), "where it is");
    let stopped = store.stop_job(&asked.org, id).await?;
    ensure!(
        stopped.is_some_and(|job| !job.stopping),
        "what has its end is to be stopped"
    );
    Ok(())
}

async fn stopped(world: &World) -> Outcome {
    let (store, asked) = (&world.store, asked(world).await?);
    let (id, _) = queue(world, &asked, Effect::Pure).await?;
    let job = store
        .stop_job(&asked.org, id)
        .await?
        .ok_or_else(|| Broken("it is not there".into()))?;
    ensure!(job.stopping, "it is not to be stopped");
    ensure!(take(world, id).await.is_err(), "it was taken");
    let over = store.jobs_to_end(10_000).await?;
    ensure!(
        over.iter().any(|over| over.id == id),
        "nobody is told that it is to end"
    );
    ensure!(store.end_job(id, &end(&job)).await?.is_some(), "it was not ended");
    ensure_eq!(store.end_job(id, &end(&job)).await?, None, "a second end");
    Ok(())
}

async fn says(world: &World) -> Outcome {
    let (store, asked) = (&world.store, asked(world).await?);
    let (id, call) = queue(world, &asked, Effect::Pure).await?;
    let job = take(world, id).await?;
    let wrote = |chunk: String| {
        in_job(EventBody::ToolOutput {
            call,
            channel: OutputChannel::Stdout,
            chunk,
            truncated: false,
        })
    };
    let half = in_job(EventBody::ToolProgress {
        call,
        message: "half".into(),
        fraction: Some(0.5),
    });
    store.append_to_job(id, 1, &[half, wrote("one\0\n".into())]).await?;
    store
        .append_to_job(id, 1, &[wrote("é".repeat(70_000)), wrote("more".into())])
        .await?;
    let log = store.job_log(&asked.org, id).await?.unwrap_or_default();
    ensure!(
        log.starts_with("one\u{fffd}\né") && log.chars().count() as u64 == crate::jobs::LOG_LENGTH,
        "the log has {} bytes",
        log.len()
    );
    let progress = store.job(&asked.org, id).await?.and_then(|job| job.progress);
    ensure!(
        progress.is_some_and(|progress| progress.message == "half" && progress.fraction == Some(0.5)),
        "how far it is"
    );
    store.append_to_job(id, 1, &[end(&job)]).await?;
    Ok(())
}

async fn untold(world: &World, asked: &Asked) -> Result<Vec<JobId>, Broken> {
    let untold = world.store.jobs_untold(&asked.org, asked.session.id, 10).await?;
    Ok(untold.into_iter().map(|job| job.id).collect())
}

async fn told(world: &World) -> Outcome {
    let (store, asked) = (&world.store, asked(world).await?);
    let (id, _) = queue(world, &asked, Effect::Pure).await?;
    ensure_eq!(untold(world, &asked).await?, [], "before its end");
    let job = take(world, id).await?;
    store.append_to_job(id, 1, &[end(&job)]).await?;
    ensure_eq!(untold(world, &asked).await?, [id], "after its end");
    store
        .append(&asked.org, asked.session.id, &[completed(asked.turn.id)])
        .await?;
    let next = world.turn(&asked.org, asked.session.id).await?;
    let note = Note {
        kind: NoteKind::JobEnded,
        text: "it has ended".into(),
        job: Some(id),
    };
    let step = of_turn(
        next.id,
        EventBody::StepStarted {
            step: 1,
            notes: vec![note],
            worked_ms: None,
        },
    );
    store
        .append(&asked.org, asked.session.id, &[step, completed(next.id)])
        .await?;
    ensure_eq!(untold(world, &asked).await?, [], "once it was told");
    store
        .rewind(&asked.org, asked.session.id, &to_before(std::slice::from_ref(&next)))
        .await?;
    ensure_eq!(untold(world, &asked).await?, [id], "where that was undone");
    let first = store
        .turn(&asked.org, asked.turn.id)
        .await?
        .ok_or_else(|| Broken("no turn".into()))?;
    store.rewind(&asked.org, asked.session.id, &to_before(&[first])).await?;
    ensure_eq!(
        untold(world, &asked).await?,
        [],
        "where it was undone that it was asked for"
    );
    Ok(())
}

async fn deleted(world: &World) -> Outcome {
    let (store, asked) = (&world.store, asked(world).await?);
    let (id, _) = queue(world, &asked, Effect::Pure).await?;
    let job = take(world, id).await?;
    store.delete_session(&asked.org, asked.session.id).await?;
    ensure_eq!(store.job(&asked.org, id).await?, None, "the job");
    let late = store.append_to_job(id, 1, &[end(&job)]).await;
    ensure!(
        matches!(late, Err(StoreError::Lost | StoreError::Gone { .. })),
        "an end of what is gone: {late:?}"
    );
    Ok(())
}

pub(super) const OF_A_DELETED: &str = "of the jobs of a session whose deletion is decided nothing is told or taken";

pub(super) async fn of_a_deleted(world: &World, factory: &dyn Factory) -> Outcome {
    let (store, asked) = (&world.store, asked(world).await?);
    let (org, session, page) = (&asked.org, asked.session.id, PageRequest::default());
    let (ended, _) = queue(world, &asked, Effect::Pure).await?;
    let job = take(world, ended).await?;
    store.append_to_job(ended, 1, &[end(&job)]).await?;
    let (waits, _) = queue(world, &asked, Effect::Pure).await?;
    ensure_eq!(store.jobs(org, session, &page).await?.items.len(), 2, "the jobs before");
    ensure_eq!(untold(world, &asked).await?, [ended], "what is to be told before");
    factory.decide_deletion(session).await;
    ensure_eq!(store.jobs(org, session, &page).await?.items, [], "the jobs");
    ensure_eq!(untold(world, &asked).await?, [], "what is to be told");
    for id in [ended, waits] {
        ensure_eq!(store.job(org, id).await?, None, "the job");
        ensure_eq!(store.job_log(org, id).await?, None, "what it wrote");
        ensure_eq!(store.stop_job(org, id).await?, None, "who stops it");
    }
    while let Some(taken) = store.take_job(u32::MAX).await? {
        ensure!(taken.id != waits, "it is taken");
    }
    Ok(())
}

pub(super) async fn reopened(factory: &dyn Factory) -> Outcome {
    let world = World {
        store: factory.open().await,
    };
    let asked = asked(&world).await?;
    let (again, _) = queue(&world, &asked, Effect::Idempotent).await?;
    let (once, _) = queue(&world, &asked, Effect::AtMostOnce).await?;
    let (waits, _) = queue(&world, &asked, Effect::AtMostOnce).await?;
    for id in [again, once] {
        take(&world, id).await?;
    }
    drop(world);
    for attempt in 2..=MOST_ATTEMPTS {
        let world = World {
            store: factory.open().await,
        };
        let over = world.store.jobs_to_end(10_000).await?;
        ensure!(
            over.iter().any(|job| job.id == once),
            "one that may run once is not to end"
        );
        ensure!(
            !over.iter().any(|job| job.id == again),
            "one that may run again is to end"
        );
        let job = take(&world, again).await?;
        ensure_eq!(job.attempts, attempt, "how often it began");
    }
    let world = World {
        store: factory.open().await,
    };
    let over = world.store.jobs_to_end(10_000).await?;
    let job = over.iter().find(|job| job.id == again);
    let job = job.ok_or_else(|| Broken("one that began as often as it may is not to end".into()))?;
    ensure!(
        world.store.end_job(again, &end(job)).await?.is_some(),
        "it was not ended"
    );
    ensure!(take(&world, again).await.is_err(), "what has its end was taken");
    let waiting = world.store.job(&asked.org, waits).await?;
    ensure!(waiting.is_some(), "what waited is gone");
    Ok(())
}
