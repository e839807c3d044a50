//! `cargo xtask COMMAND`: the only developer tool of this repository.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod checks;
mod debian;
mod demo;
mod devtools;
mod docs;
mod fuzz;
mod guests;
mod languages;
mod mock_provider;
mod process;
mod progress;
mod registry;
mod servers;
mod setup;
mod soak;
mod toolchain;
mod tracer;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;

use crate::checks::Extent;
use crate::demo::Profile;
use crate::fuzz::Fuzzing;
use crate::progress::Progress;
use crate::workspace::Workspace;

const HELP: &str = "\
The developer commands of Fumehood. Each installs what it needs and is quick when
nothing has changed.

Usage: cargo xtask COMMAND

Commands:
  demo               Build the host and its tools, and watch one turn
  test [--quick]     Everything CI runs; --quick: what is worth it before a commit
  setup              Install what is missing: guest compiler, developer tools, what `test` needs
  tools              Build the guests: standard tools and the hostile test guest
  build [--release]  Build the guests, then the `fumehood` binary
  bench [FILTER]     Run the benchmarks in release mode
  fuzz [TARGET] [--seconds N]  Fuzz what reads hostile bytes, 300 seconds each
  languages          Build the templates of tools in every language, Rust and Go too, and try each in a host
  soak [CALLS]       100,000 mixed calls; the host must end where it began
  doc                Check the book's links and build the API documentation
  help               Print this

Logs of every step: target/xtask-logs/";

/// One parsed command line.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Demo,
    Test(Extent),
    Setup,
    Tools,
    Build(Profile),
    Bench(Option<String>),
    Fuzz(Fuzzing),
    Languages,
    Soak(u32),
    Doc,
    Help,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let command = match parse(&args) {
        Ok(command) => command,
        Err(problem) => {
            eprintln!("error: {problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match Workspace::locate().and_then(|workspace| run(&workspace, command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[&str]) -> Result<Command, String> {
    Ok(match args {
        [] | ["help" | "--help" | "-h", ..] => Command::Help,
        ["demo"] => Command::Demo,
        ["test"] => Command::Test(Extent::All),
        ["test", "--quick"] => Command::Test(Extent::Quick),
        ["setup"] => Command::Setup,
        ["tools"] => Command::Tools,
        ["build"] => Command::Build(Profile::Dev),
        ["build", "--release"] => Command::Build(Profile::Release),
        ["bench"] => Command::Bench(None),
        ["bench", filter] if !filter.starts_with('-') => Command::Bench(Some((*filter).to_owned())),
        ["fuzz", rest @ ..] => Command::Fuzz(Fuzzing::parse(rest)?),
        ["languages"] => Command::Languages,
        ["soak", rest @ ..] => Command::Soak(soak::parse(rest)?),
        ["doc"] => Command::Doc,
        [command, rest @ ..] => {
            return Err(match rest {
                [] => format!("there is no command `{command}`"),
                _ => format!("`{command}` does not take `{}`", rest.join(" ")),
            });
        }
    })
}

fn run(workspace: &Workspace, command: Command) -> Result<ExitCode> {
    let mut progress = Progress::new(workspace);
    match command {
        Command::Help => println!("{HELP}"),
        Command::Demo => return demo::demo(workspace, &mut progress),
        Command::Test(extent) => checks::test(workspace, &mut progress, extent)?,
        Command::Setup => {
            progress.step("setup", |step| setup::everything(workspace, step))?;
            progress.step("servers", |step| servers::ready(workspace, step))?;
            progress.step("registry", |step| registry::ready(workspace, step))?;
            progress.step("tracer", |step| tracer::ready(workspace, step))?;
            progress.step("mock provider", |step| mock_provider::ready(workspace, step))?;
            progress.step("languages", |step| languages::install(workspace, step))?;
        }
        Command::Tools => demo::tools(workspace, &mut progress)?,
        Command::Build(profile) => demo::build(workspace, &mut progress, profile)?,
        Command::Bench(filter) => bench::bench(workspace, &mut progress, filter.as_deref())?,
        Command::Fuzz(fuzzing) => fuzz::fuzz(workspace, &mut progress, &fuzzing)?,
        Command::Languages => languages::languages(workspace, &mut progress)?,
        Command::Soak(calls) => soak::soak(workspace, &mut progress, calls)?,
        Command::Doc => {
            progress.step("book", |step| docs::book(workspace, step))?;
            progress.step("rustdoc", |step| docs::rustdoc(workspace, step))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_of_the_help_is_understood() {
        let commands = HELP
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().next());
        for command in commands {
            assert!(parse(&[command]).is_ok(), "{command}");
        }
    }

    #[test]
    fn options_choose_the_variant() {
        assert_eq!(parse(&["test", "--quick"]), Ok(Command::Test(Extent::Quick)));
        assert_eq!(parse(&["build", "--release"]), Ok(Command::Build(Profile::Release)));
        assert_eq!(parse(&["bench", "echo"]), Ok(Command::Bench(Some("echo".into()))));
        assert_eq!(parse(&[]), Ok(Command::Help));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(parse(&["frob"]), Err("there is no command `frob`".into()));
        assert_eq!(parse(&["demo", "--fast"]), Err("`demo` does not take `--fast`".into()));
        assert!(parse(&["bench", "--release"]).is_err());
    }
}
