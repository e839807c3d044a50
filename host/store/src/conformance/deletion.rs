//! A session whose deletion is decided, while its rows are still there: nobody can tell it from one that never was.

use super::{
    Broken, Factory, Outcome, World, completed, ensure, ensure_eq, new_session, new_turn, of_turn, remark,
    rewinds::to_before,
    schedules::{firing, new_schedule},
    spending::{session_cap, wish},
    taken,
    values::new_entry,
    waiting::waits,
    webhooks::{attempt, made},
};
use crate::{
    api::Store,
    housekeeping::Idle,
    lease::{Fence, HostId, Lease},
    record::{Addition, CancelAt, Owner, PageRequest, Seen, SessionChange, Turn, WhichSessions},
    schedules::{Deed, Place, Schedule},
    spending::{Holder, Notice, Part, Reservation},
    webhooks::{Delivery, DeliveryState, Webhook, Which},
};
use fumehood_core::{
    content::Content,
    digest::Digest,
    id::{CallId, DeliveryId, ScheduleId, SessionId, TurnId},
    name::{OrgName, SecretName},
    now,
    turn::TurnStatus,
};
use secrecy::SecretString;
use std::time::Duration;

pub(super) const READS_AS_NOT_THERE: &str =
    "a session whose deletion is decided is answered for as one that never was, before its rows are gone";
pub(super) const IS_ENDED: &str = "what is left of a decided deletion is deleted by who ends deletions";

const SOON: Duration = Duration::from_secs(3600);

/// A session with something of everything, and what is known of it.
#[derive(Clone)]
struct Known {
    org: OrgName,
    session: SessionId,
    turn: Turn,
    /// By which the turn was worked.
    fence: Fence,
    /// What of the turn is known.
    seen: Seen,
    call: CallId,
    schedule: Schedule,
    webhook: Webhook,
    delivery: Delivery,
}

fn failed(error: impl std::fmt::Display) -> Broken {
    Broken(error.to_string())
}

/// The session's turn waits for a decision, and is to be cancelled.
async fn full(world: &World, org: &OrgName) -> Result<Known, Broken> {
    let store = &world.store;
    let webhook = made(world, org, &["approval.requested"]).await?;
    let waiting = waits(world, org, now() + SOON).await?;
    let (session, turn) = (waiting.session.id, waiting.turn);
    let fence = taken(world, org, turn.id).await?;
    let owner = Owner::Session(org.clone(), session);
    store.kv_set(&owner, "key", b"value").await?;
    let name = SecretName::new("NAME").map_err(failed)?;
    store.secret_set(&owner, &name, &SecretString::from("value")).await?;
    store.ledger_open(&new_entry(org, Some(session))?).await?;
    let call = CallId::new();
    store
        .keep_recording(org, (session, turn.id), call, b"x".to_vec())
        .await?;
    let schedule = new_schedule(org, Place::Session(session), 3600)?;
    let schedule = store.create_schedule(&schedule, 100).await?;
    let delivery = super::webhooks::next(world, &webhook).await?;
    store.keep_cancel(org, turn.id, CancelAt::Boundary).await?;
    let last = store.turn_events(org, turn.id).await?.pop().and_then(|last| last.seq);
    let seq = last.ok_or_else(|| failed("the turn has no events"))?;
    Ok(Known {
        seen: Seen { turn: turn.id, seq },
        org: org.clone(),
        session,
        turn,
        fence,
        call,
        schedule,
        webhook,
        delivery,
    })
}

/// The same of a session that never was.
fn never(of: &Known) -> Known {
    let (session, turn) = (SessionId::new(), TurnId::new());
    let mut never = of.clone();
    never.session = session;
    never.turn.id = turn;
    never.turn.session = session;
    never.fence = Fence::new(turn, of.fence.epoch());
    never.seen.turn = turn;
    never.call = CallId::new();
    never.schedule.id = ScheduleId::new();
    never.schedule.plan.place = Place::Session(session);
    never.delivery.id = DeliveryId::new();
    never.delivery.session = session;
    never
}

/// Notes what an operation answers.
macro_rules! ask {
    ($into:ident, $($store:ident.$name:ident($($arg:expr),* $(,)?)),* $(,)?) => {
        $($into.push((stringify!($name), format!("{:?}", $store.$name($($arg),*).await)));)*
    };
}

