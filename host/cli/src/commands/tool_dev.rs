//! `fumehood tool dev [DIR] [-- TOOL JSON …]`: builds after each save, and calls or tests what was built, until Ctrl-C.
//!
//! What fails is told and waited out: the next save may mend it.

use crate::{
    args::{Cli, Command, Tool, ToolCall, ToolDev},
    commands::{tool_build, tool_call, tool_test},
    config::Loaded,
    kit::{Project, Watch, test},
    out::{Out, Style, printable, tell},
};
use anyhow::{Context as _, bail};
use clap::Parser as _;
use std::path::Path;

pub(crate) async fn dev(out: Out, loaded: &Loaded, args: &ToolDev) -> anyhow::Result<()> {
    // What can't be right at any time is said at once.
    let project = Project::find(&args.dir)?;
    if !args.call.is_empty() {
        call_of(&project.component(), &args.call)?;
    }
    let interrupted = tokio::signal::ctrl_c();
    tokio::select! {
        ended = rounds(out, loaded, args, &project.dir) => ended,
        interrupted = interrupted => {
            interrupted.context("cannot listen for Ctrl-C")?;
            tell("\n");
            Ok(())
        }
    }
}

/// One round after the other. Dropped, it stops what it runs.
async fn rounds(out: Out, loaded: &Loaded, args: &ToolDev, dir: &Path) -> anyhow::Result<()> {
    let mut watch = Watch::begin(dir)?;
    loop {
        if let Err(error) = Box::pin(round(out, loaded, args, dir)).await {
            tell(&printable(&format!("fumehood: {error:#}\n")));
        }
        let waits = out
            .on_errors()
            .style(Style::Dim, "waiting for a save; Ctrl-C ends this");
        tell(&format!("{waits}\n"));
        watch.saved().await?;
    }
}

async fn round(out: Out, loaded: &Loaded, args: &ToolDev, dir: &Path) -> anyhow::Result<()> {
    let project = Project::find(dir)?;
    let file = tool_build::built(out, loaded, &project).await?;
    if args.call.is_empty() {
        // Both, so that each save tells all that is wrong.
        let of_the_language = test(&project).await;
        let of_the_component = Box::pin(tool_test::of_built(out, loaded, &project.dir, &file)).await;
        let (of_the_language, of_the_component) = match (of_the_language, of_the_component) {
            (Err(error), Err(other)) => {
                tell(&printable(&format!("fumehood: {error:#}\n")));
                return Err(other);
            }
            (one, other) => (one?, other?),
        };
        if !(of_the_language && of_the_component) {
            bail!("tests failed; what they say is above");
        }
        return Ok(());
    }
    tool_call::call_file(out, loaded, &call_of(&file, &args.call)?).await?;
    Ok(())
}

/// `TOOL [JSON] [OPTIONS]` as `tool call` understands it for this file. Unless a grant is given, it may do all that it asks for: it is
/// its author who calls it.
fn call_of(file: &Path, call: &[String]) -> anyhow::Result<ToolCall> {
    let file = file
        .to_str()
        .context("the path of the folder is not UTF-8 text; take another")?;
    let words = ["fumehood", "tool", "call", file]
        .into_iter()
        .chain(call.iter().map(String::as_str));
    let cli = Cli::try_parse_from(words).map_err(|error| crate::fault::of_usage(error.to_string()))?;
    match cli.command {
        Command::Tool(Tool::Call(mut args)) => {
            args.yes = args.grant.is_none();
            Ok(args)
        }
        _ => bail!("give a tool and its arguments after `--`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> anyhow::Result<ToolCall> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        call_of(Path::new("/t/it.wasm"), &words)
    }

    #[test]
    fn what_follows_is_read_as_tool_call_reads_it() {
        let called = call(&["greet", r#"{"name":"x"}"#, "--secret", "KEY=v"]).unwrap();
        assert_eq!((&*called.component, &*called.tool), ("/t/it.wasm", "greet"));
        assert_eq!((called.yes, called.secret), (true, vec!["KEY=v".to_owned()]));
        assert!(!call(&["greet", "{}", "--grant", "less.toml"]).unwrap().yes);
        let error = call(&["greet", "--nothing"]).err();
        assert!(error.as_ref().is_some_and(crate::fault::is_fault), "{error:?}");
    }
}
