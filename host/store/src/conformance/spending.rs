//! What is spent is counted once, and the last unit of a budget goes to one.

use super::{Broken, Outcome, World, completed, ensure, ensure_eq, of_turn, promises, races::at_once};
use crate::{
    api::{Store, StoreError},
    record::{PageRequest, Turn},
    spending::{Account, Amounts, Cap, Days, Holder, Notice, Part, Reservation, Reserved, Standing, UsageOfDay},
};
use fumehood_core::{
    Time,
    call::Arguments,
    event::{EventBody, NewEvent, Source},
    id::{CallId, SessionId, TurnId},
    message::{GivenArguments, RequestedCall},
    money::Money,
    name::{ModelName, OrgName},
    now,
    spending::{Day, Window},
    turn::{Budget, StepStop, TurnError, TurnErrorCode, Usage},
};
use std::{sync::Arc, time::Duration};

promises! {
    "what model calls took is counted by day, agent and model, and what was not measured is absent" => counted,
    "usage is listed by page, the newest day first, and that of another org is not" => listed,
    "what was spent is told with what is held by others" => standing,
    "of many who want the last of a budget at once one gets it" => last_unit,
    "what is held is let go with the event that tells what was taken, with the turn's end, or when it lapses" => let_go,
    "a session may hold something, and lets it go with the end of a compaction without a turn, or its own" => sessions_hold,
    "a budget of a session counts its own spending only, and that of an org all of it since its first day" => accounts,
    "a budget is told of once for each share, window and limit" => told,
    "steps, calls of tools and the time of work are counted with the events that tell them, each once" => work_counted,
    "of what a turn holds there is something of each part, of what a summary does only of tokens and money" => each_part_held,
    "counts beyond all reason do not overflow" => enormous,
}

fn model(name: &str) -> Result<ModelName, Broken> {
    ModelName::new(name).map_err(|error| Broken(error.to_string()))
}

pub(super) fn usage(input: u64, output: u64) -> Usage {
    Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
        ..Usage::default()
    }
}

pub(super) fn step(usage: Option<Usage>, cost: Option<u64>) -> EventBody {
    EventBody::StepCompleted {
        step: 1,
        stop_reason: StepStop::Stop,
        usage,
        model: None,
        cost: cost.map(Money::from_millionths),
        unmeasured: usage.is_none(),
        dropped_calls: Vec::new(),
        worked_ms: None,
    }
}

pub(super) fn started() -> Result<EventBody, Broken> {
    Ok(EventBody::TurnStarted {
        agent: super::agent("helper")?,
        model: model("main")?,
        tools: Vec::new(),
        components: std::collections::BTreeMap::new(),
        budget: Budget::default(),
        files: None,
    })
}

/// A turn at work in a session of its own.
pub(super) async fn at_work(world: &World, org: &OrgName) -> Result<Turn, Broken> {
    let session = world.session(org).await?.id;
    let turn = world.turn(org, session).await?;
    say(world, &turn, started()?).await?;
    Ok(turn)
}

pub(super) async fn say(world: &World, turn: &Turn, body: EventBody) -> Outcome {
    world
        .store
        .append(&turn.org, turn.session, &[of_turn(turn.id, body)])
        .await?;
    Ok(())
}

fn today() -> Day {
    Day::of(now())
}

/// All days around now: the suite may run over midnight.
pub(super) fn days() -> Days {
    Days {
        from: today().minus(2),
        to: today(),
    }
}

pub(super) async fn all_usage(store: &dyn Store, org: &OrgName) -> Result<Vec<UsageOfDay>, Broken> {
    Ok(store.usage(org, days(), &PageRequest::default()).await?.items)
}

