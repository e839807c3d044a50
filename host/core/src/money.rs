//! Money: what model calls cost, in the currency of the operator's price tables.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// An amount of money, exact to a millionth and at most a thousand million. JSON and TOML: a number, like `0.25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(u64);

const MILLIONTHS: f64 = 1_000_000.0;
/// In millionths. Each amount up to it is written as a number and read back as itself.
const MOST: u64 = 1_000_000_000_000_000;

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The most there is.
    pub const MOST: Self = Self(MOST);

    /// So many millionths, or the most there is.
    #[must_use]
    pub const fn from_millionths(millionths: u64) -> Self {
        Self(if millionths < MOST { millionths } else { MOST })
    }

    /// In millionths.
    #[must_use]
    pub const fn millionths(self) -> u64 {
        self.0
    }

    /// The sum, or the most there is.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self::from_millionths(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let rest = format!("{rest:06}");
        let rest = rest.trim_end_matches('0');
        write!(f, "{whole}.{rest:0<2}")
    }
}

impl Serialize for Money {
    #[expect(clippy::cast_precision_loss, reason = "exact up to the most there is")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 as f64 / MILLIONTHS)
    }
}

impl<'de> Deserialize<'de> for Money {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie within"
    )]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const MOST: f64 = 1e9;
        let amount = f64::deserialize(deserializer)?;
        if (0.0..=MOST).contains(&amount) {
            Ok(Self((amount * MILLIONTHS).round() as u64))
        } else {
            Err(D::Error::custom("an amount of money is a number from 0 to 1000000000"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_read_and_written_as_a_number() {
        for (text, millionths) in [("0.25", 250_000), ("3", 3_000_000), ("0.000001", 1), ("0", 0)] {
            let amount: Money = serde_json::from_str(text).unwrap();
            assert_eq!(amount.millionths(), millionths);
            let back: Money = serde_json::from_str(&serde_json::to_string(&amount).unwrap()).unwrap();
            assert_eq!(back, amount);
        }
        for text in ["-1", "1e10", "\"1\"", "null"] {
            assert!(serde_json::from_str::<Money>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_amount_there_is_is_read_back_as_itself() {
        let most = Money::MOST.millionths();
        for amount in [most, most - 1, most - 999_999, most / 3, 1] {
            let amount = Money::from_millionths(amount);
            let text = serde_json::to_string(&amount).unwrap();
            assert_eq!(serde_json::from_str::<Money>(&text).unwrap(), amount, "{text}");
        }
        for more in [most + 1, u64::MAX] {
            assert_eq!(Money::from_millionths(more), Money::MOST);
        }
        assert_eq!(Money::MOST.plus(Money::from_millionths(1)), Money::MOST);
    }

    #[test]
    fn an_amount_is_shown_with_two_places_at_least() {
        let shown = |millionths| Money::from_millionths(millionths).to_string();
        assert_eq!(
            [shown(0), shown(1_500_000), shown(1_234_567), shown(20_000)],
            ["0.00", "1.50", "1.234567", "0.02"]
        );
    }
}
