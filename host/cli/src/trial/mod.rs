//! `fumehood tool test`: a component's tests, run on the real component in the real sandbox under its own manifest, with an
//! outside that is written down.
//!
//! What is real: loading, schemas, the grant, limits, the workspace, key-values, secrets and everything that the door decides,
//! injects, scans and records. What is not: the network. A request that the door lets through is answered by an exchange of the
//! test and by nobody else; no name is looked up and no connection is made. Except where the exchanges of a test are to be recorded: then
//! its requests go where they would go in service.

mod ambient;
mod case;
mod files;
mod judge;
mod mistakes;
mod outside;
mod record;
mod run;
mod snapshot;

pub(crate) use case::Case;
pub(crate) use files::{Located, find, has_tests};
pub(crate) use judge::{Finding, Verdict};
pub(crate) use record::{Recorded, can_be_written, may_be_recorded, write as write_recorded};
pub(crate) use run::{Answers, Bent, Outcome, Trial};
pub(crate) use snapshot::Snapshots;
