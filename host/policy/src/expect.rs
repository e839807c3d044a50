//! What an operator expects of the policy, one expectation a line, and what the policy decides about each.
//!
//! ```text
//! # comment
//! tool github                                   which component the following lines are about; `tool -`: none, the lists alone
//! agent assistant                               which agent; `agent -`: none
//! session ses_…                                 which session, with its agent unless one is named; `session -`: none
//! allow http GET https://api.github.com/repos/x
//! deny files write .git
//! ```
//!
//! What no line names is any: `allow` then expects that one installed component with one configured agent may, `deny` that
//! none may.
//!
//! Reading and deciding are pure: who asks knows what is installed, see [`crate::world`]. A line that is not understood is an
//! error, never an expectation that happens to hold.

use crate::{
    address::check_address,
    agent::AgentSpec,
    authority::{Authority, HostPolicy, SessionNarrowing, narrowing},
    files::{Access, WorkspacePath},
    grant::Grant,
    manifest::{EnvName, Manifest},
    network::{Denial, Host, Layer, NetworkPolicy, Target, TargetError, Verdict},
    refusal::{Refusal, Setting},
    suggest::nearest,
    text_serde::shown,
};
use fumehood_core::{
    id::SessionId,
    name::{AgentName, ComponentName, SecretName, ToolName},
};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// One line of a file of expectations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Counted from 1.
    pub line: usize,
    /// The line as it was written, without comment.
    pub text: String,
    /// What is expected.
    pub expected: Expected,
    /// Of what.
    pub action: Action,
    /// In which layers.
    pub context: Context,
}

/// What is expected of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// That it may be done.
    Allow,
    /// That it may not.
    Deny,
}

/// Which layers an expectation is about, besides the host's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// The component.
    pub tool: Which<ComponentName>,
    /// The agent; where a session is named and no agent, the session's own.
    pub agent: Which<AgentName>,
    /// The session.
    pub session: Option<SessionId>,
}

/// Which component or agent an expectation is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Which<T> {
    /// Any there is: no line names one.
    #[default]
    Any,
    /// None at all.
    None,
    /// This one.
    This(T),
}

/// Something that a tool might do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// To send a request.
    Http(Target),
    /// To send a request with a URL or a method that is refused whoever sends it.
    RefusedHttp(TargetError),
    /// To access a file that far.
    Files(Access, WorkspacePath),
    /// To access the key-values that far.
    Kv(Access),
    /// To have a secret sent to a host.
    Secret(SecretName, Host),
    /// To sign with a secret.
    Sign(SecretName),
    /// To call a tool.
    Call(ToolName),
    /// To have its call handed on to somebody outside.
    Detach,
    /// To have calls of one of its own tools run in the background.
    Background(ToolName),
    /// To see an environment variable.
    Env(EnvName),
}

/// A line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct LineError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what is accepted.
    pub message: String,
}

const WORDS: [&str; 5] = ["allow", "deny", "tool", "agent", "session"];
const KINDS: [&str; 9] = [
    "http",
    "files",
    "kv",
    "secret",
    "sign",
    "call",
    "detach",
    "background",
    "env",
];

/// Reads a file of expectations.
///
/// # Errors
/// Every line that is not understood.
pub fn parse(text: &str) -> Result<Vec<Expectation>, Vec<LineError>> {
    let mut context = Context::default();
    let (mut expectations, mut errors) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = uncommented(line).trim();
        if line.is_empty() {
            continue;
        }
        match parse_line(line, &mut context) {
            Ok(None) => {}
            Ok(Some((expected, action))) => expectations.push(Expectation {
                line: number + 1,
                text: line.split_whitespace().collect::<Vec<_>>().join(" "),
                expected,
                action,
                context: context.clone(),
            }),
            Err(message) => errors.push(LineError {
                line: number + 1,
                message,
            }),
        }
    }
    // A file that expects nothing would pass whatever the policy is.
    if expectations.is_empty() && errors.is_empty() {
        errors.push(LineError {
            line: text.lines().count().max(1),
            message: "the file expects nothing; write lines such as `deny http GET https://example.com/`".to_owned(),
        });
    }
    if errors.is_empty() {
        Ok(expectations)
    } else {
        Err(errors)
    }
}

