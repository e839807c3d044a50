//! What each key of the configuration means, for the reference page. Which keys there are and what they take is learned from the code that
//! reads them ([`shape`](super::shape)); a test fails while a key has no meaning here, or a meaning no key.

use super::{
    InstallLimits, default_data_dir, default_listen, files::MOST_ENTRIES, limits::LONGEST_DRAIN, retention::FOREVER,
    shutdown, tools,
};
use crate::{commands::tool_key::PASSPHRASE, distribution::CREDENTIALS_VARIABLE, kit::TESTING_PROGRAM};
use fumehood_agent::{
    callbacks::CallbackLimits, catalog::DRAIN, host::ScheduleLimits, jobs::JobLimits, limits::OrgLimits,
    recording::RECORDING_BYTES,
};
use fumehood_model::{DEFAULT_RETRIES, MOST_RETRIES, ModelConfig, ProviderKind};
use fumehood_policy::{
    agent::{APPROVAL_TIMEOUT, APPROVAL_TIMEOUTS, TOOL_OUTPUT, TOOL_OUTPUTS, TURN_BUDGET},
    approval::MOST_CHARACTERS,
    hook,
    limits::Limits,
    quantity::{ByteSize, Span},
    retention::Kind,
};
use fumehood_sandbox::CALLS_AT_ONCE;
use fumehood_store::Quotas;

/// What a key means.
pub(crate) struct Meaning {
    /// Its path, with points between.
    pub(crate) key: String,
    /// What it takes, where the code that reads it doesn't say it well enough.
    pub(crate) takes: Option<&'static str>,
    /// What holds without it; absent: nothing, or nothing that one value says.
    pub(crate) default: Option<String>,
    pub(crate) text: String,
}

impl Meaning {
    #[expect(clippy::needless_pass_by_value, reason = "what is said is mostly made for it")]
    fn default(mut self, value: impl ToString) -> Self {
        self.default = Some(value.to_string());
        self
    }

    const fn takes(mut self, takes: &'static str) -> Self {
        self.takes = Some(takes);
        self
    }
}

fn key(key: impl Into<String>, text: impl Into<String>) -> Meaning {
    Meaning {
        key: key.into(),
        takes: None,
        default: None,
        text: text.into(),
    }
}

