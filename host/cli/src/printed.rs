//! What a component writes beside its result, for its author.

use crate::out::printable;
use fumehood_core::event::{EventBody, OutputChannel};
use serde::Serialize;
use std::fmt;

/// What was written to one channel.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Printed {
    channel: OutputChannel,
    text: String,
}

/// What a call wrote, by its events: pieces for one channel that follow each other are one.
pub(crate) fn of(events: &[EventBody]) -> Vec<Printed> {
    let mut printed: Vec<Printed> = Vec::new();
    for event in events {
        let EventBody::ToolOutput { channel, chunk, .. } = event else {
            continue;
        };
        match printed.last_mut() {
            Some(last) if last.channel == *channel => last.text.push_str(chunk),
            _ => printed.push(Printed {
                channel: channel.clone(),
                text: chunk.clone(),
            }),
        }
    }
    printed
}

/// For people: nothing that a terminal would act on.
impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channel = match &self.channel {
            OutputChannel::Stdout => "stdout",
            OutputChannel::Stderr => "stderr",
            OutputChannel::Named(name) => name,
        };
        write!(f, "it wrote to {}:", printable(channel))?;
        let lines = self.text.lines().map(printable).filter(|line| !line.is_empty());
        lines.into_iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::id::CallId;

    #[test]
    fn pieces_of_a_channel_are_one_and_nothing_in_them_reaches_a_terminal() {
        let wrote = |channel: OutputChannel, chunk: &str| EventBody::ToolOutput {
            call: CallId::new(),
            channel,
            chunk: chunk.into(),
            truncated: false,
        };
        let events = [
            wrote(OutputChannel::Stdout, "one "),
            wrote(OutputChannel::Stdout, "two\n\n\u{1b}[31mred"),
            wrote(OutputChannel::Stderr, "a mishap"),
        ];
        let printed: Vec<String> = of(&events).iter().map(ToString::to_string).collect();
        assert_eq!(printed.len(), 2, "{printed:?}");
        assert!(
            printed[0].starts_with("it wrote to stdout:\n  one two\n  "),
            "{printed:?}"
        );
        assert!(!printed[0].contains('\u{1b}'), "{printed:?}");
        assert_eq!(printed[1], "it wrote to stderr:\n  a mishap");
    }
}
