//! `fumehood schedule …`

use clap::{Args, Subcommand, ValueEnum};
use fumehood_core::{
    id::{ScheduleId, SessionId},
    name::AgentName,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Make a schedule: a turn at each of its times, in a session of its own or in one that is there.
    Create(Box<ScheduleNew>),
    /// The schedules, newest first.
    List,
    /// One schedule.
    Show {
        /// Its id.
        id: ScheduleId,
    },
    /// Pause a schedule. Times that come meanwhile are not made up for.
    Pause {
        /// Its id.
        id: ScheduleId,
    },
    /// Let a paused schedule fire again, from its next time on.
    Resume {
        /// Its id.
        id: ScheduleId,
    },
    /// Fire a schedule now, besides its own times.
    Run {
        /// Its id.
        id: ScheduleId,
    },
    /// What came of its times, the latest first.
    Runs {
        /// Its id.
        id: ScheduleId,
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Delete a schedule with its history. What its turns did stays.
    Delete {
        /// Its id.
        id: ScheduleId,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleNew {
    /// What to say to the agent at each time.
    pub(crate) input: String,
    #[command(flatten)]
    pub(crate) when: ScheduleWhen,
    /// The zone whose clock the cron line is about, such as Europe/Zurich; UTC without.
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub(crate) time_zone: Option<String>,
    /// The first time of the interval, such as 2026-12-01T09:00:00Z.
    #[arg(long, value_name = "TIME", requires = "every")]
    pub(crate) from: Option<String>,
    /// The session that its turns go into. Without, each goes into a session of its own.
    #[arg(long, value_name = "ID", conflicts_with = "agent")]
    pub(crate) session: Option<SessionId>,
    /// The agent of sessions that it makes.
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<AgentName>,
    /// A title for people.
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// What becomes of times that were missed: passed over, the last made up for, or all of them.
    #[arg(long, value_enum, default_value_t = Misfire::Once, value_name = "WHAT")]
    pub(crate) misfire: Misfire,
    /// What becomes of a time while the turn before is at work.
    #[arg(long, value_enum, default_value_t = IfBusy::Queue, value_name = "WHAT")]
    pub(crate) if_busy: IfBusy,
    /// It ends when it has fired as often.
    #[arg(long, value_name = "N")]
    pub(crate) max_runs: Option<u64>,
    /// It waits to be resumed.
    #[arg(long)]
    pub(crate) paused: bool,
}

/// When a schedule fires.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ScheduleWhen {
    /// By a cron line: minute, hour, day of the month, month, day of the week, with the second before them or without.
    #[arg(long, value_name = "LINE")]
    pub(crate) cron: Option<String>,
    /// At an interval, such as 6h.
    #[arg(long, value_name = "SPAN")]
    pub(crate) every: Option<String>,
    /// Once, then: 2026-12-01T09:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
}

/// What becomes of times that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Misfire {
    /// They are passed over.
    Skip,
    /// The last of them is made up for.
    Once,
    /// Each of them is, the last 16 at most.
    All,
}

/// What becomes of a time while the turn before is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IfBusy {
    /// The turn waits for its turn.
    Queue,
    /// The time is skipped.
    Skip,
}
