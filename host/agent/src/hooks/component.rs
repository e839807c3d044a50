//! Hooks that are components: run by the sandbox like a call of a tool, with what the org grants them and nothing of the session's.

use super::{Answer, Asker, Failure, Question};
use crate::{limits::Limited, ports, redact};
use fumehood_core::{
    call::{CallError, CallErrorCode, Metering},
    hook::{HookFailureKind, HookMode},
    id::CallId,
    ledger::EgressScope,
    name::{ComponentName, ToolName},
};
use fumehood_policy::{
    authority::{Authority, SessionNarrowing},
    files::{Access, Files},
    quantity::Span,
    tool_pattern::ToolFilter,
};
use fumehood_sandbox::{self as sandbox, ShareKey, ports::Ports};
use std::sync::Arc;

/// Of what a hook wrote to its standard streams, so much is logged.
const LOGGED: usize = 4096;

impl Asker {
    /// Asks a component.
    pub(super) async fn ask_component(&self, question: &Question<'_>, name: &ComponentName) -> Result<Answer, Failure> {
        let unavailable = |message: String| Failure::new(HookFailureKind::Unavailable, message);
        let whose = question.whose;
        let tools = self.catalog.tools(&whose.org).await;
        let tools = tools.map_err(|_| unavailable("the host can't read which components there are".to_owned()))?;
        let component = tools.hook(name).ok_or_else(|| {
            unavailable(format!(
                "there is no hook `{name}` among the components of the org; add it with `fumehood tool add`"
            ))
        })?;
        let id = CallId::new();
        let label = ToolName::new(question.hook.name.replace('-', "_"));
        let label = label.map_err(|error| unavailable(error.to_string()))?;
        // THREAT[T-supply-revoked]: counted first, as a call is.
        let running = component.standing.begin();
        let granted = component.standing.granted(&label);
        let granted = granted.map_err(|error| unavailable(error.message))?;
        let (request, grant) = &*granted;
        let policy = self.caller.policy();
        // THREAT[T-hook-narrowed]: what a client narrows, or an agent lists for its tools, silences no hook.
        let mut authority = Authority::compute(request, grant, &[], &SessionNarrowing::default(), policy);
        authority.files = Files::none();
        authority.kv = Access::None;
        authority.call_tools = ToolFilter::all_of([Vec::new()]);
        authority.detach = false;
        let timeout = Span::from_millis(question.hook.timeout.as_millis().min(authority.limits.time.as_millis()));
        authority.limits.time = timeout;
        let digest = component.record.digest;
        let limited = |limited: Limited| Failure::new(HookFailureKind::Limited, limited.to_string());
        let limits = self.caller.limits();
        limits.hook(&whose.org, digest, authority.rate).await.map_err(limited)?;
        let scope = EgressScope {
            org: whose.org.clone(),
            session: Some(whose.session),
            turn: whose.turn,
            call: id,
            tool: label,
            component: name.clone(),
        };
        let ports = self.ports(scope, &authority).await?;
        let asked = sandbox::Question {
            id,
            occasion: occasion(question),
            share: ShareKey::of(&whose.org),
            nested: whose.nested,
            recall: running.recall(),
        };
        let sandbox = self.catalog.sandbox();
        let report = sandbox.ask(&component.code, asked, Arc::new(authority), ports).await;
        running.ended(&report);
        self.log(question, &report).await;
        let denials: Vec<_> = report.denials.iter().map(|denial| denial.reason.as_str()).collect();
        let output = report
            .result
            .map_err(|error| failure(error, &report.metering, &denials.join("; ")))?;
        match question.hook.mode {
            HookMode::Observe => Ok(Answer::Allow),
            HookMode::Guard => Answer::from_value(output.structured.unwrap_or_default()),
        }
    }

    /// What the org grants it; of the session nothing.
    async fn ports(&self, scope: EgressScope, authority: &Authority) -> Result<Ports, Failure> {
        let unavailable = |error: CallError| Failure::new(HookFailureKind::Unavailable, error.message);
        // THREAT[T-hook-forgery]: no secret that a session has set in the place of the org's.
        let secrets = self
            .caller
            .secrets()
            .of(&scope.org, None)
            .await
            .map_err(|_| Failure::new(HookFailureKind::Unavailable, "the host can't read the secrets in use"))?;
        let mut ports = Ports::denied();
        if !authority.sign.is_empty() {
            ports.signer = ports::signer(&secrets, &authority.sign, None).map_err(unavailable)?;
        }
        let (egress, limits) = (self.caller.egress(), self.caller.limits_shared());
        ports.door = ports::door(egress, limits, scope, authority, &secrets, None).map_err(unavailable)?;
        ports.env = self.caller.env();
        Ok(ports)
    }

    async fn log(&self, question: &Question<'_>, report: &sandbox::CallReport) {
        if report.stdout.is_empty() && report.stderr.is_empty() {
            return;
        }
        let whose = question.whose;
        // THREAT[T-sec-log]: a hook is shown no values, but it may be granted the use of some.
        let Ok(secrets) = self.caller.secrets().of(&whose.org, Some(whose.session)).await else {
            return;
        };
        let said = |text: &str| {
            let text = redact::words(secrets.guard(), text);
            text[..text.floor_char_boundary(LOGGED)].to_owned()
        };
        let (stdout, stderr) = (said(&report.stdout), said(&report.stderr));
        tracing::info!(hook = %question.hook.name, session = %whose.session, stdout, stderr, "a hook wrote");
    }
}

fn occasion(question: &Question<'_>) -> sandbox::Occasion {
    sandbox::Occasion {
        id: question.id.clone(),
        point: question.occasion.point,
        mode: question.hook.mode,
        hook: question.hook.name.to_string(),
        agent: question.agent().to_owned(),
        session: question.whose.session.to_string(),
        turn: question.whose.turn.map(|turn| turn.to_string()),
        about: question.about.clone(),
    }
}

fn failure(error: CallError, metering: &Metering, denials: &str) -> Failure {
    let kind = match error.code {
        CallErrorCode::Timeout => HookFailureKind::Timeout,
        CallErrorCode::Trapped | CallErrorCode::OutputTooLarge => HookFailureKind::Crashed,
        // The version is out of use, and its time was over.
        CallErrorCode::Interrupted => HookFailureKind::Unavailable,
        // It never was in a sandbox: there was no place for it.
        CallErrorCode::Unavailable if metering.memory_peak == 0 => HookFailureKind::Limited,
        _ => HookFailureKind::Unreachable,
    };
    let mut message = error.message;
    if !denials.is_empty() {
        message = format!("{message}; {denials}");
    }
    Failure::new(kind, message)
}
