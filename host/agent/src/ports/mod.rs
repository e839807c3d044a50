//! What a guest reaches outside the sandbox: the sandbox's ports, each answered by the crate that owns the matter.

mod door;
mod events;
mod files;
mod jobs;
mod key_values;
mod peers;
mod signer;

pub use door::StoreLedger;
pub(crate) use door::door;
pub(crate) use events::{CallEvents, HiddenToken, Observe, Observed, Telling, observe};
pub(crate) use files::files;
pub(crate) use jobs::{Waits, jobs};
pub(crate) use key_values::key_values;
pub(crate) use peers::peers;
pub(crate) use signer::signer;
