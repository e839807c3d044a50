//! TOML in, and errors that say where and what to do.

use serde::de::DeserializeOwned;

/// Why a TOML text was refused: the line and the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", at(.line))]
pub struct TomlError {
    /// Counted from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong and what is accepted.
    pub message: String,
}

fn at(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!("line {line}: "))
}

pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, TomlError> {
    toml::from_str(text).map_err(|error| TomlError {
        line: error
            .span()
            .and_then(|span| text.get(..span.start))
            .map(|before| before.matches('\n').count() + 1),
        message: error.message().trim().replace('\n', "; "),
    })
}