/// Every meaning.
pub(crate) fn meanings() -> Vec<Meaning> {
    [
        host(),
        limits(),
        models(),
        model_calls(),
        sessions(),
        retention(),
        orgs(),
        spending("org.NAME.budget", "all turns of the org in a window"),
        agents(),
        spending("agent.NAME.session_budget", "all turns of a session"),
        agent_budgets(),
        hooks(),
        components(),
        grants(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const ADDRESS: &str = "an address and a port";
const A_PATH: &str = "a path";
const A_COUNT: &str = "a whole number";
const A_SPAN_OR_FOREVER: &str = "a span of time such as `\"90d\"`, or `\"forever\"`";
const MONEY: &str = "a number, in your currency";
const RULES: &str = "a list of [network rules](../operators/getting-started.md#grant-a-tool-something), at most 256";
const RATE: &str = "a rate such as `\"10/s\"`, `\"60/min\"`, `\"5/10s\"`, or `\"unlimited\"`";
const A_SPAN: &str = "a span such as `\"500ms\"`, `\"30s\"`, `\"5m\"`";

fn host() -> Vec<Meaning> {
    vec![
        key("listen", "Where the host listens; port 0 takes one that is free.")
            .takes(ADDRESS)
            .default(default_listen()),
        key("data_dir", "Where it keeps everything.")
            .takes(A_PATH)
            .default(default_data_dir().display()),
        key("store.url", "The database: `sqlite:PATH`.").default("fumehood.db in `data_dir`"),
        key("bus.url", "Not in this version: anything but an empty text is refused."),
        key(
            "limits_store.url",
            "A Valkey or Redis server that keeps rates for several hosts: `redis://…`, `rediss://…`, `valkey://…`, `valkeys://…`.",
        )
        .default("kept in the process"),
        key("metrics.public", "Whether everybody reads `/metrics`, or only keys of the org `default`.")
            .default("who is on this machine, if the host listens on loopback"),
        key("log.format", "For people, or an object per line.")
            .default("`json` from `serve` where standard error is no terminal, else `text`"),
        key(
            "shutdown.drain",
            format!(
                "How long requests and the steps of turns may go on once the host is told to stop; at most {}.",
                shutdown::LONGEST_DRAIN
            ),
        )
        .default(shutdown::DRAIN),
        key("network.allow", "Whom tools of any org may reach, at most.")
            .takes(RULES)
            .default("does not narrow"),
        key("network.deny", "Whom none may, whatever `allow` says.").takes(RULES).default("nobody"),
        key("network.private_networks", "Networks of private addresses that may be reached all the same.")
            .takes("a list such as `[\"10.0.0.0/8\"]`")
            .default("none"),
        key(
            "network.certificate_authorities",
            "Files in PEM with [certificates of authorities of your own](../operators/getting-started.md#servers-of-your-own), which \
             count beside the public ones; a relative path begins at the file's directory.",
        )
        .takes("a list of paths")
        .default("none"),
        key("skill.NAME.source", "The directory with its `SKILL.md`; a relative path begins at the file's directory. Needed.").takes(A_PATH),
        key("mcp.NAME", "Not in this version: it is refused.").takes("nothing"),
    ]
}

fn limits() -> Vec<Meaning> {
    let drain = format!("How long calls may go on whose component is removed or replaced; at most {LONGEST_DRAIN}.");
    let mut all = vec![key("limits.drain", drain).default(DRAIN)];
    for limit in Limits::catalogue() {
        let in_default = format!("limits.default.{}", limit.key);
        all.push(key(in_default, limit.what).default(&limit.default));
        let ceiling = format!("limits.ceiling.{}", limit.key);
        all.push(key(ceiling, limit.what).default(&limit.ceiling));
        let granted = format!("tool.NAME.grant.limits.{}", limit.key);
        all.push(key(granted, limit.what).default("as requested"));
    }
    for (name, what, default, ..) in InstallLimits::catalogue() {
        all.push(key(format!("limits.install.{name}"), format!("{what} Above zero.")).default(default));
    }
    all
}

fn models() -> Vec<Meaning> {
    vec![
        key("model.NAME.provider", "Whose model it is. Needed."),
        key("model.NAME.model", "Its name at the provider.").default("a recent one of the provider"),
        key(
            "model.NAME.api_key_env",
            "The environment variable that holds the key; never the key. A key goes to another `base_url` than the provider's own only if this names it.",
        )
        .default("`OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `GEMINI_API_KEY`, by the provider"),
        key(
            "model.NAME.base_url",
            "Where the provider's API begins. `https`, or `http` to a host that is not public.",
        )
        .takes("a URL")
        .default("the provider's own"),
        key(
            "model.NAME.wire",
            "OpenAI only: which of its two wires; most servers that are like OpenAI speak `chat`.",
        )
        .default("responses"),
        key("model.NAME.script", "Scripted only: [the replies](../operators/scripted-model.md); a relative path begins at the file's directory.")
            .takes(A_PATH)
            .default("a built-in one that repeats the input"),
        key("model.NAME.max_output_tokens", "The most tokens of one answer. Above zero.").default("the provider's; Anthropic: 16384"),
        key(
            "model.NAME.context_window",
            "How many tokens the model takes, by which [conversations are summed up](../operators/context-windows.md). Above zero.",
        )
        .default("that of the model, where it is known"),
        key("model.NAME.reasoning_effort", "How hard a reasoning model thinks.").default("the provider's"),
        key(
            "model.NAME.thinking_budget_tokens",
            "Anthropic only, in the place of `reasoning_effort`: tokens of thinking, at least 1024.",
        )
        .default("the provider's"),
    ]
}

fn model_calls() -> Vec<Meaning> {
    let plain = ModelConfig::of(ProviderKind::Scripted);
    let span = |time: std::time::Duration| Span::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let timeout = |name: &str, text: &str, default| {
        key(format!("model.NAME.{name}"), format!("{text} At most 1h."))
            .takes(A_SPAN)
            .default(span(default))
    };
    let price = |name: &str, text: &str| key(format!("model.NAME.price.{name}"), text).takes(MONEY);
    vec![
        key(
            "model.NAME.max_retries",
            format!("How often a call that failed is [tried again](../operators/models.md#when-a-model-does-not-answer); at most {MOST_RETRIES}."),
        )
        .default(DEFAULT_RETRIES),
        key("model.NAME.fallback", "The models that are asked when this one doesn't answer, in this order.")
            .takes("a list of names of models")
            .default("none"),
        timeout("connect_timeout", "How long a connection may take to open.", plain.connect_timeout),
        timeout("first_byte_timeout", "How long the answer may take to begin.", plain.first_byte_timeout),
        timeout("idle_timeout", "How long two events of the answer may be apart.", plain.idle_timeout),
        price("input", "A million tokens of requests. Needed where there is a price."),
        price("output", "A million tokens of answers. Needed where there is a price."),
        price("cached_input", "A million tokens of requests that came from the provider's cache.").default("as `input`"),
        price("cache_write", "A million tokens of requests that were written to the provider's cache.").default("as `input`"),
        price("reasoning", "A million tokens of reasoning.").default("as `output`"),
    ]
}

fn sessions() -> Vec<Meaning> {
    let Quotas {
        files,
        snapshots,
        key_values,
    } = Quotas::default();
    let schedules = ScheduleLimits::default();
    let callbacks = CallbackLimits::default();
    let jobs = JobLimits::default();
    vec![
        key("files.quota", "All files of a session. Above zero.").default(ByteSize(files.bytes)),
        key("files.file", "One file. Above zero, at most `quota`.")
            .default(format!("{}, or `quota` if that is less", ByteSize(files.file_bytes))),
        key(
            "files.entries",
            format!("Files, directories and links of a session. From 1 to {MOST_ENTRIES}."),
        )
        .default(files.entries),
        key(
            "files.snapshots",
            "What is kept of earlier states of a session's files, for undo and fork; 0 keeps none.",
        )
        .default(ByteSize(snapshots)),
        key("kv.entries", "Keys of a session.").default(key_values.entries),
        key("kv.bytes", "All keys and values of a session.").default(ByteSize(key_values.bytes)),
        key(
            "recordings.bytes",
            "What is kept of one call that is [recorded](../operators/replay.md); of a larger one nothing is. `\"0B\"` records nothing, whoever \
             asks for it.",
        )
        .default(ByteSize(RECORDING_BYTES)),
        key("schedules.per_org", "Schedules of an org; 0 takes none.").default(schedules.per_org),
        key(
            "schedules.least_interval",
            "The least time between two times of a schedule, from `1s` on.",
        )
        .default(schedules.least_interval),
        key(
            "callbacks.url",
            "How the host is reached from outside, such as `https://agents.example.com`: tools that hand their calls on are told where to \
             end them. Without it they are told the id alone.",
        )
        .default("none"),
        key(
            "callbacks.time",
            "How long a call that is handed on waits, where its tool says nothing of it; from `1s` on.",
        )
        .default(callbacks.time),
        key(
            "callbacks.longest",
            "The longest that such a call waits, whatever its tool says; up to `366d`.",
        )
        .default(callbacks.longest),
        key(
            "jobs.time",
            "The longest that a call may take that runs [in the background](../tool-authors/background-jobs.md), from when it begins first; \
             from `1s` to `7d`.",
        )
        .default(jobs.time),
        key("jobs.running", "How many of them run at the same time; from 1 to 1000.").default(jobs.running),
        key("jobs.running_per_org", "How many of one org do; from 1 to 1000.").default(jobs.running_per_org),
        key(
            "jobs.unfinished_per_org",
            "How many of one org may have no end; with 0 none is taken. A call beyond that is refused.",
        )
        .default(jobs.unfinished_per_org),
    ]
}

fn retention() -> Vec<Meaning> {
    let text = |kind| match kind {
        Kind::Sessions => {
            "Sessions, from their last change or use on, unless [something holds them](../operators/keeping-data.md#how-long-things-are-kept)."
        }
        Kind::ArchivedSessions => "Archived sessions, from when they were archived.",
        Kind::Ledger => "Entries of the ledger.",
        Kind::Deliveries => "Deliveries of webhooks that arrived; the last thousand of a webhook at most.",
        Kind::DeadDeliveries => "Deliveries of webhooks that were given up; the last 5,000 of a webhook at most.",
        Kind::ScheduleRuns => {
            "What came of the times of schedules; the last thousand of a schedule at most, and its latest in any case."
        }
        Kind::Usage => "What models took, by day.",
        Kind::Recordings => "[Recordings](../operators/replay.md) of calls, from when the call ended.",
    };
    let words = |span: Option<Span>| span.map_or_else(|| FOREVER.to_owned(), |span| span.to_string());
    let meanings = Kind::ALL.into_iter().flat_map(|kind| {
        let name = kind.as_str();
        let usual = key(
            format!("retention.{name}"),
            format!("How long it is kept: {} From {} on.", text(kind), kind.shortest()),
        );
        let own = key(format!("org.NAME.retention.{name}"), "The same of this org.");
        [
            usual.takes(A_SPAN_OR_FOREVER).default(words(kind.by_default())),
            own.takes(A_SPAN_OR_FOREVER).default("as in `[retention]`"),
        ]
    });
    meanings.collect()
}

fn orgs() -> Vec<Meaning> {
    let places = |limit: Option<u32>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    let defaults = OrgLimits::default();
    let rate = |name: &str, text: &str| {
        key(format!("org.NAME.limits.{name}"), text)
            .takes(RATE)
            .default("unlimited")
    };
    vec![
        rate(
            "tool_calls",
            "Calls that run, also those that tools make of each other.",
        ),
        rate("egress_requests", "Requests through the door, refused ones included."),
        rate("egress_bytes", "Bytes of request and response bodies.")
            .takes("a rate of bytes such as `\"1GiB/hour\"`, or `\"unlimited\"`"),
        rate("turns", "Turns accepted."),
        key(
            "org.NAME.limits.concurrent_calls",
            format!("Calls at the same time. From 1 to {CALLS_AT_ONCE}."),
        )
        .takes(A_COUNT)
        .default(places(defaults.concurrent_calls)),
        key(
            "org.NAME.limits.concurrent_streams",
            "Clients that listen to events or wait for a turn at the same time. Above zero.",
        )
        .takes(A_COUNT)
        .default(places(defaults.concurrent_streams)),
        key(
            "org.NAME.limits.sessions",
            "Sessions that are kept; of one more is nothing made. Above zero.",
        )
        .takes(A_COUNT)
        .default("not limited"),
        key(
            "org.NAME.limits.fail",
            "What happens while the store of the limits does not answer: turns and calls pass, or are refused.",
        )
        .default("open"),
        key(
            "org.NAME.budget.per",
            "After which time the budget begins anew, by UTC.",
        )
        .default("month"),
    ]
}

/// What may be spent over turns: `whose` they are.
fn spending(table: &str, whose: &str) -> Vec<Meaning> {
    let part = |name: &str, text: String| key(format!("{table}.{name}"), text).default("not limited");
    vec![
        part("tokens", format!("Input and output tokens of {whose}.")),
        part(
            "time",
            format!(
                "For how long {whose} are worked, added up. Passing it fails a turn; each other part completes it."
            ),
        ),
        part(
            "tool_calls",
            format!("Calls of tools that the models of {whose} ask for."),
        ),
        part("steps", format!("Steps of {whose} whose model answered.")),
        part(
            "cost",
            format!("What the model calls of {whose} may cost; those of models without a price cost nothing."),
        )
        .takes(MONEY),
    ]
}

fn agents() -> Vec<Meaning> {
    let (least, most) = (TOOL_OUTPUTS.start(), TOOL_OUTPUTS.end());
    let (shortest, longest) = (APPROVAL_TIMEOUTS.start(), APPROVAL_TIMEOUTS.end());
    vec![
        key("agent.NAME.model", "The name of a configured model.").default("`main`"),
        key("agent.NAME.instructions", "What the model is told; stands after the parent's."),
        key("agent.NAME.tools", "The tools it offers the model. Narrows; an empty list offers none.")
            .takes("a list of tools, patterns (`files_*`) and components, at most 256")
            .default("does not narrow"),
        key("agent.NAME.extends", "[The agent it builds on](../operators/agents.md#extending).").default("none"),
        key("agent.NAME.network.allow", "Whom its tools may reach. Narrows.").takes(RULES).default("does not narrow"),
        key("agent.NAME.network.deny", "Whom they may not, whatever `allow` says.").takes(RULES).default("nobody"),
        key(
            "agent.NAME.background",
            "Tools whose calls may run [in the background](../tool-authors/background-jobs.md), of those granted. Narrows; an empty list lets none.",
        )
        .takes("a list of tools, patterns (`crawl_*`) and components, at most 256")
        .default("does not narrow"),
        key(
            "agent.NAME.tool_output",
            format!("How much text of one tool's result the model gets; the whole is a file of the session. From {least} to {most}."),
        )
        .default(TOOL_OUTPUT),
        key("agent.NAME.skills", "Skills it may read, of those configured. Never more than a parent that lists any.")
            .takes("a list of names of skills")
            .default("the parent's"),
        key("agent.NAME.tool_search", "Whether the model is shown all tools, or [searches](../operators/agents.md#many-tools) for those it needs.").default("auto"),
        key("agent.NAME.locale", "For whom it writes (BCP 47), such as `\"de-CH\"`: told to the model and to tools.").default("none"),
        key("agent.NAME.time_zone", "Where its day begins and ends, by the IANA database.").default("none"),
        key("agent.NAME.record", "Whether it is kept what its tools were answered from outside, so that its turns can be [replayed](../operators/replay.md).")
            .default("no"),
        key("agent.NAME.approval.[].tool", "Which calls the [rule](../operators/approvals.md) is about. Needed."),
        key("agent.NAME.approval.[].when", format!("Under which condition, in CEL; at most {MOST_CHARACTERS} characters.")).default("always"),
        key("agent.NAME.approval.[].decide", "What then. Needed."),
        key("agent.NAME.approval_timeout", format!("How long a call waits for a person before it counts as rejected. From {shortest} to {longest}.")).default(APPROVAL_TIMEOUT),
    ]
}

fn agent_budgets() -> Vec<Meaning> {
    let of_turn = |name: &str, text: &str, default: Option<String>| {
        key(format!("agent.NAME.budget.{name}"), text).default(default.unwrap_or("not limited".to_owned()))
    };
    let count = |count: Option<u64>| count.map(|count| count.to_string());
    let time = TURN_BUDGET.time_ms.map(|time| Span::from_millis(time).to_string());
    vec![
        of_turn(
            "tokens",
            "Input and output tokens of all steps of a turn.",
            count(TURN_BUDGET.tokens),
        ),
        of_turn(
            "time",
            "Wall time. Above zero. Passing it fails the turn; each other part completes it.",
            time,
        ),
        of_turn("tool_calls", "Tool calls.", count(TURN_BUDGET.tool_calls)),
        of_turn("steps", "Model calls.", count(TURN_BUDGET.steps)),
        of_turn("cost", "What its model calls may cost.", None).takes(MONEY),
    ]
}

fn hooks() -> Vec<Meaning> {
    let own = |name: &str, text: &str| key(format!("agent.NAME.hook.[].{name}"), text);
    let (shortest, longest) = (hook::TIMEOUTS.start(), hook::TIMEOUTS.end());
    let timeout = format!("How long it may take. From {shortest} to {longest}.");
    vec![
        own(
            "name",
            "What the [hook](../operators/hooks.md) is called in events, metrics and the ledger. Needed.",
        ),
        own("points", "Where in a turn it is asked or told. Needed."),
        own("mode", "Whether it is asked or told. Needed."),
        own("component", "The installed component that it is; this, or `url`."),
        own("url", "Where the signed HTTP request goes that it is; with `key`."),
        own("key", "The secret of the org that signs the requests to `url`."),
        own("tools", "About calls of which tools.").default("all"),
        own("priority", "The lower comes first.").default(0),
        own("timeout", &timeout).default(hook::TIMEOUT),
    ]
}

fn components() -> Vec<Meaning> {
    vec![
        key(
            "tools.cache",
            "Where [components that were fetched](../operators/installing-tools.md) are kept, for the time when they can't be; a relative path begins at the \
             file's directory.",
        )
        .takes(A_PATH)
        .default("`components` in the user's cache, `~/.cache/fumehood`"),
        key(
            "tools.cache_size",
            "How much is kept there, at most: what was not used for longest goes first, and what `fumehood.lock` names stays.",
        )
        .default(tools::CACHE_SIZE),
        key(
            "tools.timeout",
            "How long a registry or web server that has components may send nothing, from 1 second to 10 minutes.",
        )
        .default(tools::TIMEOUT),
        key(
            "tools.signatures",
            "What is asked of a component before it is added: a [signature](../operators/installing-tools.md#signatures) in any case, where it comes \
             from a place that a key is trusted for, or nothing.",
        )
        .takes("`\"required\"`, `\"when-known\"` or `\"off\"`")
        .default("\"when-known\""),
        key(
            "tools.trusted_keys.NAME.key",
            "A public key whose signatures count: its file, where a relative path begins at the file's directory, or its text in PEM. Needed.",
        ),
        key(
            "tools.trusted_keys.NAME.sources",
            "Where they count: the begin of sources, by whole parts, such as `oci://ghcr.io/acme/`.",
        )
        .takes("a list of begins")
        .default("everywhere"),
        key(
            "tool.NAME.source",
            "Where the component is: its file, where a relative path begins at the file's directory, or a registry or web server, of which \
             `fumehood tool lock` [pins what is there](../operators/installing-tools.md#in-the-configuration). Needed.",
        )
        .takes("a path, `\"https://…\"` or `\"oci://registry/repository:tag\"`"),
        key("tool.NAME.digest", "Refuses any other code at the start.")
            .takes("`\"sha256:…\"`")
            .default("any"),
    ]
}

/// What a grant leaves out is not granted, but for what says otherwise.
fn grants() -> Vec<Meaning> {
    let granted = |name: &str, text: &str| key(format!("tool.NAME.grant.{name}"), text);
    vec![
        granted("network.allow", "Whom it may reach.")
            .takes(RULES)
            .default("nobody"),
        granted("network.deny", "Whom it may not, whatever `allow` says.")
            .takes(RULES)
            .default("nobody"),
        granted(
            "credential.[].secret",
            "Which of the credentials that the manifest asks for. Needed.",
        ),
        granted("credential.[].hosts", "To these hosts only.").default("as requested"),
        granted(
            "credential.[].inject.header",
            "The header it goes into; one of `header`, `query` and `basic_user`, with which it is requested.",
        )
        .default("as requested"),
        granted(
            "credential.[].inject.format",
            "The header's value, with the secret at the one `{}`.",
        )
        .default("`{}`"),
        granted("credential.[].inject.query", "The query parameter it goes into."),
        granted(
            "credential.[].inject.basic_user",
            "The user name it is the password of, in HTTP Basic.",
        ),
        granted("files.workspace", "How far it may touch the session's files.").default("none"),
        granted("files.paths", "Which of them.").default("all"),
        granted("kv.access", "How far it may touch the session's key-values.").default("none"),
        granted("secrets.sign", "Secrets to sign with.")
            .takes("a list of names of secrets")
            .default("none"),
        granted("tools.call", "Other tools it may call.").default("none"),
        granted(
            "jobs.detach",
            "Whether it may hand calls on to somebody outside, who ends them later.",
        )
        .default("false"),
        granted("jobs.background", "Its own tools whose calls run on in the background.")
            .takes("a list of tools or patterns")
            .default("none"),
        granted("env.names", "[Variables](#environment-variables) it sees.").default("none"),
        granted("rate.calls", "How often its tools may be called, all together.").default("as requested"),
    ]
}

/// Environment variables that are no keys, and what they do.
pub(crate) const VARIABLES: &[(&str, &str)] = &[
    ("FUMEHOOD_CONFIG", "The configuration file, as `--config` names it."),
    (
        "FUMEHOOD_MASTER_KEY",
        "The [master key](../operators/secrets.md), base64 of 32 bytes, in the place of the file `master.key` in the data directory.",
    ),
    (
        "FUMEHOOD_MASTER_KEY_PREVIOUS",
        "Master keys of before, separated by commas: what they sealed still opens. Beside `FUMEHOOD_MASTER_KEY`.",
    ),
    (
        "FUMEHOOD_LOG",
        "[How much is logged](../operators/observability.md), such as `debug` or `info,fumehood_egress=debug`.",
    ),
    (
        "FUMEHOOD_URL",
        "For commands: where the serving host is, when it is not at `listen`.",
    ),
    (
        "FUMEHOOD_KEY",
        "For commands: which API key to use, when it is not the one in the file `key` in the data directory.",
    ),
    (
        CREDENTIALS_VARIABLE,
        "For commands: a [login to a registry](../operators/installing-tools.md), as `user:password@registry`, before those of `docker login`.",
    ),
    (
        PASSPHRASE,
        "For commands: the passphrase of the private key that [signs components](../tool-authors/publishing.md#signing).",
    ),
    (
        TESTING_PROGRAM,
        "Not for the host: the `fumehood` that [tests of components in Rust](../tool-authors/testing.md#in-rust) run.",
    ),
    (
        "FUMEHOOD_STANDARD_TOOLS",
        "Read when the host is *built*: the directory with the components that are put into it as standard tools.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::shape;
    use fumehood_store::MASTER_KEY_VARIABLES;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_has_one_meaning_and_every_meaning_a_key() {
        let keys: BTreeSet<String> = shape::keys().iter().map(shape::Key::dotted).collect();
        let meanings: Vec<String> = meanings().into_iter().map(|meaning| meaning.key).collect();
        let known: BTreeSet<String> = meanings.iter().cloned().collect();
        let without: Vec<_> = keys.difference(&known).collect();
        let gone: Vec<_> = known.difference(&keys).collect();
        assert!(
            without.is_empty() && gone.is_empty(),
            "without a meaning: {without:?}; no keys any more: {gone:?}"
        );
        assert_eq!(meanings.len(), known.len(), "one of each");
    }

    #[test]
    fn the_variables_of_the_master_key_are_named() {
        for variable in MASTER_KEY_VARIABLES {
            assert!(VARIABLES.iter().any(|(name, _)| *name == variable), "{variable}");
        }
    }
}