async fn counted(world: &World) -> Outcome {
    let org = world.org().await?;
    let turn = at_work(world, &org).await?;
    let cached = Usage {
        cached_input_tokens: Some(4),
        cache_write_tokens: Some(3),
        ..usage(10, 2)
    };
    say(world, &turn, step(Some(cached), Some(7))).await?;
    say(world, &turn, step(Some(usage(1, 1)), None)).await?;
    say(world, &turn, step(None, None)).await?;
    let error = TurnError {
        code: TurnErrorCode::ModelUnavailable,
        message: "no".into(),
    };
    let failed = EventBody::StepFailed {
        step: 1,
        error: Some(error),
        usage: Some(usage(5, 0)),
        model: Some(model("other")?),
        cost: None,
        unmeasured: false,
        worked_ms: None,
    };
    say(world, &turn, failed).await?;
    say(world, &turn, completed(turn.id).body).await?;
    let found = all_usage(&*world.store, &org).await?;
    ensure_eq!(found.len(), 2, "the rows");
    let main = &found[0];
    ensure_eq!(
        main.agent.as_ref().map(ToString::to_string),
        Some("helper".into()),
        "the agent"
    );
    ensure_eq!(
        main.model.as_ref().map(ToString::to_string),
        Some("main".into()),
        "the model"
    );
    let of_main = Usage {
        cached_input_tokens: Some(4),
        cache_write_tokens: Some(3),
        ..usage(11, 3)
    };
    ensure_eq!(main.usage, of_main, "the tokens");
    ensure_eq!((main.calls, main.unmeasured_calls), (3, 1), "the calls");
    ensure_eq!(main.cost, Some(Money::from_millionths(7)), "the cost");
    let other = &found[1];
    ensure_eq!((other.calls, other.cost), (1, None), "the other model's calls and cost");
    Ok(())
}

async fn listed(world: &World) -> Outcome {
    let org = world.org().await?;
    let turn = at_work(world, &org).await?;
    for name in ["a", "b", "c"] {
        let mut body = step(Some(usage(1, 1)), None);
        if let EventBody::StepCompleted { model: of, .. } = &mut body {
            *of = Some(model(name)?);
        }
        say(world, &turn, body).await?;
    }
    let mut page = PageRequest { after: None, limit: 1 };
    let mut found = Vec::new();
    loop {
        let next = world.store.usage(&org, days(), &page).await?;
        found.extend(next.items);
        match next.next {
            Some(after) => page.after = Some(after),
            None => break,
        }
    }
    let names: Vec<_> = found
        .iter()
        .filter_map(|row| row.model.as_ref())
        .map(ToString::to_string)
        .collect();
    ensure_eq!(names, ["a", "b", "c"], "the models, page by page");
    let before = Days {
        from: today().minus(9),
        to: today().minus(3),
    };
    let page = PageRequest::default();
    ensure!(
        world.store.usage(&org, before, &page).await?.items.is_empty(),
        "usage of days without any"
    );
    let other = world.org().await?;
    ensure!(
        all_usage(&*world.store, &other).await?.is_empty(),
        "usage of another org"
    );
    Ok(())
}

pub(super) fn org_cap(limit: u64) -> Cap {
    Cap {
        account: Account::Org {
            since: Window::Month.first_day(now()).minus(1),
        },
        part: Part::Tokens,
        limit,
    }
}

pub(super) fn session_cap(part: Part, limit: u64) -> Cap {
    Cap {
        account: Account::Session,
        part,
        limit,
    }
}

fn in_an_hour() -> Time {
    now() + Duration::from_secs(3600)
}

pub(super) fn wish(turn: &Turn, tokens: u64) -> Reservation {
    let (session, turn) = (turn.session, turn.id);
    Reservation {
        holder: Holder::Turn { session, turn },
        amounts: Amounts {
            tokens,
            cost: Money::from_millionths(tokens),
            ..Amounts::default()
        },
        until: in_an_hour(),
    }
}

async fn standing(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (a, b) = (at_work(world, &org).await?, at_work(world, &org).await?);
    say(world, &a, step(Some(usage(3, 1)), None)).await?;
    let caps = [org_cap(100)];
    let granted = store.reserve(&org, &caps, wish(&a, 10)).await?;
    ensure_eq!(
        granted,
        Reserved::Granted(vec![Standing { used: 4, held: 0 }]),
        "the first"
    );
    let granted = store.reserve(&org, &caps, wish(&b, 20)).await?;
    ensure_eq!(
        granted,
        Reserved::Granted(vec![Standing { used: 4, held: 10 }]),
        "the second"
    );
    // Another wish of the same turn takes the place of its first.
    let again = store.reserve(&org, &caps, wish(&a, 1)).await?;
    ensure_eq!(
        again,
        Reserved::Granted(vec![Standing { used: 4, held: 20 }]),
        "the first again"
    );
    let told = store.standings(&org, a.session, &caps).await?;
    ensure_eq!(told, [Standing { used: 4, held: 21 }], "what is told");
    for (one, held) in [(&a, 20), (&b, 1)] {
        let told = store.standings_for(&org, &caps, wish(one, 5)).await?;
        ensure_eq!(
            told,
            [Standing { used: 4, held }],
            "what is told to one who holds something"
        );
    }
    let told = store.standings(&org, a.session, &caps).await?;
    ensure_eq!(told, [Standing { used: 4, held: 21 }], "what is held after looking");
    Ok(())
}

