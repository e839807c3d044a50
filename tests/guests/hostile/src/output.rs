//! Saying too much, and saying it wrong.

use fumehood::{Content, Failure, Output};
use std::{io::Write as _, time::Duration};

/// Returns the text.
#[fumehood::tool(effect = "pure", read_only)]
pub fn echo(
    /// What to return.
    text: String,
) -> String {
    text
}

/// Writes to standard output.
#[fumehood::tool(effect = "pure", read_only)]
pub fn flood_stdout(
    /// How much, in KiB.
    kib: u64,
) -> Result<String, Failure> {
    let line = [b'x'; 1023];
    let mut stdout = std::io::stdout().lock();
    for _ in 0..kib {
        stdout.write_all(&line)?;
        stdout.write_all(b"\n")?;
    }
    stdout.flush()?;
    Ok(format!("wrote {kib} KiB"))
}

/// Returns a large result.
#[fumehood::tool(effect = "pure", read_only)]
pub fn huge_output(
    /// How large, in KiB.
    kib: u32,
) -> String {
    "y".repeat(kib as usize * 1024)
}

/// Reports progress very often.
#[fumehood::tool(effect = "pure", read_only)]
pub fn progress_flood(
    /// How often.
    n: u32,
) -> String {
    for i in 0..n {
        fumehood::progress::report(
            format!("step {i} of {n}"),
            Some(f32::from(u16::try_from(i % 1000).unwrap_or(0)) / 1000.0),
        );
    }
    format!("reported {n} times")
}

/// Returns deeply nested JSON.
#[fumehood::tool(effect = "pure", read_only)]
pub fn deep_json(
    /// How many arrays within each other.
    depth: u32,
) -> Content {
    let depth = depth as usize;
    Content::Json(format!("{}{}", "[".repeat(depth), "]".repeat(depth)))
}

/// Returns JSON content that is not JSON.
#[fumehood::tool(effect = "pure", read_only)]
pub fn bad_output() -> Content {
    Content::Json("{not json".to_owned())
}

/// Returns a structured result that is not JSON.
#[fumehood::tool(effect = "pure", read_only)]
pub fn bad_structured() -> Output {
    Output {
        structured: Some("][".to_owned()),
        ..Output::new("see structured")
    }
}

/// Fails as asked.
#[fumehood::tool(effect = "pure", read_only)]
pub fn fail(
    /// `invalid_arguments`, `denied`, `not_found`, `unavailable`, `failed`, or `is_error` for a result that says it is one.
    kind: String,
    /// What to say.
    message: Option<String>,
) -> Result<Output, Failure> {
    let message = message.unwrap_or_else(|| "as asked".to_owned());
    match kind.as_str() {
        "invalid_arguments" => Err(Failure::invalid_arguments(message)),
        "denied" => Err(Failure::denied(message)),
        "not_found" => Err(Failure::not_found(message)),
        "unavailable" => Err(Failure::unavailable(message, Some(Duration::from_millis(1500)))),
        "is_error" => Ok(Output::new(message).as_error()),
        _ => Err(Failure::failed(message)),
    }
}
