//! `wasi:logging/logging`: messages become the call's output on the channel `log`, with their level and context before them. They need no
//! grant and count as `progress.emit` does.

use crate::{
    state::CallState,
    witness::{Interface, Outcome, Question, bytes},
};
use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Lift, Linker},
};

const VERSION: &str = "wasi:logging/logging@0.1.0-draft";
const CHANNEL: &str = "log";

#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by lifting alone")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

pub(crate) fn add_to_linker(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    linker.instance(VERSION)?.func_wrap(
        "log",
        |store: StoreContextMut<'_, CallState>, (level, context, message): (Level, String, String)| {
            let separator = if context.is_empty() { "" } else { " " };
            let line = format!("{}{separator}{context}: {message}\n", level.word());
            let state = store.data();
            let question = Question::new(state.ports.witness.as_ref(), Interface::Logging, || {
                (format!("log {} as {}", bytes(message.len()), level.word()), None)
            });
            state.log.emit(CHANNEL, &line)?;
            question.answer(|| Outcome::Done("passed on".to_owned()));
            Ok(())
        },
    )
}