async fn last_unit(world: &World) -> Outcome {
    let org = world.org().await?;
    let mut turns = Vec::new();
    for _ in 0..8 {
        turns.push(at_work(world, &org).await?);
    }
    say(world, &turns[0], step(Some(usage(9, 0)), None)).await?;
    let results = at_once(turns.len(), |number| {
        let (store, org) = (Arc::clone(&world.store), org.clone());
        let wish = wish(&turns[number], 0);
        async move { store.reserve(&org, &[org_cap(10)], wish).await }
    })
    .await?;
    let mut granted = 0;
    for result in results {
        granted += usize::from(matches!(result?, Reserved::Granted(_)));
    }
    ensure_eq!(granted, 1, "who got the last unit");
    Ok(())
}

async fn let_go(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (a, b) = (at_work(world, &org).await?, at_work(world, &org).await?);
    let caps = [org_cap(10)];
    let free = |reserved: Reserved| matches!(reserved, Reserved::Granted(_));
    for ending in [step(Some(usage(1, 0)), None), completed(a.id).body] {
        ensure!(
            free(store.reserve(&org, &caps, wish(&a, 50)).await?),
            "a could not hold it"
        );
        ensure!(
            !free(store.reserve(&org, &caps, wish(&b, 1)).await?),
            "b held what a holds"
        );
        say(world, &a, ending).await?;
        ensure!(
            free(store.reserve(&org, &caps, wish(&b, 1)).await?),
            "b could not hold it"
        );
        store.release(wish(&b, 1).holder).await?;
    }
    let lapsed = Reservation {
        until: now() - Duration::from_secs(1),
        ..wish(&b, 50)
    };
    let c = at_work(world, &org).await?;
    ensure!(free(store.reserve(&org, &caps, lapsed).await?), "b could not hold it");
    ensure!(
        free(store.reserve(&org, &caps, wish(&c, 1)).await?),
        "what lapsed is still held"
    );
    let nobody = Reservation {
        holder: Holder::Turn {
            session: c.session,
            turn: TurnId::new(),
        },
        ..wish(&c, 1)
    };
    let gone = store.reserve(&org, &caps, nobody).await;
    ensure!(
        matches!(gone, Err(StoreError::Gone { what: "turn" })),
        "a turn that is not there: {gone:?}"
    );
    Ok(())
}

async fn sessions_hold(world: &World) -> Outcome {
    let store = &world.store;
    let (org, stranger) = (world.org().await?, world.org().await?);
    let turn = at_work(world, &org).await?;
    let session = world.session(&org).await?.id;
    let caps = [org_cap(10)];
    let of_session = Reservation {
        holder: Holder::Session(session),
        ..wish(&turn, 50)
    };
    let free = |reserved: Reserved| matches!(reserved, Reserved::Granted(_));
    let used = Some(usage(1, 0));
    let failed = |usage: Option<Usage>| EventBody::CompactionFailed {
        message: "no".into(),
        usage,
        cost: None,
    };
    for ending in [failed(used), failed(None)] {
        for _ in 0..2 {
            let held = store.reserve(&org, &caps, of_session).await?;
            ensure!(free(held), "the session could not hold it");
        }
        let taken = store.reserve(&org, &caps, wish(&turn, 1)).await?;
        ensure!(!free(taken), "a turn held what a session holds");
        let of_none = NewEvent {
            turn: None,
            source: Source::Host,
            body: ending,
        };
        store.append(&org, session, &[of_none]).await?;
        let freed = store.reserve(&org, &caps, wish(&turn, 1)).await?;
        ensure!(free(freed), "the turn could not hold what was let go");
        store.release(wish(&turn, 1).holder).await?;
    }
    let gone = store.reserve(&stranger, &caps, of_session).await;
    ensure!(
        matches!(gone, Err(StoreError::Gone { what: "session" })),
        "a session of another org: {gone:?}"
    );
    ensure!(
        free(store.reserve(&org, &caps, of_session).await?),
        "it could not be held again"
    );
    store.delete_session(&org, session).await?;
    let freed = store.reserve(&org, &caps, wish(&turn, 1)).await?;
    ensure!(free(freed), "a session that is deleted holds something");
    Ok(())
}

