//! Sizes, spans of time and rates as people write them: `64MiB`, `500ms`, `60/min`, `1GiB/hour`.
//!
//! Each type prints a text that parses to the same value. A bad text is refused with what is accepted.

use crate::text_serde::{as_text, shown};
use std::{fmt, str::FromStr, time::Duration};

/// Why a text is not a quantity of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind}: {accepted}")]
pub struct ParseQuantityError {
    kind: &'static str,
    text: String,
    accepted: &'static str,
}

/// A number of bytes. Text: `64MiB`, `256KiB`, `1GiB`, `1MB`, `500kB`, `1024`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const MORE_SIZE_UNITS: [(&str, u64); 5] = [
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("", 1),
];

impl ByteSize {
    /// `n` KiB, saturating.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 10))
    }

    /// `n` MiB, saturating.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes, or the most this machine can address.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = largest_exact(self.0, &SIZE_UNITS).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl FromStr for ByteSize {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        number_and_unit(text)
            .and_then(|(number, unit)| scaled(number, unit, SIZE_UNITS.iter().chain(&MORE_SIZE_UNITS)))
            .map(Self)
            .ok_or_else(|| ParseQuantityError {
                kind: "a size",
                text: shown(text),
                accepted: "write a whole number and a unit, as in `64MiB`, `256KiB`, `1GiB`, `1MB`, `500kB`, or plain bytes",
            })
    }
}

as_text!(
    ByteSize,
    "a size such as \"64MiB\", \"256KiB\", \"1MB\", or a number of bytes"
);

/// A span of time in whole milliseconds. Text: `500ms`, `2s`, `10m`, `1h`, `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    millis: u64,
}

const SPAN_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl Span {
    /// `millis` milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// `secs` seconds, saturating.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self {
            millis: secs.saturating_mul(1_000),
        }
    }

    /// In milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// As the standard library has it.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = largest_exact(self.millis, &SPAN_UNITS).unwrap_or(("s", 1_000));
        write!(f, "{}{unit}", self.millis / size)
    }
}

impl FromStr for Span {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        number_and_unit(text)
            .and_then(|(number, unit)| scaled(number, unit, &SPAN_UNITS))
            .map(Self::from_millis)
            .ok_or_else(|| ParseQuantityError {
                kind: "a span of time",
                text: shown(text),
                accepted: "write a whole number and a unit, as in `500ms`, `2s`, `10m`, `1h`, `1d`",
            })
    }
}

as_text!(
    Span,
    "a span of time such as \"500ms\", \"2s\", \"10m\", \"1h\" (with its unit)"
);

/// How many times in how long; neither is zero. Text: `10/s`, `60/min`, `1000/hour`, `5/10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    per: Span,
}

const RATE_UNITS: [(&str, Span); 4] = [
    ("s", Span::from_secs(1)),
    ("min", Span::from_secs(60)),
    ("hour", Span::from_secs(3_600)),
    ("day", Span::from_secs(86_400)),
];

impl Rate {
    /// `count` times in every `per`; `None` if either is zero.
    #[must_use]
    pub const fn new(count: u32, per: Span) -> Option<Self> {
        if count == 0 || per.millis == 0 {
            None
        } else {
            Some(Self { count, per })
        }
    }

    /// `count` times a second, at least once.
    #[must_use]
    pub const fn per_second(count: u32) -> Self {
        Self {
            count: if count == 0 { 1 } else { count },
            per: Span::from_secs(1),
        }
    }

    /// How many times; at least 1.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// In how long; not zero.
    #[must_use]
    pub const fn per(self) -> Span {
        self.per
    }

    /// The one that lets less through in the long run; of two equal ones, the one with the smaller burst.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        let ours = u128::from(self.count) * u128::from(other.per.millis);
        let theirs = u128::from(other.count) * u128::from(self.per.millis);
        if (ours, self.count) <= (theirs, other.count) {
            self
        } else {
            other
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RATE_UNITS.iter().find(|(_, span)| *span == self.per) {
            Some((name, _)) => write!(f, "{}/{name}", self.count),
            None => write!(f, "{}/{}", self.count, self.per),
        }
    }
}

impl FromStr for Rate {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        parse_rate(text).ok_or_else(|| ParseQuantityError {
            kind: "a rate",
            text: shown(text),
            accepted: "write a count above zero and a span, as in `10/s`, `60/min`, `1000/hour`, `500/day`, `5/10s`",
        })
    }
}

as_text!(Rate, "a rate such as \"10/s\", \"60/min\", \"1000/hour\"");

fn parse_rate(text: &str) -> Option<Rate> {
    let (count, per) = text.trim().split_once('/')?;
    let (count, "") = number_and_unit(count)? else {
        return None;
    };
    Rate::new(u32::try_from(count).ok()?, rate_span(per)?)
}

fn rate_span(text: &str) -> Option<Span> {
    Some(match text.trim() {
        "s" | "sec" | "second" => Span::from_secs(1),
        "m" | "min" | "minute" => Span::from_secs(60),
        "h" | "hour" => Span::from_secs(3_600),
        "d" | "day" => Span::from_secs(86_400),
        other => other.parse().ok()?,
    })
}

