//! What is too old: found, deleted, and held by what still needs it.

use super::{
    Broken, Outcome, World,
    archive::archive,
    completed, ensure, ensure_eq, jobs, promises, remark,
    schedules::{firing, fresh, in_fresh, new_schedule},
    spending::{self, all_usage, at_work, say, step},
    values::new_entry,
    webhooks::{attempt, made, next},
};
use crate::{
    housekeeping::{Forgettable, Idle},
    record::{Owner, PageRequest},
    schedules::{Place, State},
    webhooks::{DeliveryState, WebhookState, Which},
};
use fumehood_core::{
    Time,
    id::{CallId, SessionId},
    name::{OrgName, SecretName},
    now,
    tool::Effect,
};
use secrecy::SecretString;
use std::{sync::Arc, time::Duration};

promises! {
    "a session in which nothing happened is found by its age and deleted" => by_age,
    "a session that is used is not too old, though its journal tells nothing of it" => used,
    "a session that is held is not deleted for its age" => held,
    "an archived session is too old by when it was archived" => archived,
    "a session that is used again in the moment of its deletion is there or gone, not both" => race,
    "what is forgotten row by row is what is older, of one org" => rows,
    "what models took is forgotten by its day" => usage,
    "what calls were answered is forgotten by when it was kept" => recordings,
    "of a schedule's times the latest is remembered" => latest_run,
    "what webhooks could not be told is forgotten by itself" => deliveries,
    "the time by which things are too old is remembered" => clock,
}

/// After everything that happened.
fn later() -> Time {
    now() + Duration::from_secs(60)
}

fn unused() -> Idle {
    Idle::Unused { since: later() }
}

async fn found(world: &World, org: &OrgName, idle: Idle) -> Result<Vec<SessionId>, Broken> {
    Ok(world.store.idle_sessions(org, idle, None, 100).await?)
}

async fn by_age(world: &World) -> Outcome {
    let store = &world.store;
    let (org, other) = (world.org().await?, world.org().await?);
    let before = Idle::Unused { since: now() };
    let (first, second) = (world.session(&org).await?.id, world.session(&org).await?.id);
    world.session(&other).await?;
    ensure_eq!(found(world, &org, before).await?, [], "what is newer");
    ensure!(
        !store.delete_idle_session(&org, first, before).await?,
        "what is newer was deleted"
    );
    ensure_eq!(found(world, &org, unused()).await?, [first, second], "what is older");
    let rest = store.idle_sessions(&org, unused(), Some(first), 1).await?;
    ensure_eq!(rest, [second], "what comes after");
    store.append(&org, first, &[remark("x"), remark("y")]).await?;
    store
        .kv_set(&Owner::Session(org.clone(), first), "key", b"value")
        .await?;
    store.ledger_open(&new_entry(&org, Some(first))?).await?;
    ensure!(
        !store.delete_idle_session(&other, first, unused()).await?,
        "another org's session was deleted"
    );
    ensure!(
        store.delete_idle_session(&org, first, unused()).await?,
        "it was not deleted"
    );
    ensure!(
        !store.delete_idle_session(&org, first, unused()).await?,
        "it was deleted twice"
    );
    ensure_eq!(store.session(&org, first).await?, None, "the session");
    ensure_eq!(store.events(&org, first, 0, 10).await?, [], "its journal");
    let kept = store.kv_get(&Owner::Session(org.clone(), first), "key").await?;
    ensure_eq!(kept, None, "its key-value");
    let ledger = store.ledger(&org, first, &PageRequest::default()).await?.items;
    ensure_eq!(ledger, [], "its ledger");
    ensure!(store.session(&org, second).await?.is_some(), "the other one is gone");
    Ok(())
}

async fn used(world: &World) -> Outcome {
    let store = &world.store;
    let (org, other) = (world.org().await?, world.org().await?);
    let owner = |session| Owner::Session(org.clone(), session);
    let name = SecretName::new("NAME").map_err(|error| Broken(error.to_string()))?;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(world.session(&org).await?.id);
    }
    store
        .secret_set(&owner(sessions[3]), &name, &SecretString::from("value"))
        .await?;
    let before = Idle::Unused { since: now() };
    ensure_eq!(found(world, &org, before).await?, sessions, "what is older");
    let [touched, valued, sealed, opened, left] = sessions[..] else {
        return Err(Broken("not as many sessions as were made".into()));
    };
    ensure!(store.touch_session(&org, touched).await?, "it is not there to be used");
    store.kv_set(&owner(valued), "key", b"value").await?;
    store
        .secret_set(&owner(sealed), &name, &SecretString::from("value"))
        .await?;
    ensure!(
        store.secret_delete(&owner(opened), &name).await?,
        "there was no secret to delete"
    );
    ensure_eq!(found(world, &org, before).await?, [left], "what is still older");
    ensure!(
        !store.delete_idle_session(&org, touched, before).await?,
        "one that was used was deleted"
    );
    for (org, session) in [(&other, touched), (&org, SessionId::new())] {
        ensure!(
            !store.touch_session(org, session).await?,
            "one that is not there was used"
        );
    }
    Ok(())
}