async fn accounts(world: &World) -> Outcome {
    let store = &world.store;
    let (org, other) = (world.org().await?, world.org().await?);
    let (mine, beside, foreign) = (
        at_work(world, &org).await?,
        at_work(world, &org).await?,
        at_work(world, &other).await?,
    );
    for (turn, tokens) in [(&mine, 1), (&beside, 10), (&foreign, 100)] {
        say(world, turn, step(Some(usage(tokens, 0)), Some(tokens))).await?;
    }
    let tomorrow = Cap {
        account: Account::Org {
            since: Day::of(now() + Duration::from_secs(24 * 3600)),
        },
        ..org_cap(0)
    };
    let caps = [
        session_cap(Part::Tokens, 0),
        session_cap(Part::Cost, 0),
        org_cap(0),
        Cap {
            part: Part::Cost,
            ..org_cap(0)
        },
        tomorrow,
    ];
    let used = |standings: Vec<Standing>| standings.iter().map(|standing| standing.used).collect::<Vec<_>>();
    let found = used(store.standings(&org, mine.session, &caps).await?);
    ensure_eq!(found, [1, 1, 11, 11, 0], "what counts");
    let stranger = used(store.standings(&other, mine.session, &caps[..2]).await?);
    ensure_eq!(stranger, [0, 0], "a session of another org");
    store.delete_session(&org, beside.session).await?;
    let kept = used(store.standings(&org, mine.session, &caps[2..3]).await?);
    ensure_eq!(kept, [11], "with a session deleted");
    Ok(())
}

async fn told(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let other = world.session(&org).await?.id;
    let notice = |session: SessionId, cap: Cap, percent: u8| Notice { session, cap, percent };
    let once = [
        (notice(session, org_cap(10), 80), true),
        (notice(session, org_cap(10), 80), false),
        (notice(other, org_cap(10), 80), false),
        (notice(other, org_cap(10), 100), true),
        (notice(session, org_cap(10), 80), false),
        (notice(session, org_cap(20), 80), true),
        (notice(session, session_cap(Part::Tokens, 10), 80), true),
        (notice(other, session_cap(Part::Tokens, 10), 80), true),
        (notice(session, session_cap(Part::Cost, 10), 80), true),
        (notice(session, session_cap(Part::Tokens, 10), 80), false),
    ];
    for (number, (notice, news)) in once.into_iter().enumerate() {
        let found = store.tell_once(&org, notice).await?;
        ensure!(found == news, "notice {number} is news: {found}");
    }
    let next = Cap {
        account: Account::Org {
            since: Window::Month.first_day(now()),
        },
        ..org_cap(20)
    };
    ensure!(
        store.tell_once(&org, notice(session, next, 80)).await?,
        "another window is no news"
    );
    Ok(())
}

const PARTS: [Part; 5] = [Part::Tokens, Part::Cost, Part::ToolCalls, Part::Steps, Part::Time];

/// The caps of every part, of the org first.
fn all_caps(limit: u64) -> Vec<Cap> {
    let of_org = PARTS.map(|part| Cap { part, ..org_cap(limit) });
    let of_session = PARTS.map(|part| session_cap(part, limit));
    [of_org, of_session].concat()
}

fn asked_for_a_tool() -> EventBody {
    EventBody::ToolRequested {
        step: 1,
        call: RequestedCall {
            id: CallId::new(),
            tool: "t".into(),
            arguments: GivenArguments::Arguments(Arguments::default()),
        },
    }
}

fn timed(mut body: EventBody, worked_ms: u64) -> EventBody {
    body.set_worked_ms(worked_ms);
    body
}