/// How many bytes in how long; neither is zero. Text: `1GiB/hour`, `500MB/day`, `64KiB/10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRate {
    size: ByteSize,
    per: Span,
}

impl ByteRate {
    /// `size` in every `per`; `None` if either is zero.
    #[must_use]
    pub const fn new(size: ByteSize, per: Span) -> Option<Self> {
        if size.0 == 0 || per.millis == 0 {
            None
        } else {
            Some(Self { size, per })
        }
    }

    /// How many bytes; at least 1.
    #[must_use]
    pub const fn size(self) -> ByteSize {
        self.size
    }

    /// In how long; not zero.
    #[must_use]
    pub const fn per(self) -> Span {
        self.per
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RATE_UNITS.iter().find(|(_, span)| *span == self.per) {
            Some((name, _)) => write!(f, "{}/{name}", self.size),
            None => write!(f, "{}/{}", self.size, self.per),
        }
    }
}

impl FromStr for ByteRate {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let parsed = text.trim().split_once('/').and_then(|(size, per)| {
            let per = rate_span(per)?;
            Self::new(size.parse().ok()?, per)
        });
        parsed.ok_or_else(|| ParseQuantityError {
            kind: "a rate of bytes",
            text: shown(text),
            accepted: "write a size above zero and a span, as in `1GiB/hour`, `500MB/day`, `64KiB/10s`",
        })
    }
}

as_text!(ByteRate, "a rate of bytes such as \"1GiB/hour\", \"500MB/day\"");

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn scaled<'u>(number: u64, unit: &str, units: impl IntoIterator<Item = &'u (&'static str, u64)>) -> Option<u64> {
    let (_, size) = units.into_iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*size)
}

/// The first unit, from the largest down, that `value` is a whole number of; none for zero.
fn largest_exact(value: u64, units: &[(&'static str, u64)]) -> Option<(&'static str, u64)> {
    units
        .iter()
        .find(|(_, size)| value != 0 && value.is_multiple_of(*size))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("256KiB", 256 << 10),
            ("1 GiB", 1 << 30),
            ("1MB", 1_000_000),
            ("500kB", 500_000),
            ("500KB", 500_000),
            ("17", 17),
            ("17B", 17),
            (" 0 ", 0),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn a_bad_quantity_is_refused_with_what_is_accepted() {
        for text in [
            "",
            "MiB",
            "1.5MiB",
            "-1",
            "1mib",
            "1 M",
            "18446744073709551615KiB",
            "1KiBs",
            "٣B",
        ] {
            let message = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(message.contains("64MiB"), "{message}");
        }
        for text in ["", "2", "2 seconds", "1.5s", "s", "-1s", "1us"] {
            let message = text.parse::<Span>().unwrap_err().to_string();
            assert!(message.contains("500ms"), "{message}");
        }
        for text in [
            "",
            "60",
            "/min",
            "0/min",
            "60/",
            "60/0s",
            "60/fortnight",
            "60s/min",
            "5000000000/s",
        ] {
            let message = text.parse::<Rate>().unwrap_err().to_string();
            assert!(message.contains("60/min"), "{message}");
        }
        for text in [
            "",
            "1GiB",
            "/h",
            "0/h",
            "1GiB/",
            "1GiB/0s",
            "1.5GiB/h",
            "1gib/h",
            "1GiB/fortnight",
        ] {
            let message = text.parse::<ByteRate>().unwrap_err().to_string();
            assert!(message.contains("1GiB/hour"), "{message}");
        }
    }

    #[test]
    fn spans_and_rates_print_their_usual_form() {
        for text in ["500ms", "2s", "90s", "10m", "1h", "3d", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["10/s", "60/min", "1000/hour", "5/day", "5/10s", "1/250ms"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["1GiB/hour", "500B/day", "64KiB/10s"] {
            assert_eq!(text.parse::<ByteRate>().unwrap().to_string(), text);
        }
        assert_eq!("1GiB/h".parse::<ByteRate>(), "1 GiB / 3600s".parse());
    }

    #[test]
    fn the_stricter_rate_is_the_one_that_lets_less_through() {
        let rate = |text: &str| text.parse::<Rate>().unwrap();
        assert_eq!(rate("60/min").stricter(rate("2/s")), rate("60/min"));
        assert_eq!(rate("100/hour").stricter(rate("60/min")), rate("100/hour"));
        assert_eq!(rate("60/min").stricter(rate("1/s")), rate("1/s"));
    }

    #[test]
    fn a_bare_number_is_bytes_but_not_a_span() {
        assert_eq!(serde_json::from_str::<ByteSize>("4096").unwrap(), ByteSize::kib(4));
        assert!(serde_json::from_str::<Span>("30").is_err());
        assert!(serde_json::from_str::<ByteSize>("-1").is_err());
        assert!(serde_json::from_str::<ByteSize>("1.5").is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same(bytes: u64, millis: u64, count in 1u32.., per in 1u64..) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            prop_assert_eq!(Span::from_millis(millis).to_string().parse(), Ok(Span::from_millis(millis)));
            let rate = Rate::new(count, Span::from_millis(per)).unwrap();
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            if let Some(rate) = ByteRate::new(ByteSize(bytes), Span::from_millis(per)) {
                prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            }
        }
    }
}
