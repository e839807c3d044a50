//! A decoder of server-sent events with a cap on every length.
//!
//! Follows the WHATWG event-stream format: one byte-order mark at the start is skipped; lines end in LF, CR or CRLF; `data`
//! lines of one event are joined by LF; comments and unknown fields are passed over; an event that the stream's end cuts
//! off is not delivered. Any way of cutting the bytes into chunks gives the same frames. Not kept: `id` and `retry`, as a model
//! stream can't be resumed.

use std::collections::VecDeque;

/// The caps. Passing one is an error, after which the decoder is of no more use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of one line.
    pub(crate) line: usize,
    /// Bytes of one event's data, all lines together.
    pub(crate) event: usize,
    /// Bytes of the whole stream.
    pub(crate) total: u64,
}

impl Default for Limits {
    /// Room for the longest that providers send: some repeat the whole request and answer in their last event.
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            line: 8 * MIB,
            event: 8 * MIB,
            total: 256 * MIB as u64,
        }
    }
}

/// A cap was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event stream passed its limit")]
pub(crate) struct TooLong;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// An event with data.
    Event {
        /// The `event` field; empty when there was none.
        name: String,
        /// The `data` lines.
        data: String,
    },
    /// A comment: the server is alive.
    Comment,
}

#[derive(Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    total: u64,
    line: Vec<u8>,
    start: Start,
    /// The last byte was a CR: an LF right after it belongs to the same line end.
    after_cr: bool,
    name: String,
    data: Option<String>,
    frames: VecDeque<Frame>,
}

/// Where in the stream the decoder is, as far as the byte-order mark matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    FirstLine,
    Later,
}

