//! Whether a call may enter the sandbox, and with what: judged by the budget, the tool's schema, the guards and the agents' rules.

use super::{
    Driver, Stop,
    handing_over::HandedCall,
    hooks::Final,
    notes::{changed_by_hook, notes, refusal},
};
use crate::{
    callable::{Callable, Tool},
    caller::{Clearance, refused_by},
    catalog::InstalledTool,
    machine::{HandedOn, OpenCall, Verdict},
};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, ComponentRef},
    digest::Digest,
    message::{GivenArguments, RequestedCall},
    name::ToolName,
    tool::Effect,
    turn::BudgetScope,
};
use fumehood_policy::approval::{Judgement, has_rules};

impl Driver {
    /// What can be refused before a sandbox is made, or waits for a person.
    pub(super) fn admit(
        &self,
        open: OpenCall,
        beyond: Option<BudgetScope>,
        judged: Option<Result<Final, CallError>>,
    ) -> Result<Admission, CallError> {
        let refuse = |code, message: String| Err(CallError::new(code, message));
        if let Some(scope) = beyond {
            let whose = match scope {
                BudgetScope::Turn => "turn",
                BudgetScope::Session => "session",
                BudgetScope::Org => "org",
            };
            return refuse(
                CallErrorCode::Denied,
                format!("the {whose}'s budget of tool calls is used up: answer with what you have"),
            );
        }
        let OpenCall { call, verdict } = open;
        if let Verdict::Refused { outcome, feedback } = verdict {
            return refuse(CallErrorCode::Denied, refusal(outcome, feedback));
        }
        let given = arguments(&call)?;
        let found = self.plan.tools.tool(&call.tool)?;
        let tool = found.as_callable();
        let judged = judged.transpose()?;
        let cleared = match verdict {
            Verdict::Approved {
                fingerprint,
                asked,
                edited,
                feedback,
            } => {
                // THREAT[T-appr-substitution]: an update of the component in between is another thing than what was approved.
                if tool.fingerprint(&asked) != fingerprint {
                    return refuse(CallErrorCode::Denied, changed_meanwhile(&tool.definition().name));
                }
                let note = notes(given, &asked, edited.as_ref(), feedback);
                Cleared::approved(tool, edited.unwrap_or(asked), note)
            }
            _ => {
                let mut cleared = Cleared::unasked(given, judged);
                match self.judge(tool, &mut cleared.arguments)? {
                    Judgement::Allow => cleared,
                    Judgement::Deny(rule) => {
                        return refuse(CallErrorCode::Denied, refused_by(&tool.definition().name, &rule));
                    }
                    Judgement::Ask(rule) => {
                        return Ok(Admission::Asks(HeldCall {
                            fingerprint: tool.fingerprint(&cleared.arguments),
                            arguments: cleared.arguments,
                            call,
                            rule,
                        }));
                    }
                }
            }
        };
        match found {
            Tool::Brought(tool) => {
                HandedCall::new(tool, &call, cleared.arguments, cleared.note).map(Admission::HandsOver)
            }
            Tool::Installed(tool) => Ok(Admission::Runs(AdmittedCall::new(&tool, call, cleared, 1))),
        }
    }

    /// How many of the step's calls the budgets have room for.
    pub(super) async fn room_for_calls(&mut self, calls: &[OpenCall]) -> Result<Room, Stop> {
        let of_turn = self.recorder.machine.calls_within_budget();
        let all_were_admitted = calls.iter().all(|open| open.verdict != Verdict::Unasked);
        if all_were_admitted || !self.plan.purse.has_limits() {
            return Ok(Room { of_turn, shared: None });
        }
        // Charged with the event that asks for them.
        self.recorder.settle().await?;
        let all = self.recorder.machine.calls_in_step();
        let beyond = self.plan.purse.calls_beyond().await?;
        let shared = beyond.map(|(scope, beyond)| {
            let beyond = usize::try_from(beyond).unwrap_or(usize::MAX);
            (scope, all.saturating_sub(beyond))
        });
        Ok(Room { of_turn, shared })
    }

    /// Whose budget has no room for the call, if one has not. What was admitted before by those of session and org is not asked about
    /// again.
    pub(super) fn beyond(&self, room: &Room, open: &OpenCall) -> Option<BudgetScope> {
        let place = self.recorder.machine.place_of(open.call.id).unwrap_or(usize::MAX);
        match room.shared {
            _ if place >= room.of_turn => Some(BudgetScope::Turn),
            Some((scope, most)) if place >= most && open.verdict == Verdict::Unasked => Some(scope),
            _ => None,
        }
    }

    /// What the agents' rules say. Nobody is asked about a call that could not run.
    fn judge(&self, tool: &dyn Callable, arguments: &mut Arguments) -> Result<Judgement, CallError> {
        let scope = &self.plan.scope;
        if !has_rules(&scope.chain, tool.component_name(), tool.definition()) {
            return Ok(Judgement::Allow);
        }
        tool.check(arguments)?;
        Ok(scope.judge(tool, arguments))
    }
}