/// What is answered about it.
async fn read(store: &dyn Store, of: &Known) -> Result<Vec<(&'static str, String)>, Broken> {
    let (org, session, turn, page) = (&of.org, of.session, of.turn.id, PageRequest::default());
    let owner = Owner::Session(org.clone(), session);
    let caps = [session_cap(Part::Tokens, 10)];
    let mut told = Vec::new();
    ask!(
        told,
        store.session(org, session),
        store.turn(org, turn),
        store.turns(org, session),
        store.next_turn(org, session),
        store.repeated_turn(org, session, "key", &Digest::of(b"")),
        store.events(org, session, 0, 10),
        store.last_seq(org, session),
        store.rewinds(org, session),
        store.turn_events(org, turn),
        store.standings(org, session, &caps),
        store.standings_for(org, &caps, wish(&of.turn, 1)),
        store.kv_get(&owner, "key"),
        store.kv_keys(&owner, "", &page),
        store.secret_names(&owner, &page),
        store.secrets_in_effect(org, Some(session)),
        store.ledger(org, session, &page),
        store.recording(org, turn, of.call),
        store.schedule(org, of.schedule.id),
        store.schedule_runs(org, of.schedule.id, &page),
    );
    Ok(told)
}

/// What is answered to who would change something of it.
async fn write(store: &dyn Store, of: &Known) -> Result<Vec<(&'static str, String)>, Broken> {
    let (org, session, turn) = (&of.org, of.session, of.turn.id);
    let owner = Owner::Session(org.clone(), session);
    let name = SecretName::new("NAME").map_err(failed)?;
    let change = SessionChange {
        title: Some(Some("another".into())),
        ..SessionChange::default()
    };
    let lease = Lease {
        host: HostId::new(),
        at: now() + SOON * 2,
        until: now() + SOON * 3,
    };
    let addition = Addition {
        fence: of.fence,
        input: vec![Content::text("more")],
        idempotency: None,
    };
    let notice = Notice {
        session,
        cap: session_cap(Part::Tokens, 10),
        percent: 80,
    };
    let for_session = Reservation {
        holder: Holder::Session(session),
        ..wish(&of.turn, 1)
    };
    let again = new_schedule(org, Place::Session(session), 3600)?;
    let fires = firing(&of.schedule, 3600, Deed::Turn(session, new_turn()))?;
    let settled = attempt(of.delivery.clone(), DeliveryState::Delivered);
    let mut told = Vec::new();
    ask!(
        told,
        store.update_session(org, session, &change, &[remark("changed")]),
        store.touch_session(org, session),
        store.accept_turn(org, session, &new_turn()),
        store.add_to_turn(org, session, &addition),
        store.keep_cancel(org, turn, CancelAt::Now),
        store.take_turn(org, turn, lease),
        store.rewind(org, session, &to_before(std::slice::from_ref(&of.turn))),
        store.append(org, session, &[remark("said")]),
        store.append_held(org, session, of.fence, &[remark("said")]),
        store.append_after(org, session, of.seen, &[remark("said")]),
        store.queue_job(org, session, of.fence, 100, &[remark("said")]),
        store.reserve(org, &[], wish(&of.turn, 1)),
        store.reserve(org, &[], for_session),
        store.tell_once(org, notice),
        store.kv_set(&owner, "key", b"other"),
        store.kv_delete(&owner, "key"),
        store.secret_set(&owner, &name, &SecretString::from("other")),
        store.secret_delete(&owner, &name),
        store.ledger_open(&new_entry(org, Some(session))?),
        store.keep_recording(org, (session, turn), of.call, b"y".to_vec()),
        store.create_schedule(&again, 100),
        store.change_schedule(&of.schedule),
        store.fire_schedule(&fires),
        store.aim_schedule(&of.schedule, now()),
        store.delete_schedule(org, of.schedule.id),
        store.settle_delivery(&settled),
        store.replay_deliveries(org, of.webhook.id, Some(of.delivery.id)),
        store.delete_session(org, session),
        store.delete_idle_session(org, session, Idle::Unused { since: now() + SOON }),
    );
    Ok(told)
}

