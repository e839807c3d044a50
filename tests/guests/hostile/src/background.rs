//! Working in the background, where that is granted.

use fumehood::{Failure, Output, http, progress};

/// Works until its server answers. What it does may be done once.
#[fumehood::tool(open_world)]
pub fn bg_once(
    /// What it says when it is done.
    say: String,
    /// The server.
    url: Option<String>,
) -> Result<Output, Failure> {
    work(&say, url)
}

/// The same; what it does may be done again.
#[fumehood::tool(open_world, effect = "idempotent")]
pub fn bg_again(
    /// What it says when it is done.
    say: String,
    /// The server.
    url: Option<String>,
) -> Result<Output, Failure> {
    work(&say, url)
}

fn work(say: &str, url: Option<String>) -> Result<Output, Failure> {
    progress::report("begun", Some(0.25));
    progress::emit("log", "the first line\n");
    if let Some(url) = url {
        http::get(url).send()?.ok()?;
    }
    progress::report("nearly there", Some(0.75));
    Ok(Output::new(say))
}
