//! The `fumehood` binary: reads the configuration, starts a host or talks to one, prints.
//!
//! Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 budget used up.
#![forbid(unsafe_code)]

mod args;
mod boot;
mod check;
mod client;
mod code_file;
mod commands;
mod compiled_code;
mod component_file;
mod config;
mod configured;
mod connect;
mod crash;
mod distribution;
mod events;
mod fault;
mod interrupt;
mod kept_database;
mod keys;
mod kit;
mod load_hints;
mod out;
mod planned;
mod printed;
mod standard;
mod stream;
mod telemetry;
mod temporary;
mod terminal;
mod trial;
mod unmatched;
mod watch;

use args::{Cli, Command, Secret, Tool};
use commands::{policy::Tested, run::Ended};
use config::Loaded;
use distribution::LockFile;
use fumehood_server::AdoptTrace;
use out::Out;
use std::{path::Path, process::ExitCode};
use telemetry::{Telemetry, Verbosity};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const CONFIGURATION: u8 = 2;
const BUDGET: u8 = 3;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let cli = args::read();
    // Needs nothing of what follows, and should not have it.
    if let Command::Compile { memory } = cli.command {
        return fumehood_sandbox::compile_for_parent(memory);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(FAILED, &anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let loaded = match variables().and_then(|mut variables| {
        crash::arm(&mut variables)?;
        config::load(cli.config.as_deref(), variables)
    }) {
        Ok(loaded) => loaded,
        Err(error) => return failure(CONFIGURATION, &error),
    };
    let telemetry = Telemetry::begin(verbosity(&cli.command), loaded.config.log.format);
    let ended = runtime.block_on(run(&cli, loaded, telemetry.adopt_trace()));
    telemetry.end();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) if fault::is_fault(&error) => failure(CONFIGURATION, &error),
        Err(error) if fault::is_budget_used_up(&error) => failure(BUDGET, &error),
        Err(error) => failure(FAILED, &error),
    }
}

/// The environment. A variable that is not text is another program's, unless its name says it is meant for this one: passed
/// over, it would leave in effect what it was to change.
fn variables() -> anyhow::Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let ours = name.as_encoded_bytes().starts_with(b"FUMEHOOD_");
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => variables.push((name, value)),
            (Ok(name), Err(_)) if ours => {
                anyhow::bail!("the variable {name} is not UTF-8 text; set it again, or unset it")
            }
            (Err(name), _) if ours => {
                anyhow::bail!(
                    "the name of the variable {} is not UTF-8 text; unset it",
                    name.to_string_lossy()
                )
            }
            _ => {}
        }
    }
    Ok(variables)
}

fn failure(code: u8, error: &anyhow::Error) -> ExitCode {
    out::tell(&out::printable(&format!("fumehood: {error:#}\n")));
    ExitCode::from(code)
}

/// A serving host tells what happens; a command tells only what went wrong.
const fn verbosity(command: &Command) -> Verbosity {
    match command {
        Command::Serve(_) => Verbosity::Info,
        _ => Verbosity::Errors,
    }
}