/// How many of a step's calls the budgets have room for: its first ones.
pub(super) struct Room {
    of_turn: usize,
    /// The least of those of session and org, where they have not for all.
    shared: Option<(BudgetScope, usize)>,
}

/// A call that may enter the sandbox.
pub(super) struct AdmittedCall {
    pub(super) call: RequestedCall,
    pub(super) tool: ToolName,
    pub(super) component: ComponentRef,
    pub(super) effect: Effect,
    /// Which attempt it is, from 1.
    pub(super) attempt: u32,
    pub(super) cleared: Cleared,
}

impl AdmittedCall {
    pub(super) fn new(tool: &InstalledTool, call: RequestedCall, cleared: Cleared, attempt: u32) -> Self {
        Self {
            tool: tool.definition.name.clone(),
            component: tool.component_ref(),
            effect: tool.definition.effect,
            call,
            attempt,
            cleared,
        }
    }

    /// The tool.
    pub(super) const fn tool(&self) -> &ToolName {
        &self.tool
    }

    /// Whether it has not begun before.
    pub(super) const fn is_first(&self) -> bool {
        self.attempt <= 1
    }

    /// Whether a person approved it.
    pub(super) const fn is_approved(&self) -> bool {
        matches!(self.cleared.clearance, Clearance::Approved(_))
    }

    /// What the model is told before the result.
    pub(super) fn note(&self) -> Option<String> {
        self.cleared.note.clone()
    }

    /// As the model asked for it.
    pub(super) const fn call(&self) -> &RequestedCall {
        &self.call
    }

    /// What it is called with.
    pub(super) const fn arguments(&self) -> &Arguments {
        &self.cleared.arguments
    }

    /// What it is called with, where that is not what the model gave.
    pub(super) fn changed(&self) -> Option<&Arguments> {
        let given = arguments(&self.call).ok();
        Some(&self.cleared.arguments).filter(|arguments| given != Some(*arguments))
    }
}

/// What a call is made with, and by whose leave.
pub(super) struct Cleared {
    pub(super) arguments: Arguments,
    pub(super) clearance: Clearance,
    /// What the model is told before the result.
    pub(super) note: Option<String>,
}

impl Cleared {
    pub(super) fn approved(tool: &dyn Callable, arguments: Arguments, note: Option<String>) -> Self {
        Self {
            clearance: Clearance::Approved(tool.fingerprint(&arguments)),
            arguments,
            note,
        }
    }

    /// What it was called with before, and nobody was asked about.
    pub(super) fn as_before(given: &Arguments, arguments: Arguments) -> Self {
        Self {
            note: (arguments != *given).then(|| changed_by_hook(&arguments)),
            arguments,
            clearance: Clearance::Nobody,
        }
    }

    /// What the model gave, or what hooks made of it.
    fn unasked(given: &Arguments, judged: Option<Final>) -> Self {
        let (arguments, note) = match judged {
            None => (given.clone(), None),
            Some(Final { arguments, changed_by }) => {
                let note = (!changed_by.is_empty()).then(|| changed_by_hook(&arguments));
                (arguments, note)
            }
        };
        Self {
            arguments,
            clearance: Clearance::Nobody,
            note,
        }
    }
}

/// What becomes of a call before it enters a sandbox.
pub(super) enum Admission {
    Runs(AdmittedCall),
    /// A person decides.
    Asks(HeldCall),
    /// The client runs it.
    HandsOver(HandedCall),
}

/// A call that a person is to be asked about.
pub(super) struct HeldCall {
    pub(super) call: RequestedCall,
    pub(super) arguments: Arguments,
    pub(super) fingerprint: Digest,
    pub(super) rule: String,
}

fn changed_meanwhile(tool: &ToolName) -> String {
    format!(
        "the component of {tool} was changed after the call was asked about, so what was approved is not what would run; call it \
         again, and it is asked about again"
    )
}

/// The arguments that the model gave.
// THREAT[T-loop-malformed-args]: only a JSON object ever reaches a tool.
pub(super) fn arguments(call: &RequestedCall) -> Result<&Arguments, CallError> {
    match &call.arguments {
        GivenArguments::Arguments(arguments) => Ok(arguments),
        GivenArguments::MalformedArguments(_) => Err(CallError::new(
            CallErrorCode::InvalidArguments,
            "the arguments are not a JSON object: send the call again with valid JSON",
        )),
    }
}

/// What a call that was handed on was made with.
pub(crate) fn arguments_of(handed: &HandedOn) -> Arguments {
    let given = || arguments(&handed.call).cloned().unwrap_or_default();
    handed.attempt.arguments.clone().unwrap_or_else(given)
}
