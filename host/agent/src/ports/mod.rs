//! What a guest reaches outside the sandbox: the sandbox's ports, each answered by the crate that owns the matter.

mod door;
mod events;
mod files;
mod jobs;
mod key_values;
mod observe;
mod peers;
mod signer;

pub use door::StoreLedger;
pub(crate) use door::door;
pub(crate) use events::{CallEvents, HiddenToken, Telling};
pub(crate) use files::files;
pub(crate) use jobs::{Waits, jobs};
pub(crate) use key_values::key_values;
pub(crate) use observe::{Observe, Observed, observe};
pub(crate) use peers::peers;
pub(crate) use signer::signer;