async fn run(cli: &Cli, mut loaded: Loaded, adopt_trace: Option<AdoptTrace>) -> anyhow::Result<u8> {
    let out = Out::new(cli.json, cli.color);
    let succeeded = |good: bool| if good { DONE } else { FAILED };
    match &cli.command {
        Command::Serve(args) => commands::serve::serve(out, &loaded, args, adopt_trace).await?,
        Command::Demo => return Ok(succeeded(Box::pin(commands::demo::demo(out)).await?)),
        Command::Config(command) => commands::config::config(out, &loaded, command).await?,
        Command::Policy(command) => {
            return Ok(match commands::policy::policy(out, &loaded, command).await? {
                Tested::Met => DONE,
                Tested::Surprise => FAILED,
                Tested::NotUnderstood => CONFIGURATION,
            });
        }
        Command::Backup(args) => commands::backup::backup(out, &loaded, args).await?,
        Command::Restore { from } => commands::backup::restore(out, &loaded, from).await?,
        Command::Housekeep => commands::housekeep::housekeep(out, &loaded).await?,
        Command::Doctor(args) if args.store => {
            return Ok(succeeded(commands::doctor::store::store(out, &loaded, args).await?));
        }
        Command::Doctor(_) => return Ok(succeeded(commands::doctor::doctor(out, &loaded).await?)),
        Command::Replay(args) => return Ok(succeeded(commands::replay::replay(out, &loaded, args).await?)),
        Command::Openapi => out.line(serde_json::to_string_pretty(&fumehood_server::openapi())?),
        Command::Reference(args) => return Ok(succeeded(commands::reference::reference(out, args)?)),
        Command::Key(command) => commands::admin::key(out, &loaded, command).await?,
        Command::Org(command) => commands::admin::org(out, &loaded, command).await?,
        Command::Secret(Secret::Rotate(args)) => commands::rotate::rotate(out, &loaded, args).await?,
        Command::Tool(Tool::New(args)) => commands::tool_new::new(out, args)?,
        Command::Tool(Tool::Build(args)) => commands::tool_build::command(out, &loaded, args).await?,
        Command::Tool(Tool::Dev(args)) => Box::pin(commands::tool_dev::dev(out, &loaded, args)).await?,
        Command::Tool(Tool::Check(args)) => {
            return Ok(succeeded(commands::tool_check::check(out, &loaded, args).await?));
        }
        Command::Tool(Tool::Test(args)) => {
            return Ok(succeeded(
                Box::pin(commands::tool_test::test(out, &loaded, args)).await?,
            ));
        }
        Command::Tool(Tool::Key(args)) => commands::tool_key::key(out, args)?,
        Command::Tool(Tool::Sign(args)) => commands::tool_key::sign(out, args)?,
        Command::Tool(Tool::Lock(args)) => commands::tool_lock::lock(out, &loaded, args).await?,
        Command::Tool(Tool::Publish(args)) => commands::tool_publish::publish(out, &loaded, args).await?,
        Command::Tool(Tool::Add(args)) => {
            // Before a host is started for it: what can't be had, or may not be, changes nothing.
            let components = commands::tool_add::fetch(&loaded, args).await?;
            return over_http(&loaded, async |connection| {
                for component in components {
                    component.add(out, &loaded, &connection.client).await?;
                }
                Ok(DONE)
            })
            .await;
        }
        Command::Tool(Tool::Call(args)) if is_file(&args.component) => {
            return Ok(succeeded(commands::tool_call::call_file(out, &loaded, args).await?));
        }
        Command::Tool(Tool::Call(args)) => {
            // Before a host is started for it, perhaps.
            commands::tool::check_call_of_installed(args)?;
            return over_http(&loaded, async |connection| {
                let called = commands::tool::call_installed(out, &connection.client, args).await?;
                Ok(succeeded(called))
            })
            .await;
        }
        Command::Run(args) => {
            if let Some(model) = &args.model {
                loaded.config.use_model(model)?;
            }
            for file in &args.tool {
                commands::tool_add::check_signature(&loaded, file)?;
            }
            return over_http(&loaded, async |connection| {
                Ok(match commands::run::run(out, connection, args).await? {
                    Ended::Completed => DONE,
                    Ended::Failed => FAILED,
                    Ended::BudgetUsedUp => BUDGET,
                })
            })
            .await;
        }
        command => {
            return over_http(&loaded, async |connection| {
                let client = &connection.client;
                match command {
                    Command::Tool(Tool::Update(args)) => {
                        return Ok(succeeded(
                            commands::tool_update::update(out, &loaded, client, args).await?,
                        ));
                    }
                    Command::Tool(command) => {
                        commands::tool::tool(out, client, command).await?;
                        if let Tool::Remove { name } = command
                            // The next start installs it again, and needs to know which one.
                            && !loaded.config.names_elsewhere(name)
                        {
                            LockFile::of(&loaded).forget(name)?;
                        }
                    }
                    Command::Session(command) => commands::session::session(out, client, command).await?,
                    Command::Turn(command) => commands::session::turn(out, client, command).await?,
                    Command::Job(command) => commands::job::job(out, client, command).await?,
                    Command::Webhook(command) => commands::webhook::webhook(out, client, command).await?,
                    Command::Schedule(command) => commands::schedule::schedule(out, client, command).await?,
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
    work: impl AsyncFnOnce(&connect::Connection) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let connection = connect::connect(loaded).await?;
    let done = work(&connection).await;
    connection.close().await;
    done
}

fn is_file(component: &str) -> bool {
    component.ends_with(".wasm") || component.contains('/') || Path::new(component).is_file()
}
