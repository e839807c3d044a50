//! TOML in, and errors that say where and what to do.

use crate::{lint::Step, suggest::nearest};
use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

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

/// Reads a TOML text.
///
/// # Errors
/// With the line, what is accepted there, and the key that was probably meant.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, TomlError> {
    toml::from_str(text).map_err(|error| TomlError {
        line: error.span().and_then(|span| line_at(text, span.start)),
        message: message_of(&error),
    })
}

/// What an error of the TOML reader says, on one line, with the word that was probably meant.
#[must_use]
pub fn message_of(error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', "; ");
    // serde's words for a key or a value that is none: the wrong one first, then those that there are.
    let mut quoted = message.split('`').skip(1).step_by(2);
    let known = message.starts_with("unknown field") || message.starts_with("unknown variant");
    match quoted.next().filter(|_| known) {
        Some(wrong) => {
            let hint = nearest(wrong, quoted);
            format!("{message}{hint}")
        }
        None => message,
    }
}

/// The line of what the steps lead to, or of the last part of the way that is there, counted from 1.
pub(crate) fn line_of(text: &str, steps: &[Step]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut table: Option<&DeTable<'_>> = Some(document.get_ref());
    let mut value: Option<&Spanned<DeValue<'_>>> = None;
    for step in steps {
        let next = match step {
            Step::Key(key) => table?
                .iter()
                .find(|(own, _)| own.get_ref().as_ref() == key)
                .map(|(own, value)| {
                    found = Some(own.span().start);
                    value
                }),
            Step::Item(index) => value.and_then(|value| value.get_ref().as_array()?.get(*index)),
        };
        let Some(next) = next else { break };
        // The span of an element of `[[…]]` is its head's; that of a table is its key's.
        if matches!(step, Step::Item(_)) {
            found = Some(next.span().start);
        }
        table = next.get_ref().as_table();
        value = Some(next);
        if table.is_none() && next.get_ref().as_array().is_none() {
            break;
        }
    }
    found.and_then(|start| line_at(text, start))
}

fn line_at(text: &str, offset: usize) -> Option<usize> {
    text.get(..offset).map(|before| before.matches('\n').count() + 1)
}
