//! Watching a turn: what a person sees of it in the terminal, while it runs.
//!
//! The events of the turn become [`Draw`]s, purely ([`view`]); a [`Screen`] draws them. On a terminal, what runs has a moving
//! mark and the time it has taken, several at once below what is settled. Elsewhere there are plain lines and no control
//! sequences. The answer goes to standard output, all else to standard error.
//!
//! What is shown is bounded: of long texts the beginning, of many things that run at once as many as there are lines. The
//! journal has the rest (`fumehood session events`).

mod frame;
mod line;
mod screen;
mod view;

pub(crate) use line::{Line, Mark};
pub(crate) use screen::{Screen, TICK};
pub(crate) use view::View;

use fumehood_core::id::CallId;

/// How an event changes what a person sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Draw {
    /// A piece of the answer, shown at once.
    Answer(String),
    /// The answer's text is whole.
    AnswerEnds,
    /// A line that stays.
    Settled(Line),
    /// Something begins to run.
    Begins(Running, Line),
    /// What runs says how far it is.
    Says(Running, String),
    /// It runs no more.
    Ends(Running),
    /// Nothing runs any more.
    AllEnd,
}

/// Something that takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    /// The model.
    Model,
    /// Summing up the conversation.
    Compaction,
    /// A call.
    Call(CallId),
}
