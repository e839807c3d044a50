//! How long a turn has been worked, by its journal: what its budget of time is compared with, whichever host works it.
//!
//! What it waited for somebody outside does not count. Nor does time during which no host was there: from the last event before a
//! host stopped to the first that tells of going on, or to the next step, which says how long the turn was worked by then.

use fumehood_core::{
    Time,
    call::{CallError, CallErrorCode},
    event::EventBody,
};
use std::time::Duration;

/// What is known of a turn's time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Worked {
    /// Before the present stretch.
    before: Duration,
    /// The present stretch, as far as events tell of it. Absent where nobody works the turn.
    stretch: Option<(Time, Time)>,
}

impl Worked {
    /// Learns from an event of the turn.
    pub(crate) fn apply(&mut self, body: &EventBody, time: Time) {
        match body {
            EventBody::TurnStarted { .. } | EventBody::TurnResumed { .. } => self.begin(time),
            EventBody::TurnPaused { .. } => {
                self.reach(time);
                self.before = self.so_far();
                self.stretch = None;
            }
            EventBody::StepStarted {
                worked_ms: Some(worked),
                ..
            } => {
                self.before = Duration::from_millis(*worked);
                self.stretch = Some((time, time));
            }
            _ if tells_of_a_stop(body) => self.begin(time),
            _ => self.reach(time),
        }
    }

    /// How long it was by its last event. A clock that went back takes nothing away.
    pub(crate) fn so_far(&self) -> Duration {
        let stretch = self.stretch.and_then(|(begun, last)| (last - begun).to_std().ok());
        self.before.saturating_add(stretch.unwrap_or_default())
    }

    fn begin(&mut self, time: Time) {
        self.before = self.so_far();
        self.stretch = Some((time, time));
    }

    fn reach(&mut self, time: Time) {
        if let Some((_, last)) = &mut self.stretch {
            *last = time;
        }
    }
}

/// Whether it is the first of its kind after a host stopped.
const fn tells_of_a_stop(body: &EventBody) -> bool {
    match body {
        // The end of a component's use interrupts calls as well, by a deadline.
        EventBody::ToolCompleted {
            error:
                Some(CallError {
                    code: CallErrorCode::Interrupted,
                    deadline: None,
                    ..
                }),
            ..
        } => true,
        EventBody::StepRestarted { .. } => true,
        EventBody::ToolStarted { attempt, .. } => *attempt > 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{call::Metering, id::CallId, turn::WaitingFor};

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    const WAITING_FOR: WaitingFor = WaitingFor::Approval;

    fn worked(events: &[(i64, EventBody)]) -> u64 {
        let mut worked = Worked::default();
        for (seconds, body) in events {
            worked.apply(body, at(*seconds));
        }
        worked.so_far().as_secs()
    }

    fn started() -> EventBody {
        serde_json::from_value(serde_json::json!({
            "type": "turn.started", "data": {"agent": "assistant", "model": "main", "tools": [], "budget": {}},
        }))
        .unwrap()
    }

    fn said() -> EventBody {
        EventBody::TextCompleted {
            step: 1,
            text: String::new(),
        }
    }

    fn interrupted() -> EventBody {
        let error = CallError::new(CallErrorCode::Interrupted, "the host stopped");
        EventBody::tool_completed(CallId::new(), "t".into(), Err(error), Metering::default())
    }

    #[test]
    fn a_turn_that_nobody_began_was_not_worked() {
        assert_eq!(worked(&[(5, said())]), 0);
    }

    #[test]
    fn what_it_waited_for_somebody_outside_does_not_count() {
        let paused = EventBody::TurnPaused {
            waiting_for: WAITING_FOR,
            worked_ms: None,
        };
        let resumed = EventBody::TurnResumed {
            waited_for: WAITING_FOR,
        };
        assert_eq!(worked(&[(0, started()), (60, paused.clone())]), 60);
        assert_eq!(
            worked(&[(0, started()), (60, paused), (9000, resumed), (9005, said())]),
            65
        );
    }

    #[test]
    fn what_passed_before_a_stop_counts_and_what_passed_without_a_host_does_not() {
        assert_eq!(
            worked(&[(0, started()), (30, said()), (9000, interrupted()), (9010, said())]),
            40
        );
    }

    fn step(worked_ms: Option<u64>) -> EventBody {
        EventBody::StepStarted {
            step: 2,
            notes: Vec::new(),
            worked_ms,
        }
    }

    #[test]
    fn what_passed_without_a_host_between_two_steps_does_not_count() {
        let told = [(0, started()), (30, said()), (9000, step(Some(31_000))), (9010, said())];
        assert_eq!(worked(&told), 41);
        // As it was recorded before steps said that.
        assert_eq!(worked(&[(0, started()), (30, said()), (40, step(None))]), 40);
    }

    #[test]
    fn a_clock_that_went_back_takes_nothing_away() {
        assert_eq!(worked(&[(100, started()), (50, said())]), 0);
    }
}
