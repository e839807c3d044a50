//! `fumehood job …`

use clap::Subcommand;
use fumehood_core::id::{JobId, SessionId};

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// The jobs of a session, newest first.
    List {
        /// The session.
        session: SessionId,
    },
    /// One job: how far it is, what it wrote, how it ended.
    Show {
        /// Its id.
        id: JobId,
    },
    /// Stop a job. What it has done is done.
    Stop {
        /// Its id.
        id: JobId,
    },
}
