use super::*;
use fumehood_model::ModelErrorKind;
use proptest::prelude::*;

const EXACT: Jitter = Jitter(Jitter::UNIT);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn limited(retry_after: Option<Duration>) -> ModelError {
    ModelErrorKind::RateLimited { retry_after }.into()
}

fn broken() -> ModelError {
    ModelErrorKind::Incomplete.into()
}

fn refused() -> ModelError {
    ModelErrorKind::Auth.into()
}

fn failure(error: &ModelError) -> Failure<'_> {
    Failure {
        error,
        shown: Shown::Nothing,
        time_left: None,
    }
}

fn selected(error: &ModelError, attempt: u32) -> Duration {
    wait(error, attempt, EXACT, None).unwrap().selected
}

#[test]
fn a_hint_is_obeyed_and_a_missing_one_keeps_the_floor() {
    assert_eq!(selected(&limited(Some(secs(3))), 1), secs(3));
    assert_eq!(selected(&limited(Some(Duration::from_millis(1))), 1), INITIAL);
    let floor = wait(&limited(None), 1, EXACT, None).unwrap();
    assert_eq!((floor.selected, floor.floor), (RATE_LIMIT_FLOOR, Applied::Yes));
    let overloaded = ModelErrorKind::Overloaded { retry_after: None }.into();
    assert_eq!(selected(&overloaded, 1), INITIAL, "only rate limits have a floor");
}

#[test]
fn waits_double_up_to_half_a_minute() {
    let waits: Vec<_> = (1..=8).map(|n| selected(&broken(), n).as_millis()).collect();
    assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    assert_eq!(selected(&broken(), u32::MAX), MAX);
}

#[test]
fn jitter_moves_a_wait_by_a_tenth_at_most() {
    let ends = [Jitter::of(0), Jitter::of(2 * Jitter::SPREAD)];
    let waits = ends.map(|jitter| wait(&broken(), 1, jitter, None).unwrap().computed.as_millis());
    assert_eq!(waits, [450, 550]);
}

#[test]
fn a_wait_is_cut_to_the_time_that_is_left_but_a_hint_is_not() {
    let cut = wait(&limited(None), 1, EXACT, Some(secs(10))).unwrap();
    assert_eq!(
        (cut.selected, cut.budget_cap, cut.floor),
        (secs(10), Applied::Yes, Applied::Yes)
    );
    let hinted = limited(Some(secs(11)));
    let too_long = wait(&hinted, 1, EXACT, Some(secs(10))).unwrap_err();
    assert_eq!(
        too_long.to_string(),
        "; it asks to wait 11 s, and the turn's time budget has 10 s left"
    );
    assert!(wait(&hinted, 1, EXACT, Some(secs(11))).is_ok());
}

#[test]
fn what_would_not_pass_or_would_show_twice_is_not_tried_again() {
    for error in [refused(), ModelErrorKind::ContextTooLong.into()] {
        let next = Attempts::new([3, 3]).failed(failure(&error), EXACT);
        assert_eq!(next, Next::GiveUp(Reason::Failure), "{error}");
    }
    let error = broken();
    let shown = Failure {
        shown: Shown::Text,
        ..failure(&error)
    };
    let next = Attempts::new([3, 3]).failed(shown, EXACT);
    assert_eq!(next, Next::GiveUp(Reason::Failure));
}

/// The models that are asked one after the other while each attempt fails with the next of these errors.
fn asked(retries: &[u32], mut errors: impl FnMut(usize) -> ModelError) -> Vec<usize> {
    let mut attempts = Attempts::new(retries.iter().copied());
    let mut asked = vec![0];
    while let Next::Retry(retry) = attempts.failed(failure(&errors(attempts.model())), EXACT) {
        assert_eq!(retry.attempt as usize, asked.len());
        asked.push(retry.model);
        assert_eq!(attempts.model(), retry.model);
    }
    asked
}

#[test]
fn each_model_has_its_own_retries_and_then_the_next_is_asked() {
    assert_eq!(asked(&[2, 0, 1], |_| broken()), [0, 0, 0, 1, 2, 2]);
    assert_eq!(asked(&[0], |_| broken()), [0]);
}

#[test]
fn a_fallback_that_will_not_answer_at_all_is_followed_by_the_next() {
    let errors = |model| if model == 1 { refused() } else { broken() };
    assert_eq!(asked(&[1, 3, 1], errors), [0, 0, 1, 2, 2]);
}

