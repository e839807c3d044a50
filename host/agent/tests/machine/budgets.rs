//! Budgets: told of in time, and kept.

use super::*;
use fumehood_agent::machine::{Exhausted, Warning};
use fumehood_core::{
    money::Money,
    turn::{BudgetScope, StopReason, TurnError, TurnErrorCode},
};
use std::time::Duration;

fn warned(budget: &str) -> Vec<EventBody> {
    vec![EventBody::BudgetWarning {
        scope: BudgetScope::Turn,
        budget: budget.into(),
        percent: 100,
        used: 0,
        limit: 0,
    }]
}

#[test]
fn each_budget_ends_the_turn_before_another_step() {
    let used = Usage {
        input_tokens: Some(90),
        output_tokens: Some(10),
        ..Usage::default()
    };
    for (budget, name, reason) in [
        (
            Budget {
                steps: Some(1),
                ..Budget::default()
            },
            "steps",
            StopReason::StepLimit,
        ),
        (
            Budget {
                tool_calls: Some(1),
                ..Budget::default()
            },
            "tool_calls",
            StopReason::ToolCallLimit,
        ),
        (
            Budget {
                tokens: Some(100),
                ..Budget::default()
            },
            "tokens",
            StopReason::TokenLimit,
        ),
    ] {
        let a = call();
        let events = [
            queued(),
            started(budget),
            step(1),
            says("so far"),
            asks(&a),
            answered(StepStop::ToolCalls, Some(used)),
            settles(&a),
        ];
        let machine = after(&[&events[..], &warned(name)].concat());
        let Next::Exhaust(exhausted) = machine.decide(&Seen::default()) else {
            panic!("{name}: {:?}", machine.decide(&Seen::default()))
        };
        assert_eq!((exhausted.budget, exhausted.stop_reason), (name, reason));
        let end = machine.exhaustion(exhausted);
        assert!(matches!(&end[0].body, EventBody::BudgetExhausted { budget, .. } if budget == name));
        assert!(
            matches!(&end[1].body, EventBody::TurnCompleted { output, .. } if *output == [Content::text("so far")])
        );
    }
}

#[test]
fn calls_beyond_the_budget_do_not_count_as_admitted() {
    let (a, b, c) = (call(), call(), call());
    let budget = Budget {
        tool_calls: Some(2),
        ..Budget::default()
    };
    let machine = after(&[
        queued(),
        started(budget),
        step(1),
        asks(&a),
        asks(&b),
        asks(&c),
        answered(StepStop::ToolCalls, None),
    ]);
    assert_eq!(machine.calls_within_budget(), 2);
    assert_eq!((machine.place_of(a.id), machine.place_of(c.id)), (Some(0), Some(2)));
}

#[test]
fn a_budget_is_told_of_once_at_four_fifths_and_once_at_its_end() {
    let budget = Budget {
        steps: Some(5),
        ..Budget::default()
    };
    let mut machine = after(&[queued(), started(budget)]);
    let mut told = Vec::new();
    loop {
        match machine.decide(&Seen::default()) {
            Next::Warn(warning) => {
                told.push((machine.step(), warning.percent));
                let event = machine.warning(warning);
                machine.apply(&event.body);
            }
            Next::BeginStep { step: number, .. } => {
                let a = call();
                machine.apply(&step(number));
                machine.apply(&asks(&a));
                machine.apply(&answered(StepStop::ToolCalls, None));
                machine.apply(&settles_with(&a, &number.to_string()));
            }
            next => {
                assert!(
                    matches!(next, Next::Exhaust(Exhausted { budget: "steps", .. })),
                    "{next:?}"
                );
                break;
            }
        }
    }
    assert_eq!(told, [(4, 80), (5, 100)]);
}

#[test]
fn time_is_told_of_by_the_clock_that_the_machine_is_shown() {
    let budget = Budget {
        time_ms: Some(1000),
        ..Budget::default()
    };
    let machine = after(&[queued(), started(budget)]);
    let at = |elapsed| {
        machine.decide(&Seen {
            elapsed: Duration::from_millis(elapsed),
            ..Seen::default()
        })
    };
    assert_eq!(at(799), beginning(1));
    let warning = Warning {
        scope: BudgetScope::Turn,
        budget: "time",
        percent: 80,
        used: 800,
        limit: 1000,
    };
    assert_eq!(at(800), Next::Warn(warning));
}

#[test]
fn what_a_summary_took_counts() {
    let budget = Budget {
        tokens: Some(100),
        cost: Some(Money::from_millionths(50)),
        ..Budget::default()
    };
    let summed_up = EventBody::CompactionFailed {
        message: "the model said nothing".into(),
        usage: Some(Usage {
            output_tokens: Some(10),
            ..Usage::default()
        }),
        cost: Some(Money::from_millionths(60)),
    };
    let events = [vec![queued(), started(budget), summed_up], warned("cost")].concat();
    let Next::Exhaust(exhausted) = next(&events) else {
        panic!("{:?}", next(&events))
    };
    assert_eq!(
        (exhausted.budget, exhausted.used, exhausted.stop_reason),
        ("cost", 60, StopReason::CostLimit)
    );
}

fn output(tokens: u64) -> Option<Usage> {
    Some(Usage {
        output_tokens: Some(tokens),
        ..Usage::default()
    })
}

#[test]
fn what_attempts_without_an_answer_took_counts() {
    let error = TurnError {
        code: TurnErrorCode::ModelUnavailable,
        message: "broke off".into(),
    };
    let retried = EventBody::RetryScheduled {
        step: 1,
        attempt: 1,
        max_attempts: 3,
        delay_ms: 500,
        computed_delay_ms: 500,
        retry_after_hint_ms: None,
        rate_limit_floor_applied: false,
        budget_capped: false,
        error: error.clone(),
        model: None,
        failed_model: None,
        usage: output(7),
        cost: Some(Money::from_millionths(70)),
    };
    let given_up = EventBody::StepFailed {
        step: 1,
        error: Some(error.clone()),
        usage: output(5),
        model: None,
        cost: Some(Money::from_millionths(50)),
        unmeasured: false,
        worked_ms: None,
    };
    let events = [queued(), started(Budget::default()), step(1), retried, given_up];
    let end = after(&events).failure(error);
    let EventBody::TurnFailed { usage, cost, .. } = &end[0].body else {
        panic!("{end:?}")
    };
    assert_eq!((*usage, *cost), (output(12), Some(Money::from_millionths(120))));
}

#[test]
fn what_is_told_of_an_orgs_budget_is_not_told_of_the_turns() {
    let budget = Budget {
        tokens: Some(10),
        ..Budget::default()
    };
    let of_org = EventBody::BudgetWarning {
        scope: BudgetScope::Org,
        budget: "tokens".into(),
        percent: 80,
        used: 80,
        limit: 100,
    };
    let a = call();
    let events = [
        queued(),
        started(budget),
        of_org,
        step(1),
        asks(&a),
        answered(StepStop::ToolCalls, output(8)),
        settles(&a),
    ];
    let told = next(&events);
    assert!(
        matches!(
            told,
            Next::Warn(Warning {
                scope: BudgetScope::Turn,
                budget: "tokens",
                percent: 80,
                ..
            })
        ),
        "{told:?}"
    );
}