async fn held(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let by_turn = world.session(&org).await?.id;
    let turn = world.turn(&org, by_turn).await?.id;
    let asked = jobs::asked_in(world, org.clone()).await?;
    let by_job = asked.session.id;
    let (job, _) = jobs::queue(world, &asked, Effect::Pure).await?;
    store.append(&org, by_job, &[completed(asked.turn.id)]).await?;
    let by_schedule = world.session(&org).await?.id;
    let schedule = store
        .create_schedule(&new_schedule(&org, Place::Session(by_schedule), 3600)?, 100)
        .await?;
    let webhook = made(world, &org, &["turn.completed"]).await?;
    let by_webhook = world.session(&org).await?.id;
    let told = world.turn(&org, by_webhook).await?.id;
    store.append(&org, by_webhook, &[completed(told)]).await?;
    ensure_eq!(found(world, &org, unused()).await?, [], "what is held");
    for session in [by_turn, by_job, by_schedule, by_webhook] {
        ensure!(
            !store.delete_idle_session(&org, session, unused()).await?,
            "one that is held was deleted"
        );
    }
    let delivery = next(world, &webhook).await?;
    store
        .settle_delivery(&attempt(delivery, DeliveryState::Delivered))
        .await?;
    let mut ended = schedule;
    ended.state = State::Ended;
    store.change_schedule(&ended).await?;
    let mut paused = store
        .webhook(&org, webhook.id)
        .await?
        .ok_or_else(|| Broken("no webhook".into()))?;
    paused.state = WebhookState::Paused;
    store.append(&org, by_turn, &[completed(turn)]).await?;
    jobs::end_unworked(world, &org, job).await?;
    ensure_eq!(
        found(world, &org, unused()).await?,
        [by_job, by_schedule, by_webhook],
        "one that is to be told is held"
    );
    store.change_webhook(&paused).await?;
    ensure_eq!(
        found(world, &org, unused()).await?,
        [by_turn, by_job, by_schedule, by_webhook],
        "what nothing holds any more"
    );
    ensure!(
        store.delete_idle_session(&org, by_schedule, unused()).await?,
        "one whose schedule has ended is not deleted"
    );
    ensure_eq!(store.schedule(&org, ended.id).await?, None, "a schedule that has ended");
    Ok(())
}

async fn archived(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    store
        .create_schedule(&new_schedule(&org, Place::Session(session), 3600)?, 100)
        .await?;
    let before = Idle::Archived { since: now() };
    let after = Idle::Archived { since: later() };
    ensure_eq!(found(world, &org, after).await?, [], "one in use");
    store.update_session(&org, session, &archive(true), &[]).await?;
    ensure_eq!(
        found(world, &org, unused()).await?,
        [],
        "one that is archived is not unused"
    );
    ensure_eq!(found(world, &org, before).await?, [], "one archived since");
    ensure_eq!(found(world, &org, after).await?, [session], "one archived before");
    ensure!(
        store.delete_idle_session(&org, session, after).await?,
        "it is not deleted"
    );
    Ok(())
}

async fn race(world: &World) -> Outcome {
    let org = world.org().await?;
    for _ in 0..20 {
        let session = world.session(&org).await?.id;
        let (first, second) = (Arc::clone(&world.store), Arc::clone(&world.store));
        let (of_first, of_second) = (org.clone(), org.clone());
        let idle = unused();
        let deleting = tokio::spawn(async move { first.delete_idle_session(&of_first, session, idle).await });
        let working = tokio::spawn(async move {
            second
                .accept_turn(&of_second, session, &super::new_turn())
                .await
                .map(|accepted| accepted.is_some())
        });
        let (deleted, worked) = (deleting.await, working.await);
        let (Ok(Ok(deleted)), Ok(Ok(worked))) = (&deleted, &worked) else {
            return Err(Broken(format!("{deleted:?}, {worked:?}")));
        };
        ensure!(deleted != worked, "deleted: {deleted}, worked: {worked}");
        let there = world.store.session(&org, session).await?.is_some();
        ensure_eq!(there, *worked, "the session");
    }
    Ok(())
}

async fn rows(world: &World) -> Outcome {
    let store = &world.store;
    let (org, other) = (world.org().await?, world.org().await?);
    let (session, foreign) = (world.session(&org).await?.id, world.session(&other).await?.id);
    for _ in 0..5 {
        store.ledger_open(&new_entry(&org, Some(session))?).await?;
    }
    store.ledger_open(&new_entry(&other, Some(foreign))?).await?;
    let before = now() - Duration::from_secs(60);
    ensure_eq!(
        store.forget(&org, Forgettable::Ledger, before, 100).await?,
        0,
        "what is newer"
    );
    let counts = [
        store.forget(&org, Forgettable::Ledger, later(), 3).await?,
        store.forget(&org, Forgettable::Ledger, later(), 3).await?,
        store.forget(&org, Forgettable::Ledger, later(), 3).await?,
    ];
    ensure_eq!(counts, [3, 2, 0], "what is forgotten at a time");
    let kept = store.ledger(&other, foreign, &PageRequest::default()).await?;
    ensure_eq!(kept.items.len(), 1, "the other org's");
    ensure_eq!(
        store.forget(&org, Forgettable::Usage, later(), 3).await?,
        0,
        "where there is nothing"
    );
    Ok(())
}