#[test]
fn a_hint_beyond_the_turns_time_goes_to_the_fallback_at_once() {
    let error = limited(Some(secs(100)));
    let in_time = Failure {
        time_left: Some(secs(5)),
        ..failure(&error)
    };
    let mut attempts = Attempts::new([3, 0]);
    let Next::Retry(retry) = attempts.failed(in_time, EXACT) else {
        panic!("no retry")
    };
    assert_eq!((retry.model, retry.wait, retry.max_attempts), (1, Wait::default(), 4));
    let last = attempts.failed(in_time, EXACT);
    assert_eq!(last, Next::GiveUp(Reason::Failure), "its retries are used up");
}

#[test]
fn where_the_wait_would_take_all_the_time_there_is_another_model_is_asked() {
    let error = limited(None);
    let little = Failure {
        time_left: Some(secs(5)),
        ..failure(&error)
    };
    let mut attempts = Attempts::new([3, 3]);
    let Next::Retry(retry) = attempts.failed(little, EXACT) else {
        panic!("no retry")
    };
    assert_eq!((retry.model, retry.wait), (1, Wait::default()));
    let Next::Retry(last) = attempts.failed(little, EXACT) else {
        panic!("no retry")
    };
    assert_eq!(
        (last.model, last.wait.budget_cap),
        (1, Applied::Yes),
        "there is no other"
    );
}

fn any_error() -> impl Strategy<Value = ModelError> {
    let hint = proptest::option::of((0_u64..200_000).prop_map(Duration::from_millis));
    prop_oneof![
        hint.clone().prop_map(limited),
        hint.clone()
            .prop_map(|retry_after| ModelErrorKind::Overloaded { retry_after }.into()),
        hint.prop_map(|retry_after| ModelErrorKind::Unavailable { retry_after }.into()),
        Just(broken()),
    ]
}

proptest! {
    #[test]
    fn a_wait_is_what_the_formula_says(
        error in any_error(),
        attempt in 1_u32..12,
        random in any::<u32>(),
        left in proptest::option::of((0_u64..100_000).prop_map(Duration::from_millis)),
    ) {
        let jitter = Jitter::of(random);
        prop_assert!((90_000..=110_000).contains(&jitter.0));
        let hint = error.retry_after();
        let Ok(wait) = wait(&error, attempt, jitter, left) else {
            prop_assert!(hint > left && left.is_some());
            return Ok(());
        };
        let exact = 500.0 * 2_f64.powi(i32::try_from(attempt).unwrap() - 1) * f64::from(jitter.0) / 100_000.0;
        let computed = exact.min(30_000.0);
        prop_assert!((wait.computed.as_secs_f64() * 1000.0 - computed).abs() < 0.01, "{wait:?} {computed}");
        let floor = if error.is_rate_limit() && hint.is_none() { RATE_LIMIT_FLOOR } else { Duration::ZERO };
        let wanted = wait.computed.max(hint.unwrap_or(floor));
        prop_assert_eq!(wait.selected, wanted.min(left.unwrap_or(Duration::MAX)));
        prop_assert_eq!(wait.budget_cap == Applied::Yes, wait.selected < wanted);
        prop_assert_eq!(wait.floor == Applied::Yes, floor > wait.computed);
        prop_assert_eq!(wait.hint, hint);
    }

    #[test]
    fn attempts_end_and_never_go_back_to_a_model(
        retries in proptest::collection::vec(0_u32..6, 1..5),
        errors in proptest::collection::vec(any_error(), 1..8),
        refusals in any::<u64>(),
    ) {
        let mut attempts = Attempts::new(retries.clone());
        let most = retries.iter().sum::<u32>() + u32::try_from(retries.len()).unwrap() - 1;
        let mut last = 0;
        for made in 0..=most {
            let refusal = refusals >> made & 1 == 1;
            let error = if refusal { refused() } else { errors[made as usize % errors.len()].clone() };
            match attempts.failed(failure(&error), Jitter::of(made)) {
                Next::GiveUp(reason) => {
                    prop_assert_eq!(reason, Reason::Failure);
                    return Ok(());
                }
                Next::Retry(retry) => {
                    prop_assert_eq!((retry.attempt, retry.max_attempts), (made + 1, most));
                    prop_assert!(retry.model == last || retry.model == last + 1);
                    last = retry.model;
                }
            }
        }
        prop_assert!(false, "more than {most} retries");
    }
}
