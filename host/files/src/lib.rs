//! Directories that strangers' code may change: a session's workspace, a call's `/tmp`.
//!
//! A [`Tree`] is one such directory with its account. Whoever changes something below it (guests through the sandbox,
//! clients through HTTP) does so through the same `Tree`, and each change is charged to the quota before it happens, so that
//! no number of them together passes it. Everything is reached through a capability for the directory, so that no path and
//! no link leads out of it.
//!
//! All functions block: call them where blocking is allowed. None of them waits for anything but the disk and each other.
#![forbid(unsafe_code)]

mod file;
mod quota;
mod tree;
mod walk;

pub use file::OpenFile;
pub use quota::{Full, Limit, Quota, Usage};
pub use tree::{Create, FileError, Open, Opened, Placed, Reservation, Rewriting, Tree};
pub use walk::{open_dir_itself, remove_all};