impl Decoder {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            total: 0,
            line: Vec::new(),
            start: Start::FirstLine,
            after_cr: false,
            name: String::new(),
            data: None,
            frames: VecDeque::new(),
        }
    }

    /// Takes the next bytes. The frames they complete wait for [`Decoder::next`]; those before an error too.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        // THREAT[T-net-body-flood]: a provider, or what stands in its place, can't fill the host's memory.
        self.total = self.total.saturating_add(bytes.len() as u64);
        if self.total > self.limits.total {
            return Err(TooLong);
        }
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > self.limits.line {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { break };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let mut line = std::mem::take(&mut self.line);
            self.take_line(&line)?;
            line.clear();
            self.line = line;
        }
        Ok(())
    }

    /// The next whole frame.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    fn take_line(&mut self, mut line: &[u8]) -> Result<(), TooLong> {
        if std::mem::replace(&mut self.start, Start::Later) == Start::FirstLine {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            if let Some(data) = self.data.take() {
                self.frames.push_back(Frame::Event { name, data });
            }
            return Ok(());
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(0) => {
                // Many comments in one chunk say no more than one.
                if self.frames.back() != Some(&Frame::Comment) {
                    self.frames.push_back(Frame::Comment);
                }
                return Ok(());
            }
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &b""[..]),
        };
        match field {
            b"data" => self.add_data(&String::from_utf8_lossy(value))?,
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
        Ok(())
    }

    fn add_data(&mut self, value: &str) -> Result<(), TooLong> {
        let held = self.data.as_ref().map_or(0, |data| data.len() + 1);
        if held + value.len() > self.limits.event {
            return Err(TooLong);
        }
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => self.data = Some(value.to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Limits = Limits {
        line: 64,
        event: 100,
        total: 4096,
    };

    fn decode<'a>(limits: Limits, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Result<(), TooLong>) {
        let mut decoder = Decoder::new(limits);
        let result = chunks.into_iter().try_for_each(|chunk| decoder.push(chunk));
        (std::iter::from_fn(|| decoder.next()).collect(), result)
    }

    fn event(name: &str, data: &str) -> Frame {
        Frame::Event {
            name: name.into(),
            data: data.into(),
        }
    }

    #[test]
    fn every_line_end_gives_the_same_events() {
        for end in ["\n", "\r", "\r\n"] {
            let text = [
                "event: a", "data: 1", "data:2", "data", "", ": hi", "data:  x", "id: 7", "retry: 3", "",
            ]
            .join(end)
                + end;
            let (frames, result) = decode(SMALL, [text.as_bytes()]);
            assert_eq!(
                frames,
                [event("a", "1\n2\n"), Frame::Comment, event("", " x")],
                "{end:?}"
            );
            assert_eq!(result, Ok(()));
        }
    }

    #[test]
    fn one_byte_order_mark_at_the_start_is_skipped() {
        let (frames, _) = decode(SMALL, ["\u{feff}data: 1\n\n\u{feff}data: 2\n\n".as_bytes()]);
        assert_eq!(frames, [event("", "1")]);
    }

    #[test]
    fn an_event_without_data_or_without_its_blank_line_is_not_delivered() {
        let (frames, _) = decode(SMALL, [&b"event: a\n\ndata: 1\n"[..]]);
        assert_eq!(frames, []);
    }

    #[test]
    fn a_name_does_not_outlive_its_event() {
        let (frames, _) = decode(SMALL, [&b"event: a\n\ndata: 1\n\n"[..]]);
        assert_eq!(frames, [event("", "1")]);
    }

    #[test]
    fn a_long_line_is_an_error_even_when_it_never_ends() {
        let drip = vec![&b"x"[..]; 65];
        assert_eq!(decode(SMALL, drip).1, Err(TooLong));
    }

    #[test]
    fn a_long_event_of_short_lines_is_an_error_and_what_came_before_is_kept() {
        let mut text = b"data: ok\n\n".to_vec();
        text.extend(b"data: 0123456789\n".repeat(20));
        assert_eq!(decode(SMALL, [&text[..]]), (vec![event("", "ok")], Err(TooLong)));
    }

    #[test]
    fn a_long_stream_of_short_events_is_an_error() {
        let text = b"data: 1\n\n".repeat(1000);
        assert_eq!(decode(SMALL, text.chunks(9)).1, Err(TooLong));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let (frames, _) = decode(SMALL, [&b"data: a\xFFb\n\n"[..]]);
        assert_eq!(frames, [event("", "a\u{fffd}b")]);
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("data".to_owned()),
            "data: ?[a-zé€😀:{} ]{0,12}",
            "event: ?[a-z.]{0,6}",
            ":[a-z ]{0,6}",
            "[a-zé]{1,6}",
        ]
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            lines in prop::collection::vec((line(), prop_oneof![Just("\n"), Just("\r"), Just("\r\n")]), 0..30),
            bom in any::<bool>(),
            cuts in prop::collection::vec(1_usize..9, 1..40),
        ) {
            let mut text = String::from(if bom { "\u{feff}" } else { "" });
            for (line, end) in &lines {
                text.push_str(line);
                text.push_str(end);
            }
            let mut rest = text.as_bytes();
            let mut chunks = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            prop_assert_eq!(decode(SMALL, chunks), decode(SMALL, [text.as_bytes()]));
        }

        #[test]
        fn no_bytes_break_the_decoder_or_pass_its_caps(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            for frame in decode(SMALL, bytes.chunks(7)).0 {
                if let Frame::Event { name, data } = frame {
                    // Each byte that is not UTF-8 becomes three.
                    prop_assert!(name.len() <= SMALL.line * 3 && data.len() <= SMALL.event);
                }
            }
        }

        #[test]
        fn events_written_plainly_come_back(events in prop::collection::vec(("[a-z]{0,5}", "[a-zé{}:\n ]{1,20}"), 0..20)) {
            let mut text = String::new();
            for (name, data) in &events {
                text.push_str(&format!("event: {name}\n"));
                for line in data.split('\n') {
                    text.push_str(&format!("data: {line}\n"));
                }
                text.push('\n');
            }
            let expected: Vec<_> = events.iter().map(|(name, data)| event(name, data)).collect();
            prop_assert_eq!(decode(SMALL, [text.as_bytes()]).0, expected);
        }
    }
}
