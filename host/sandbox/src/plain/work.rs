//! What converting the values of one call may take of the host: it is work for the guest, outside of the guest.

use crate::{
    meter::{LimitReached, Meter},
    output,
};
use fumehood_core::call::CallError;
use fumehood_policy::limits::Limits;

/// Steps between two looks at the clock. A step looks at one value, and at up to as many names as a type may have.
const STEPS: u32 = 64;

/// Why values are not converted.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// They do not fit, or are too large.
    Unfit(CallError),
    /// The call's time is up.
    Limit(LimitReached),
}

impl From<CallError> for Stopped {
    fn from(error: CallError) -> Self {
        Self::Unfit(error)
    }
}

impl From<LimitReached> for Stopped {
    fn from(limit: LimitReached) -> Self {
        Self::Limit(limit)
    }
}

/// The work of one conversion.
// THREAT[T-box-plain-values]
pub(crate) struct Work<'a> {
    meter: &'a Meter,
    limits: &'a Limits,
    steps: u32,
    written: u64,
}

impl<'a> Work<'a> {
    pub(crate) const fn new(meter: &'a Meter, limits: &'a Limits) -> Self {
        Self {
            meter,
            limits,
            steps: 0,
            written: 0,
        }
    }

    /// One value more is looked at.
    pub(super) fn step(&mut self) -> Result<(), LimitReached> {
        if self.steps.is_multiple_of(STEPS) {
            self.meter.within_cpu()?;
        }
        self.steps = self.steps.wrapping_add(1);
        Ok(())
    }

    /// One value more, of at least so many bytes of JSON, becomes part of the result.
    pub(super) fn write(&mut self, bytes: usize) -> Result<(), Stopped> {
        self.step()?;
        self.written = self.written.saturating_add(bytes as u64);
        Ok(output::within_limit(self.written, self.limits)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_policy::quantity::{ByteSize, Span};
    use std::time::Instant;

    #[test]
    fn work_ends_at_the_output_of_the_call_before_the_result_is_whole() {
        let limits = Limits {
            output: ByteSize(100),
            ..Limits::default()
        };
        let meter = Meter::new(&limits, Instant::now());
        let mut work = Work::new(&meter, &limits);
        assert!((0..10).all(|_| work.write(10).is_ok()));
        assert!(matches!(work.write(1), Err(Stopped::Unfit(_))));
    }

    #[test]
    fn work_ends_at_the_cpu_of_the_call() {
        let limits = Limits {
            cpu: Span::from_millis(0),
            ..Limits::default()
        };
        let meter = Meter::new(&limits, Instant::now());
        let mut work = Work::new(&meter, &limits);
        let stopped = (0..=STEPS).find_map(|_| work.step().err());
        assert_eq!(stopped, Some(LimitReached::Cpu));
    }
}