async fn work_counted(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (turn, beside) = (at_work(world, &org).await?, at_work(world, &org).await?);
    let mut fallback = step(Some(usage(1, 0)), None);
    if let EventBody::StepCompleted { model: of, .. } = &mut fallback {
        *of = Some(model("other")?);
    }
    let events = [asked_for_a_tool(), asked_for_a_tool(), timed(fallback, 1_500)];
    let events = events.map(|body| of_turn(turn.id, body));
    store.append(&org, turn.session, &events).await?;
    say(world, &turn, timed(step(Some(usage(1, 0)), None), 2_000)).await?;
    say(world, &beside, timed(step(None, None), 300)).await?;
    // A clock of another host that is behind takes nothing back.
    say(world, &beside, timed(step(None, None), 200)).await?;
    say(world, &turn, timed(completed(turn.id).body, 2_400)).await?;

    let standings = store.standings(&org, turn.session, &all_caps(0)).await?;
    let used: Vec<_> = standings.iter().map(|standing| standing.used).collect();
    ensure_eq!(
        used,
        [2, 0, 2, 4, 2_700, 2, 0, 2, 2, 2_400],
        "what counts for org and session"
    );
    let rows = all_usage(&*world.store, &org).await?;
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            let model = row.model.as_ref().map(ToString::to_string).unwrap_or_default();
            (model, row.calls, row.tool_calls, row.steps, row.worked_ms)
        })
        .collect();
    ensure_eq!(
        told,
        [
            ("main".to_owned(), 3, 0, 3, 1_200),
            ("other".to_owned(), 1, 2, 1, 1_500)
        ],
        "the days: what names no model goes with what does"
    );

    let cut_off = at_work(world, &org).await?;
    say(world, &cut_off, timed(completed(cut_off.id).body, 0)).await?;
    ensure_eq!(
        all_usage(&*world.store, &org).await?.len(),
        2,
        "rows, with one that took nothing"
    );
    Ok(())
}

async fn each_part_held(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (turn, other) = (at_work(world, &org).await?, at_work(world, &org).await?);
    let nothing_foreseen = Reservation {
        amounts: Amounts::default(),
        ..wish(&turn, 0)
    };
    for part in PARTS {
        let last = [Cap { part, ..org_cap(1) }];
        let held = store.reserve(&org, &last, nothing_foreseen).await?;
        let granted = Reserved::Granted(vec![Standing { used: 0, held: 0 }]);
        ensure_eq!((part, held), (part, granted), "the last unit of a part");
        let second = store.reserve(&org, &last, wish(&other, 0)).await?;
        let refused = Reserved::Refused(vec![Standing { used: 0, held: 1 }]);
        ensure_eq!((part, second), (part, refused), "a second one of it");
        store.release(nothing_foreseen.holder).await?;
    }
    let foreseen = Amounts {
        tokens: 1,
        cost: Money::from_millionths(2),
        tool_calls: 3,
        steps: 4,
        time_ms: 5,
    };
    let session = world.session(&org).await?.id;
    for (holder, expected) in [
        (wish(&turn, 0).holder, [1, 2, 3, 4, 5]),
        (Holder::Session(session), [1, 2, 0, 0, 0]),
    ] {
        let amounts = match holder {
            Holder::Turn { .. } => foreseen,
            Holder::Session(_) => Amounts {
                tool_calls: 0,
                steps: 0,
                time_ms: 0,
                ..foreseen
            },
        };
        let held = Reservation {
            holder,
            amounts,
            ..nothing_foreseen
        };
        let caps = all_caps(100);
        store.reserve(&org, &caps[..5], held).await?;
        let standings = store.standings(&org, holder.session(), &caps).await?;
        let told: Vec<_> = standings.iter().map(|standing| standing.held).collect();
        ensure_eq!(
            (holder, told),
            (holder, [expected, expected].concat()),
            "what one holds"
        );
        store.release(holder).await?;
    }
    Ok(())
}

async fn enormous(world: &World) -> Outcome {
    // The most that is money.
    const FORTUNE: u64 = 1_000_000_000_000_000;
    let org = world.org().await?;
    let turn = at_work(world, &org).await?;
    for _ in 0..3 {
        let worked = timed(step(Some(usage(u64::MAX, u64::MAX)), Some(FORTUNE)), u64::MAX);
        say(world, &turn, worked).await?;
    }
    let standings = world
        .store
        .standings(
            &org,
            turn.session,
            &[org_cap(1), session_cap(Part::Cost, 1), session_cap(Part::Time, 1)],
        )
        .await?;
    ensure!(
        standings.iter().all(|standing| standing.used > 1_000_000),
        "{standings:?}"
    );
    let wish = wish(&turn, u64::MAX);
    ensure!(world.store.reserve(&org, &[], wish).await.is_ok(), "an enormous wish");
    Ok(())
}
