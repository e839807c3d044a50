//! What was typed, read; and what is wrong with it, told without what may be a password or a key in it.

use super::Cli;
use clap::{
    Parser as _,
    error::{ContextKind, ContextValue, Error},
};

/// The command line. What is no such ends the process, with exit code 2.
pub(crate) fn read() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| without_secrets(error).exit())
}

/// The same error, where a URL with a user or a query is shown by its scheme alone.
fn without_secrets(mut error: Error) -> Error {
    let shown = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => without_secret(value),
        _ => None,
    };
    if let Some(shown) = shown {
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
    error
}

fn without_secret(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once("://")?;
    let user = rest.contains('@') && !rest.contains("@sha256:");
    (user || rest.contains('?')).then(|| format!("{scheme}://…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_or_a_key_in_a_url_is_not_repeated() {
        for secret in [
            "https://user:s3cret@a.example/x.wasm",
            "https://a.example/x.wasm?sig=s3cret",
            "oci://user:s3cret@ghcr.io/acme/x",
        ] {
            let error = Cli::try_parse_from(["fumehood", "tool", "add", secret]).err().unwrap();
            let told = without_secrets(error).to_string();
            assert!(told.contains("://…") && !told.contains("s3cret"), "{told}");
        }
        let plain = Cli::try_parse_from(["fumehood", "tool", "add", "oci://ghcr.io/a@sha256:00"])
            .err()
            .unwrap();
        assert!(without_secrets(plain).to_string().contains("ghcr.io/a@sha256:00"));
    }
}