/// Where something of these sessions is listed.
async fn listed(store: &dyn Store, of: &Known, queued: &Turn, idle: SessionId) -> Result<Vec<&'static str>, Broken> {
    const ALL: u32 = 1_000_000;
    let (org, page) = (&of.org, PageRequest::default());
    let is_of = |turn: &Turn| turn.id == of.turn.id || turn.id == queued.id;
    let sessions = store.sessions(org, WhichSessions::All, &page).await?.items;
    let since = now() + SOON;
    let unused = store.idle_sessions(org, Idle::Unused { since }, None, ALL).await?;
    let schedules = store.schedules(org, &page).await?.items;
    let states = [TurnStatus::AwaitingApproval, TurnStatus::Queued];
    let planned = store.schedules_planned(None, ALL).await?;
    let waiting = store.turns_waiting(None, ALL).await?;
    let cancelled = store.turns_to_cancel(None, ALL).await?;
    let told = store.webhooks_to_tell().await?;
    let deliveries = store.deliveries(org, of.webhook.id, Which::All, &page).await?.items;
    let next = store.next_delivery(of.webhook.id, now()).await?;
    let there = [
        ("sessions", sessions.iter().any(|session| session.id == of.session)),
        ("idle_sessions", unused.contains(&idle)),
        (
            "schedules",
            schedules.iter().any(|schedule| schedule.id == of.schedule.id),
        ),
        ("schedules_planned", planned.iter().any(|one| one.id == of.schedule.id)),
        ("turns_in", store.turns_in(&states).await?.iter().any(is_of)),
        ("turns_waiting", waiting.iter().any(|(turn, _)| is_of(turn))),
        ("turns_to_cancel", cancelled.iter().any(|(turn, _)| is_of(turn))),
        (
            "turns_to_take",
            store.turns_to_take(now(), None, ALL).await?.iter().any(is_of),
        ),
        (
            "webhooks_to_tell",
            told.iter().any(|webhook| webhook.id == of.webhook.id),
        ),
        (
            "deliveries",
            deliveries.iter().any(|delivery| delivery.id == of.delivery.id),
        ),
        ("next_delivery", next.is_some_and(|next| next.id == of.delivery.id)),
    ];
    let there = there.into_iter().filter(|(_, there)| *there);
    Ok(there.map(|(name, _)| name).collect())
}

pub(super) async fn reads_as_not_there(world: &World, factory: &dyn Factory) -> Outcome {
    let (store, org) = (&*world.store, world.org().await?);
    let known = full(world, &org).await?;
    let waits = world.session(&org).await?.id;
    let queued = world.turn(&org, waits).await?;
    let idle = world.session(&org).await?.id;
    let lists = listed(store, &known, &queued, idle).await?;
    ensure_eq!(lists.len(), 11, "where it is listed before");
    let none = never(&known);
    for ((name, there), (_, none)) in read(store, &known).await?.iter().zip(&read(store, &none).await?) {
        // Of standings, earlier requests and going back there is nothing to tell.
        let tells = !["repeated_turn", "standings", "standings_for", "rewinds"].contains(name);
        ensure!(!tells || there != none, "{name} tells nothing before: {there}");
    }
    let fourth = new_session(&org)?;
    let full = store.create_session_within(&fourth, 3, &[]).await;
    ensure!(full.is_err(), "it does not count before");

    for session in [known.session, waits, idle] {
        factory.decide_deletion(session).await;
    }
    ensure_eq!(
        listed(store, &known, &queued, idle).await?,
        [""; 0],
        "where it is listed"
    );
    let answers = [read(store, &known).await?, write(store, &known).await?].concat();
    let expected = [read(store, &none).await?, write(store, &none).await?].concat();
    for ((name, answer), (_, expected)) in answers.iter().zip(&expected) {
        ensure!(
            answer == expected,
            "{name} answers {answer}, and {expected} of one that never was"
        );
    }
    store.create_session_within(&fourth, 1, &[]).await?;
    Ok(())
}

pub(super) async fn is_ended(world: &World, factory: &dyn Factory) -> Outcome {
    let (store, org) = (&*world.store, world.org().await?);
    // What earlier promises left.
    store.end_deletions().await?;
    ensure_eq!(store.end_deletions().await?, 0, "where there is nothing");
    let known = full(world, &org).await?;
    store.append(&org, known.session, &vec![remark("x"); 250]).await?;
    let (left, kept) = (world.session(&org).await?, world.session(&org).await?);
    let turn = world.turn(&org, left.id).await?;
    store
        .append(&org, left.id, &[of_turn(turn.id, completed(turn.id).body)])
        .await?;
    for session in [known.session, left.id] {
        factory.decide_deletion(session).await;
    }
    ensure_eq!(store.end_deletions().await?, 2, "what was left");
    ensure_eq!(store.end_deletions().await?, 0, "what is left then");
    ensure!(store.session(&org, kept.id).await?.is_some(), "another is gone");
    // Its id is free, so its row is gone, and with it all that hangs on it.
    store.create_session(&left, &[remark("anew")]).await?;
    let journal = store.events(&org, left.id, 0, 10).await?;
    ensure_eq!(journal.len(), 1, "the events of a new one of the same id");
    ensure_eq!(store.turns(&org, left.id).await?, [], "its turns");
    Ok(())
}
