//! What a model's tokens cost.

use crate::{money::Money, turn::Usage};
use serde::{Deserialize, Serialize};

/// A price table: money per million tokens, in whatever currency the operator keeps all of them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of tokens of the request.
    pub input: Money,
    /// Of tokens of the answer.
    pub output: Money,
    /// Of tokens of the request that came from the provider's cache. Absent: as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<Money>,
    /// Of tokens of the request that were written to the provider's cache. Absent: as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Money>,
    /// Of tokens of reasoning. Absent: as `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Money>,
}

const MILLION: u128 = 1_000_000;

impl Price {
    /// What so many tokens cost, rounded up to a millionth. `None` where the provider counted the request or the answer not: what is
    /// not known costs nothing and is not shown as nothing.
    #[must_use]
    pub fn of(&self, usage: Usage) -> Option<Money> {
        let (input, output) = (usage.input_tokens?, usage.output_tokens?);
        let cached = usage.cached_input_tokens.unwrap_or(0).min(input);
        let written = usage.cache_write_tokens.unwrap_or(0).min(input - cached);
        let reasoning = usage.reasoning_tokens.unwrap_or(0).min(output);
        let parts = [
            (input - cached - written, self.input),
            (cached, self.cached_input.unwrap_or(self.input)),
            (written, self.cache_write.unwrap_or(self.input)),
            (output - reasoning, self.output),
            (reasoning, self.reasoning.unwrap_or(self.output)),
        ];
        // In millionths of a millionth: a few tokens of a cheap model are not nothing.
        let cost = parts.into_iter().fold(0_u128, |sum, (tokens, price)| {
            sum.saturating_add(u128::from(tokens) * u128::from(price.millionths()))
        });
        let millionths = u64::try_from(cost.div_ceil(MILLION)).unwrap_or(u64::MAX);
        Some(Money::from_millionths(millionths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price {
        input: Money::from_millionths(3_000_000),
        output: Money::from_millionths(15_000_000),
        cached_input: Some(Money::from_millionths(300_000)),
        cache_write: None,
        reasoning: None,
    };

    fn usage(input: u64, output: u64) -> Usage {
        Usage {
            input_tokens: Some(input),
            output_tokens: Some(output),
            ..Usage::default()
        }
    }

    fn millionths(price: Price, usage: Usage) -> Option<u64> {
        price.of(usage).map(Money::millionths)
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        assert_eq!(millionths(PRICE, usage(1_000_000, 0)), Some(3_000_000));
        assert_eq!(millionths(PRICE, usage(1000, 100)), Some(3000 + 1500));
        let cached = Usage {
            cached_input_tokens: Some(800),
            ..usage(1000, 100)
        };
        assert_eq!(millionths(PRICE, cached), Some(600 + 240 + 1500));
        let written = Usage {
            cache_write_tokens: Some(100),
            ..cached
        };
        assert_eq!(
            millionths(PRICE, written),
            Some(600 + 240 + 1500),
            "as the rest of the request"
        );
        let with_writes = Price {
            cache_write: Some(Money::from_millionths(3_750_000)),
            ..PRICE
        };
        assert_eq!(millionths(with_writes, written), Some(300 + 240 + 375 + 1500));
        let reasoned = Usage {
            reasoning_tokens: Some(60),
            ..usage(0, 100)
        };
        assert_eq!(millionths(PRICE, reasoned), Some(1500), "as the rest of the answer");
        let dearer = Price {
            reasoning: Some(Money::from_millionths(20_000_000)),
            ..PRICE
        };
        assert_eq!(millionths(dearer, reasoned), Some(600 + 1200));
    }

    #[test]
    fn what_is_not_counted_has_no_cost_and_what_is_counted_as_nothing_costs_nothing() {
        let half = Usage {
            output_tokens: None,
            ..usage(5, 0)
        };
        assert_eq!(millionths(PRICE, half), None);
        assert_eq!(millionths(PRICE, Usage::default()), None);
        assert_eq!(millionths(PRICE, usage(0, 0)), Some(0));
    }

    #[test]
    fn a_cost_is_rounded_up_and_never_overflows() {
        let cheap = Price {
            input: Money::from_millionths(1),
            output: Money::from_millionths(1),
            cached_input: None,
            cache_write: None,
            reasoning: None,
        };
        assert_eq!(millionths(cheap, usage(1, 0)), Some(1));
        let dear = Price {
            input: Money::from_millionths(u64::MAX),
            ..cheap
        };
        assert_eq!(
            millionths(dear, usage(u64::MAX, u64::MAX)),
            Some(Money::MOST.millionths())
        );
    }

    #[test]
    fn counts_that_contradict_each_other_cost_no_less() {
        let odd = Usage {
            cached_input_tokens: Some(2000),
            cache_write_tokens: Some(2000),
            reasoning_tokens: Some(2000),
            ..usage(1000, 100)
        };
        assert_eq!(millionths(PRICE, odd), Some(300 + 1500));
    }

    #[test]
    fn a_table_is_read_from_numbers_and_takes_no_other_key() {
        let read: Price = serde_json::from_str(r#"{"input": 3, "output": 15, "cached_input": 0.3}"#).unwrap();
        assert_eq!(read, PRICE);
        let read: Price = serde_json::from_str(r#"{"input": 3, "output": 15, "cache_write": 3.75}"#).unwrap();
        assert_eq!(read.cache_write, Some(Money::from_millionths(3_750_000)));
        for text in [
            r#"{"input": 3}"#,
            r#"{"input": 3, "output": 15, "tax": 1}"#,
            r#"{"input": -3, "output": 15}"#,
        ] {
            assert!(serde_json::from_str::<Price>(text).is_err(), "{text}");
        }
    }
}