/// A `#` begins a comment at the start of a line or after white space: one inside a URL does not.
fn uncommented(line: &str) -> &str {
    let comment = line
        .char_indices()
        .find(|(at, c)| *c == '#' && line[..*at].chars().next_back().is_none_or(char::is_whitespace));
    comment.map_or(line, |(at, _)| &line[..at])
}

fn parse_line(line: &str, context: &mut Context) -> Result<Option<(Expected, Action)>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let expected = match words.as_slice() {
        ["tool", name] => {
            context.tool = named(name, "tool")?;
            return Ok(None);
        }
        ["agent", name] => {
            context.agent = named(name, "agent")?;
            return Ok(None);
        }
        ["session", id] => {
            context.session = match named(id, "session")? {
                Which::This(id) => Some(id),
                Which::Any | Which::None => None,
            };
            return Ok(None);
        }
        ["allow", ..] => Expected::Allow,
        ["deny", ..] => Expected::Deny,
        [word @ ("tool" | "agent" | "session"), ..] => {
            return Err(format!("write one name after `{word}`, or `{word} -` for none"));
        }
        [word, ..] => {
            return Err(format!(
                "`{}` begins no line{}; a line begins with allow, deny, tool, agent or session",
                shown(word),
                nearest(word, WORDS)
            ));
        }
        [] => return Ok(None),
    };
    let action = parse_action(&words[1..])?;
    if context.tool == Which::None && !matches!(action, Action::Http(_) | Action::RefusedHttp(_)) {
        return Err(
            "this is nothing without a tool: write a line `tool NAME` in the place of `tool -`, or neither for any"
                .to_owned(),
        );
    }
    Ok(Some((expected, action)))
}

fn named<T: FromStr<Err: fmt::Display>>(text: &str, kind: &str) -> Result<Which<T>, String> {
    match text {
        "-" => Ok(Which::None),
        text => text.parse().map(Which::This).map_err(|error| {
            let hint = if kind == "tool" && text.contains('_') {
                "; write the component's name, as `fumehood tool list` shows it"
            } else {
                ""
            };
            format!("{error}{hint}")
        }),
    }
}

fn parse_action(words: &[&str]) -> Result<Action, String> {
    match words {
        ["http", method, url] => parse_http(method, url),
        ["files", access, path] => Ok(Action::Files(parse_access(access)?, parsed(path)?)),
        ["kv", access] => Ok(Action::Kv(parse_access(access)?)),
        ["secret", name, "to", host] => Ok(Action::Secret(parsed(name)?, parsed(host)?)),
        ["sign", name] => Ok(Action::Sign(parsed(name)?)),
        ["call", tool] => Ok(Action::Call(parsed(tool)?)),
        ["detach"] => Ok(Action::Detach),
        ["background", tool] => Ok(Action::Background(parsed(tool)?)),
        ["env", name] => Ok(Action::Env(parsed(name)?)),
        [kind, ..] => Err(match form(kind) {
            Some("") => format!("write `{kind}` and nothing after it"),
            Some(form) => format!("write `{kind} {form}`"),
            None => format!(
                "`{}` is nothing that can be allowed{}; it is one of {}",
                shown(kind),
                nearest(kind, KINDS),
                KINDS.join(", ")
            ),
        }),
        [] => Err(format!(
            "allow or deny what? Write one of {} after it",
            KINDS.join(", ")
        )),
    }
}

fn form(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "http" => "METHOD URL`, as in `http GET https://api.example.com/v1",
        "files" => "read|write PATH`, as in `files write src/x",
        "kv" => "read|write",
        "secret" => "NAME to HOST`, as in `secret TOKEN to api.example.com",
        "sign" | "env" => "NAME",
        "call" | "background" => "TOOL",
        "detach" => "",
        _ => return None,
    })
}

fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn parse_access(text: &str) -> Result<Access, String> {
    match text {
        "read" => Ok(Access::Read),
        "write" => Ok(Access::ReadWrite),
        other => Err(format!(
            "`{}` is no access{}; write `read` or `write`",
            shown(other),
            nearest(other, ["read", "write"])
        )),
    }
}

fn parse_http(method: &str, url: &str) -> Result<Action, String> {
    match Target::parse(method, url) {
        Ok(target) if target.method() == method => Ok(Action::Http(target)),
        Ok(_) | Err(TargetError::Method(_)) => Err(format!(
            "`{}` is no method; write it in capitals, as in `GET https://api.example.com/`",
            shown(method)
        )),
        // A typing error must not pass for a denial.
        Err(error @ (TargetError::Scheme | TargetError::TooLong)) => Err(error.to_string()),
        Err(error) => Ok(Action::RefusedHttp(error)),
    }
}

/// A component as it is installed.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What it asks for.
    pub request: Manifest,
    /// What it may do; absent while it waits for a grant.
    pub grant: Option<Grant>,
}

/// The layers that an expectation is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// The component; none: the lists alone decide on requests.
    pub component: Option<&'a Subject>,
    /// The chain of agents, root to leaf.
    pub agents: &'a [AgentSpec],
    /// The session.
    pub session: &'a SessionNarrowing,
    /// The host.
    pub host: &'a HostPolicy,
    /// For a `call`: who offers the tool.
    pub callee: Callee<'a>,
}

/// Who offers the tool that is to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callee<'a> {
    /// Nobody.
    Nobody,
    /// A component that waits for a grant: it is called by nobody.
    Waiting(&'a ComponentName),
    /// Several components, so none of them.
    Several,
    /// This component.
    One(&'a ComponentName),
}

/// What the policy decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// It may be done.
    Allowed {
        /// The layer and its rule.
        by: String,
    },
    /// It may not.
    Denied {
        /// The layer that said no.
        layer: Layer,
        /// The layer and its rule.
        by: String,
        /// Why, and how to change it.
        reason: String,
    },
}

impl Decided {
    /// Whether it is as expected.
    #[must_use]
    pub const fn is(&self, expected: Expected) -> bool {
        matches!(
            (self, expected),
            (Self::Allowed { .. }, Expected::Allow) | (Self::Denied { .. }, Expected::Deny)
        )
    }

    pub(crate) fn denied(layer: Layer, why: &str, reason: impl Into<String>) -> Self {
        Self::Denied {
            by: format!("{layer}: {why}"),
            layer,
            reason: reason.into(),
        }
    }

    fn from_refusal(allowed: Result<(), Refusal>, by: impl FnOnce() -> String) -> Self {
        match allowed {
            Ok(()) => Self::Allowed { by: by() },
            Err(refusal) => Self::denied(refusal.layer, "no rule allows it", refusal.message),
        }
    }
}

