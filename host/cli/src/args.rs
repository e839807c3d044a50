//! The command line. What `--help` prints is written here.

mod check;
mod distribution;
mod job;
mod kit;
mod schedule;
mod trial;
mod typed;
mod webhook;

pub(crate) use check::{Deny, ToolCheck};
pub(crate) use distribution::{ToolAdd, ToolKey, ToolLock, ToolPublish, ToolSign, ToolUpdate, Way};
pub(crate) use job::Job;
pub(crate) use kit::{ToolBuild, ToolDev, ToolNew};
pub(crate) use schedule::{IfBusy, Misfire, Schedule, ScheduleNew};
pub(crate) use trial::ToolTest;
pub(crate) use typed::read;
pub(crate) use webhook::{DeliveryStatus, Webhook, WebhookStatus};

use clap::{Args, Parser, Subcommand, ValueEnum};
use fumehood_core::{
    id::{CallId, KeyId, SessionId, TurnId},
    name::{AgentName, ComponentName, ModelName, OrgName, SecretName},
};
use std::{net::SocketAddr, path::PathBuf};

/// A host for the tools of LLM agents: the agent loop runs natively, every tool as a WebAssembly component that can
/// do only what it was granted.
#[derive(Debug, Parser)]
#[command(
    name = "fumehood",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 budget used up.")]
