//! How many tokens the models that many use take, for operators who don't say.
//!
//! What counts is what may be sent: where a provider counts the answer apart, the answer is not in these numbers. A name that is
//! not here gives nothing; the operator's `context_window` comes before all of this.

/// The beginning of a model's name, and the tokens it takes. Of several that fit, the longest decides.
const WINDOWS: &[(&str, u64)] = &[
    ("gpt-5", 272_000),
    ("gpt-5-chat", 128_000),
    ("gpt-4.1", 1_047_576),
    ("gpt-4o", 128_000),
    ("gpt-4-turbo", 128_000),
    ("gpt-4", 8_192),
    ("gpt-3.5-turbo", 16_385),
    ("gpt-oss", 131_072),
    ("chatgpt-4o", 128_000),
    ("o1", 200_000),
    ("o1-mini", 128_000),
    ("o3", 200_000),
    ("o4-mini", 200_000),
    ("claude-", 200_000),
    ("gemini-", 1_048_576),
    ("gemini-1.0", 32_760),
    ("gemma-3", 128_000),
    ("deepseek-", 128_000),
    ("mistral-large", 128_000),
    ("grok-4", 256_000),
    ("grok-3", 131_072),
];

/// The window of a model, if it is known. A path before the name, as routers of models write it, is passed over.
pub(crate) fn known(model: &str) -> Option<u64> {
    let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    WINDOWS
        .iter()
        .filter(|(beginning, _)| name.starts_with(beginning))
        .max_by_key(|(beginning, _)| beginning.len())
        .map(|(_, tokens)| *tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_that_fits_decides() {
        for (model, tokens) in [
            ("gpt-5", Some(272_000)),
            ("gpt-5-chat-latest", Some(128_000)),
            ("gpt-4o-mini", Some(128_000)),
            ("gpt-4-0613", Some(8_192)),
            ("anthropic/claude-sonnet-4-5", Some(200_000)),
            ("Gemini-2.5-Pro", Some(1_048_576)),
            ("llama3.2", None),
            ("", None),
        ] {
            assert_eq!(known(model), tokens, "{model}");
        }
    }
}