/// Decides on an action as a call in these layers would find it.
#[must_use]
pub fn decide(action: &Action, layers: &Layers<'_>) -> Decided {
    if let Action::RefusedHttp(error) = action {
        return Decided::denied(Layer::Host, "such a URL is refused", error.to_string());
    }
    let Some(component) = layers.component else {
        return match action {
            Action::Http(target) => {
                let policy = narrowing(layers.agents, layers.session, layers.host);
                on_network(policy.decide_narrowing(target), &policy, target, layers.host)
            }
            _ => Decided::denied(
                Layer::Request,
                "there is no component",
                "a line `tool NAME` says which component",
            ),
        };
    };
    let name = &component.request.name;
    let Some(grant) = &component.grant else {
        let reason = format!("{name} waits for a grant; decide with `fumehood tool grant {name}`");
        return Decided::denied(Layer::Grant, "there is none yet", reason);
    };
    let authority = Authority::compute(&component.request, grant, layers.agents, layers.session, layers.host);
    let granted = |what: &dyn fmt::Display| format!("grant: {what}");
    match action {
        Action::RefusedHttp(error) => Decided::denied(Layer::Host, "such a URL is refused", error.to_string()),
        Action::Http(target) => on_network(
            authority.network.decide(target),
            &authority.network,
            target,
            layers.host,
        ),
        Action::Files(access, path) => Decided::from_refusal(authority.may_use_file(path.as_str(), *access), || {
            granted(&authority.files.access)
        }),
        Action::Kv(access) => Decided::from_refusal(authority.may_use_key_values(*access), || granted(&authority.kv)),
        Action::Sign(name) => Decided::from_refusal(authority.may_sign(name), || granted(name)),
        Action::Call(tool) => on_call(&authority, tool, layers.callee),
        Action::Detach => Decided::from_refusal(authority.may_detach(), || granted(&"detach")),
        Action::Background(tool) => {
            Decided::from_refusal(authority.may_run_in_background(name, tool), || granted(tool))
        }
        Action::Env(name) => {
            let asked = component.request.env.names.contains(name);
            let layer = if asked { Layer::Grant } else { Layer::Request };
            let what = format!("reading the variable {name}");
            let allowed = if authority.may_see(name.as_str()) {
                Ok(())
            } else {
                Err(Refusal::not_allowed(&layer, &what, &Setting::Env(name.as_str())))
            };
            Decided::from_refusal(allowed, || granted(name))
        }
        Action::Secret(name, host) => on_secret(&component.request, &authority, name, host),
    }
}

fn on_call(authority: &Authority, tool: &ToolName, callee: Callee<'_>) -> Decided {
    match callee {
        Callee::One(callee) => Decided::from_refusal(authority.may_call(callee, tool), || format!("grant: {tool}")),
        Callee::Nobody => {
            let reason = format!("no installed component offers {tool}");
            Decided::denied(Layer::Host, "there is no such tool", reason)
        }
        Callee::Waiting(component) => {
            let reason = format!(
                "the component {component} of the tool {tool} waits for a grant; decide with `fumehood tool grant {component}`"
            );
            Decided::denied(Layer::Host, "the tool's component has no grant yet", reason)
        }
        Callee::Several => {
            let reason = format!("the tool {tool} is offered by several components, so by none; remove one of them");
            Decided::denied(Layer::Host, "several components offer the tool", reason)
        }
    }
}

fn on_network(verdict: Verdict, policy: &NetworkPolicy, target: &Target, host: &HostPolicy) -> Decided {
    let rule = match verdict {
        Verdict::Denied(denial) => return by_denial(denial),
        Verdict::Allowed { rule } => rule,
    };
    // Names of this machine are what they resolve to everywhere; of others nobody knows beforehand.
    let addresses = match target.host() {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) if is_local(name.as_str()) => {
            vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        }
        Host::Name(_) => Vec::new(),
    };
    for address in addresses {
        if let Err(refusal) = check_address(address, &host.private_networks) {
            return Decided::denied(Layer::Host, "private_networks does not list it", refusal.to_string());
        }
        if let Err(denial) = policy.check_resolved(target, address) {
            return by_denial(denial);
        }
    }
    Decided::Allowed { by: rule }
}

fn is_local(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

fn by_denial(denial: Denial) -> Decided {
    Decided::Denied {
        by: denial.ledger_rule(),
        layer: denial.layer,
        reason: denial.message,
    }
}

fn on_secret(request: &Manifest, authority: &Authority, name: &SecretName, host: &Host) -> Decided {
    let applies =
        |credential: &&crate::credential::Credential| credential.secret == *name && credential.applies_to(host);
    if let Some(credential) = authority.credentials.iter().find(applies) {
        return Decided::Allowed {
            by: format!("grant: {name} in {}", credential.inject),
        };
    }
    let asked = request.credentials.iter().any(|credential| applies(&credential));
    let layer = if asked { Layer::Grant } else { Layer::Request };
    let (text, what) = (host.to_string(), format!("sending {name} to {host}"));
    let setting = Setting::Credential {
        secret: name.as_str(),
        host: &text,
    };
    Decided::from_refusal(Err(Refusal::not_allowed(&layer, &what, &setting)), String::new)
}