pub(crate) struct Cli {
    /// The configuration file. Without it, fumehood.toml here if there is one.
    #[arg(long, global = true, value_name = "FILE", env = "FUMEHOOD_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// JSON for machines instead of text for people.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Colours: on a terminal, always, or never.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the host and serve its HTTP API.
    Serve(Serve),
    /// Work one turn in the terminal.
    Run(Run),
    /// See the whole story once, on real input, without a key or a configuration.
    Demo,
    /// Components and their tools.
    #[command(subcommand)]
    Tool(Tool),
    /// Sessions.
    #[command(subcommand)]
    Session(Session),
    /// Turns.
    #[command(subcommand)]
    Turn(Turn),
    /// Calls that run on in the background.
    #[command(subcommand)]
    Job(Job),
    /// Work a turn that has ended again, without a model and without a network, and compare.
    Replay(Replay),
    /// Turns that come by themselves.
    #[command(subcommand)]
    Schedule(Schedule),
    /// URLs that are told what happens in sessions.
    #[command(subcommand)]
    Webhook(Webhook),
    /// Secrets. Their values go in and never come out.
    #[command(subcommand)]
    Secret(Secret),
    /// API keys.
    #[command(subcommand)]
    Key(Key),
    /// Orgs.
    #[command(subcommand)]
    Org(Org),
    /// The configuration.
    #[command(subcommand)]
    Config(Config),
    /// What may happen, as configured and granted.
    #[command(subcommand)]
    Policy(Policy),
    /// Copy everything that is kept, as it is at one moment, while a host serves or not.
    Backup(Backup),
    /// Put a backup into the data directory, which must be empty.
    Restore {
        /// The backup: a directory, or a .tar file.
        from: PathBuf,
    },
    /// Delete what is too old now (`[retention]`), as a serving host does every hour. While none serves.
    Housekeep,
    /// Look for what is wrong with this installation.
    Doctor(Doctor),
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
    /// Compile the component on standard input for the host that started this.
    #[command(hide = true)]
    Compile {
        /// How much memory that may take, in bytes.
        memory: u64,
    },
    /// Write or check the generated reference pages.
    #[command(hide = true)]
    Reference(Reference),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Listen here instead of where the configuration says.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// What to say to the agent; `-` reads standard input.
    pub(crate) input: String,
    /// The agent.
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<AgentName>,
    /// Go on with this session.
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<SessionId>,
    /// Use this configured model instead of the agent's.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<ModelName>,
    /// Add this component first, granting what it asks for after showing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) tool: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The turn. No host may serve from the data directory meanwhile: stop it, or replay in a restored backup.
    pub(crate) turn: TurnId,
    /// See what another version of a component would have done: it runs in the place of that of its name.
    #[arg(long, value_name = "FILE")]
    pub(crate) with_component: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tool {
    /// Make a folder with a tool that builds: its code, its manifest, a test.
    New(ToolNew),
    /// Build the component of a tool's folder, and say what it offers and asks for.
    Build(ToolBuild),
    /// Build after each save, and call a tool or run the tests each time, until Ctrl-C.
    Dev(ToolDev),
    /// Say what a component is, what it asks for, whether this host can run it, and what could be better.
    Check(ToolCheck),
    /// Run one tool of a component file, or of an installed component, once.
    Call(ToolCall),
    /// Run the tests of a tool's folder: the real component behind an outside that is written down.
    Test(ToolTest),
    /// Add a component, or replace the one of its name: from a file, a web server or a registry.
    Add(ToolAdd),
    /// Look for newer versions of what was added, show how they differ, and take them.
    Update(ToolUpdate),
    /// Pin what the configuration names at registries and web servers: fetch it, check it, and write fumehood.lock.
    Lock(ToolLock),
    /// Publish a component in a registry.
    Publish(ToolPublish),
    /// Make a pair of keys: one to sign components with, one for those who are to trust them.
    Key(ToolKey),
    /// Sign a file, for those who get it otherwise than from a registry.
    Sign(ToolSign),
    /// The installed components.
    List,
    /// What a component asks for, what it may do, and which layer cut what.
    Show {
        /// Its name.
        name: ComponentName,
        /// What it may do in this session, with the session's agent.
        #[arg(long, value_name = "ID")]
        session: Option<SessionId>,
        /// What it may do for this agent.
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
    },
    /// Remove a component.
    Remove {
        /// Its name.
        name: ComponentName,
    },
    /// Decide what an installed component may do.
    Grant {
        /// Its name.
        name: ComponentName,
        /// What it may do, as a file.
        #[arg(long, value_name = "FILE", conflicts_with = "yes", required_unless_present = "yes")]
        grant: Option<PathBuf>,
        /// All that it asks for.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ToolCall {
    /// A .wasm file, or the name of an installed component.
    pub(crate) component: String,
    /// The tool.
    pub(crate) tool: String,
    /// Its arguments, a JSON object.
    #[arg(default_value = "{}")]
    pub(crate) arguments: String,
    /// For a file: what it may do. Without it: nothing.
    #[arg(long, value_name = "FILE", conflicts_with = "yes")]
    pub(crate) grant: Option<PathBuf>,
    /// For a file: it may do all that it asks for.
    #[arg(long)]
    pub(crate) yes: bool,
    /// For a file: the directory it sees as /workspace, as far as the grant goes.
    #[arg(long, value_name = "DIR")]
    pub(crate) workspace: Option<PathBuf>,
    /// For a file: a secret, as NAME=VALUE. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) secret: Vec<String>,
    /// For a file: a limit, as KEY=VALUE, for example cpu=100ms. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) limit: Vec<String>,
    /// For a file: say what the call used of which limits, what it asked of its host and of the outside and what decided, and what to
    /// change for what it was refused.
    #[arg(long)]
    pub(crate) explain: bool,
    /// For an installed component: the session it runs in.
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<SessionId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// The sessions, newest first.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Those that are archived, instead of those that are not.
        #[arg(long)]
        archived: bool,
    },
    /// One session.
    Show {
        /// Its id.
        id: SessionId,
    },
    /// Put a session aside: it stays as it is and takes no turns.
    Archive {
        /// Its id.
        id: SessionId,
    },
    /// Bring a session back from the archive.
    Unarchive {
        /// Its id.
        id: SessionId,
    },
    /// Sum up the older part of a session's conversation, so that models read less.
    Compact {
        /// Its id.
        id: SessionId,
        /// What the summary is to keep in mind.
        #[arg(long, value_name = "TEXT")]
        instructions: Option<String>,
    },
    /// What happened in a session.
    Events {
        /// Its id.
        id: SessionId,
        /// Only events after this `seq`.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Go on with what happens now, until interrupted.
        #[arg(long)]
        follow: bool,
    },
    /// Undo the last turns, with what they did to the session's files.
    Undo {
        /// Its id.
        id: SessionId,
        /// How many turns.
        #[arg(long, default_value_t = 1, conflicts_with = "to")]
        turns: u64,
        /// Go back to before this turn.
        #[arg(long, value_name = "TURN")]
        to: Option<TurnId>,
        /// Leave the files as they are.
        #[arg(long)]
        keep_files: bool,
    },
    /// Make a session that begins with the conversation and the files of another.
    Fork {
        /// The other's id.
        id: SessionId,
        /// The last turn to take along; all that have ended, without.
        #[arg(long, value_name = "TURN")]
        after: Option<TurnId>,
        /// A title for people.
        #[arg(long)]
        title: Option<String>,
        /// Leave the files behind.
        #[arg(long)]
        no_files: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Turn {
    /// One turn and what came of it.
    Show {
        /// Its id.
        id: TurnId,
    },
    /// Cancel a turn.
    Cancel {
        /// Its id.
        id: TurnId,
        /// At once, or once the model has answered and the calls of the step have ended.
        #[arg(long, value_enum, default_value_t = CancelAt::Now, value_name = "WHEN")]
        at: CancelAt,
    },
    /// Decide about the calls that a turn waits for, and see what comes of it. A call that is not decided about counts as rejected.
    Approve(Approve),
}

#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// The turn.
    pub(crate) id: TurnId,
    /// Decide about this call, and reject the others. May be repeated. Without it: all of them.
    #[arg(long, value_name = "ID")]
    pub(crate) call: Vec<CallId>,
    /// Reject instead of approving.
    #[arg(long)]
    pub(crate) reject: bool,
    /// Run the call with these arguments instead of the model's: a JSON object.
    #[arg(long, value_name = "JSON", conflicts_with = "reject")]
    pub(crate) arguments: Option<String>,
    /// What the model is to know.
    #[arg(long, value_name = "TEXT")]
    pub(crate) feedback: Option<String>,
}

/// When a turn that is cancelled ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CancelAt {
    /// What runs is stopped.
    Now,
    /// What runs in the step comes to its end.
    Boundary,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Set a secret. The value is read from standard input, or from the terminal without showing it.
    Set {
        /// Its name.
        name: SecretName,
        /// For this session only.
        #[arg(long, value_name = "ID")]
        session: Option<SessionId>,
    },
    /// The names.
    List {
        /// Those of this session.
        #[arg(long, value_name = "ID")]
        session: Option<SessionId>,
    },
    /// Change the master key that the secrets are sealed under. No host may serve from the data directory meanwhile.
    Rotate(Rotate),
    /// Delete a secret.
    Delete {
        /// Its name.
        name: SecretName,
        /// Of this session.
        #[arg(long, value_name = "ID")]
        session: Option<SessionId>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Say what would be done, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take the key in this file (base64 of 32 bytes, mode 0600) instead of making one.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub(crate) new_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key. It is printed once and never again.
    Create {
        /// A label for people.
        #[arg(long, default_value = "")]
        label: String,
        /// The org it acts for.
        #[arg(long, value_name = "NAME")]
        org: Option<OrgName>,
    },
    /// The keys of an org, without their tokens.
    List {
        /// The org.
        #[arg(long, value_name = "NAME")]
        org: Option<OrgName>,
    },
    /// End a key.
    Revoke {
        /// Its id.
        id: KeyId,
        /// The org.
        #[arg(long, value_name = "NAME")]
        org: Option<OrgName>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Org {
    /// Make an org, with the standard tools and a key.
    Create {
        /// Its name.
        name: OrgName,
    },
    /// The orgs.
    List,
    /// Delete an org with everything in it. Nothing of it is left in the data directory.
    Delete {
        /// Its name.
        name: OrgName,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Say whether the configuration is valid, and what it means.
    Check,
    /// Print the configuration in effect.
    Show {
        /// A part of it.
        #[command(subcommand)]
        part: Option<ConfigPart>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigPart {
    /// An agent with everything it has from those it extends.
    Agent {
        /// The agent.
        name: AgentName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Check expectations, one a line (`deny http GET https://…`, `allow files write src/x`), and stop at the first
    /// that is not met.
    Test {
        /// The expectations.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Where to: a .tar file, or a directory that is empty or not there yet.
    pub(crate) to: PathBuf,
    /// With the master key and the API key of the commands: whoever has such a backup can read every secret in it.
    #[arg(long)]
    pub(crate) with_keys: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Look at everything that is kept: the database, every journal, code and files. Changes nothing.
    #[arg(long)]
    pub(crate) store: bool,
    /// Mend what can be mended safely. No host may serve from the data directory meanwhile.
    #[arg(long, requires = "store")]
    pub(crate) repair: bool,
    /// Say what would be mended, and change nothing.
    #[arg(long, requires = "store")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Reference {
    /// Where the pages are.
    pub(crate) dir: PathBuf,
    /// Fail if they differ instead of writing them.
    #[arg(long)]
    pub(crate) check: bool,
}
