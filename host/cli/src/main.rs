//! The `fumehood` binary: reads the configuration, starts a host or talks to one, prints.
//!
//! Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 budget used up.
#![forbid(unsafe_code)]

mod args;
mod boot;
mod client;
mod commands;
mod config;
mod connect;
mod events;
mod out;
mod standard;

use args::{Cli, Command, Tool};
use clap::Parser as _;
use commands::{policy::Tested, run::Ended};
use config::Loaded;
use out::Out;
use std::{path::Path, process::ExitCode};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const CONFIGURATION: u8 = 2;
const BUDGET: u8 = 3;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let cli = Cli::parse();
    init_logs(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(FAILED, &anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let loaded = match config::load(cli.config.as_deref(), variables) {
        Ok(loaded) => loaded,
        Err(error) => return failure(CONFIGURATION, &error),
    };
    match runtime.block_on(run(&cli, loaded)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failure(FAILED, &error),
    }
}

fn failure(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("fumehood: {error:#}");
    ExitCode::from(code)
}

/// Logs go to standard error: as text for a command, as `FUMEHOOD_LOG` says in detail. A serving host says more.
fn init_logs(command: &Command) {
    use tracing_subscriber::EnvFilter;
    let default = if matches!(command, Command::Serve(_)) {
        "info"
    } else {
        "error"
    };
    let filter = EnvFilter::try_from_env("FUMEHOOD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    if matches!(command, Command::Serve(_)) && !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        logs.json().init();
    } else {
        logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init();
    }
}

async fn run(cli: &Cli, mut loaded: Loaded) -> anyhow::Result<u8> {
    let out = Out::new(cli.json, cli.color);
    let succeeded = |good: bool| if good { DONE } else { FAILED };
    match &cli.command {
        Command::Serve(args) => commands::serve::serve(out, &loaded, args).await?,
        Command::Demo => return Ok(succeeded(commands::demo::demo(out).await?)),
        Command::Config(command) => commands::config::config(out, &loaded, command)?,
        Command::Policy(command) => {
            return Ok(match commands::policy::policy(out, &loaded, command).await? {
                Tested::Met => DONE,
                Tested::Surprise => FAILED,
                Tested::NotUnderstood => CONFIGURATION,
            });
        }
        Command::Doctor => return Ok(succeeded(commands::doctor::doctor(out, &loaded).await?)),
        Command::Openapi => out.line(serde_json::to_string_pretty(&fumehood_server::openapi())?),
        Command::Reference(args) => return Ok(succeeded(commands::reference::reference(out, args)?)),
        Command::Key(command) => commands::admin::key(out, &loaded, command).await?,
        Command::Org(command) => commands::admin::org(out, &loaded, command).await?,
        Command::Tool(Tool::Check { file }) => commands::tool::check(out, file).await?,
        Command::Tool(Tool::Call(args)) if is_file(&args.component) => {
            return Ok(succeeded(commands::tool_call::call_file(out, &loaded, args).await?));
        }
        Command::Run(args) => {
            if let Some(model) = &args.model {
                loaded.config.use_model(model)?;
            }
            return over_http(&loaded, async |client| {
                Ok(match commands::run::run(out, client, args).await? {
                    Ended::Completed => DONE,
                    Ended::Failed => FAILED,
                    Ended::BudgetUsedUp => BUDGET,
                })
            })
            .await;
        }
        command => {
            return over_http(&loaded, async |client| {
                match command {
                    Command::Tool(Tool::Call(args)) => {
                        return Ok(succeeded(commands::tool::call_installed(out, client, args).await?));
                    }
                    Command::Tool(command) => commands::tool::tool(out, client, command).await?,
                    Command::Session(command) => commands::session::session(out, client, command).await?,
                    Command::Turn(command) => commands::session::turn(out, client, command).await?,
                    Command::Secret(command) => commands::secret::secret(out, client, command).await?,
                    _ => {}
                }
                Ok(DONE)
            })
            .await;
        }
    }
    Ok(DONE)
}

/// Does `work` with the host, and closes the connection however it ends.
async fn over_http(
    loaded: &Loaded,
    work: impl AsyncFnOnce(&client::Client) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let connection = connect::connect(loaded).await?;
    let done = work(&connection.client).await;
    connection.close().await;
    done
}

fn is_file(component: &str) -> bool {
    component.ends_with(".wasm") || component.contains('/') || Path::new(component).is_file()
}