async fn usage(world: &World) -> Outcome {
    let store = &world.store;
    let (org, other) = (world.org().await?, world.org().await?);
    for org in [&org, &other] {
        let turn = at_work(world, org).await?;
        say(world, &turn, step(Some(spending::usage(5, 2)), Some(3))).await?;
    }
    // The suite may run over midnight: a row is of today or of yesterday.
    let days = |days: u64| now() + Duration::from_secs(days * 24 * 60 * 60);
    let forgotten = store.forget(
        &org,
        Forgettable::Usage,
        now() - Duration::from_secs(2 * 24 * 60 * 60),
        9,
    );
    ensure_eq!(forgotten.await?, 0, "what is newer");
    ensure_eq!(
        store.forget(&org, Forgettable::Usage, days(1), 9).await?,
        1,
        "what is older"
    );
    ensure_eq!(all_usage(&**store, &org).await?, [], "what is left of it");
    ensure_eq!(all_usage(&**store, &other).await?.len(), 1, "the other org's");
    Ok(())
}

async fn recordings(world: &World) -> Outcome {
    let store = &world.store;
    let (org, other) = (world.org().await?, world.org().await?);
    let mut kept = Vec::new();
    for org in [&org, &other] {
        let session = world.session(org).await?.id;
        let turn = world.turn(org, session).await?.id;
        let call = CallId::new();
        store.keep_recording(org, (session, turn), call, b"x".to_vec()).await?;
        kept.push((turn, call));
    }
    let earlier = now() - Duration::from_secs(60);
    ensure_eq!(
        store.forget(&org, Forgettable::Recordings, earlier, 9).await?,
        0,
        "what is newer"
    );
    ensure_eq!(
        store.forget(&org, Forgettable::Recordings, later(), 9).await?,
        1,
        "what is older"
    );
    let there = [
        store.recording(&org, kept[0].0, kept[0].1).await?.is_some(),
        store.recording(&other, kept[1].0, kept[1].1).await?.is_some(),
    ];
    ensure_eq!(there, [false, true], "what is left of it, and the other org's");
    Ok(())
}

async fn latest_run(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let mut schedule = store.create_schedule(&new_schedule(&org, fresh()?, 3600)?, 100).await?;
    for hour in 1..=3 {
        let (_, deed) = in_fresh(&org)?;
        store.fire_schedule(&firing(&schedule, hour * 3600, deed)?).await?;
        schedule = store
            .schedule(&org, schedule.id)
            .await?
            .ok_or_else(|| Broken("the schedule is gone".into()))?;
    }
    ensure_eq!(
        store.forget(&org, Forgettable::ScheduleRuns, later(), 100).await?,
        2,
        "what is forgotten"
    );
    let left = store.schedule_runs(&org, schedule.id, &PageRequest::default()).await?;
    let left: Vec<_> = left.items.iter().map(|run| run.fire_at.timestamp()).collect();
    ensure_eq!(left, [3 * 3600], "what is left");
    Ok(())
}

async fn deliveries(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let webhook = made(world, &org, &["turn.queued"]).await?;
    for state in [DeliveryState::Delivered, DeliveryState::Dead] {
        let session = world.session(&org).await?.id;
        world.turn(&org, session).await?;
        let delivery = next(world, &webhook).await?;
        store.settle_delivery(&attempt(delivery, state)).await?;
    }
    let session = world.session(&org).await?.id;
    world.turn(&org, session).await?;
    let states = |page: crate::record::Page<crate::webhooks::Delivery>| {
        let items = page.items.into_iter();
        items
            .map(|delivery| matches!(delivery.state, DeliveryState::Pending(_)))
            .collect::<Vec<_>>()
    };
    ensure_eq!(
        store.forget(&org, Forgettable::Deliveries, later(), 9).await?,
        1,
        "what arrived"
    );
    let all = store
        .deliveries(&org, webhook.id, Which::All, &PageRequest::default())
        .await?;
    ensure_eq!(states(all), [true, false], "what is left then");
    ensure_eq!(
        store.forget(&org, Forgettable::DeadDeliveries, later(), 9).await?,
        1,
        "what is dead"
    );
    let all = store
        .deliveries(&org, webhook.id, Which::All, &PageRequest::default())
        .await?;
    ensure_eq!(states(all), [true], "what waits is not forgotten");
    Ok(())
}

async fn clock(world: &World) -> Outcome {
    let store = &world.store;
    ensure_eq!(
        store.housekeeping_clock().await?,
        None,
        "the time before the first round"
    );
    // Forward and back: which of them counts is not the store's to say.
    for seconds in [1_700_000_000, 1_600_000_000] {
        let time = Time::from_timestamp(seconds, 5).ok_or_else(|| Broken("no such time".into()))?;
        store.set_housekeeping_clock(time).await?;
        ensure_eq!(store.housekeeping_clock().await?, Some(time), "the time");
    }
    Ok(())
}
