//! A question to a hook: a component that exports `fumehood:tool/hooks`, run like a call of a tool, in a fresh instance and under
//! the same limits.

use crate::{
    bindings::fumehood::tool::types::Failure,
    call::{Asked, CallReport, What},
    component::Component,
    error::LoadError,
    load::one_line,
    output,
    ports::Ports,
    recall::Recall,
    sandbox::Sandbox,
    share::ShareKey,
    state::CallState,
};
use fumehood_core::{
    call::{CallResult, Output},
    hook::{HookMode, HookPoint},
    id::CallId,
};
use fumehood_policy::{authority::Authority, limits::Limits};
use serde_json::{Value, json};
use std::{sync::Arc, time::Instant};
use wasmtime::{
    Store,
    component::{
        Component as Compiled, ComponentExportIndex, ComponentType, Instance, Lift, Lower, types::ComponentItem,
    },
};

const HOOKS_INTERFACE: &str = "fumehood:tool/hooks@0.1.0";

/// What a hook is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// For the log and the ledger.
    pub id: CallId,
    /// About what.
    pub occasion: Occasion,
    /// On whose account it computes.
    pub share: ShareKey,
    /// A call waits for the answer that has a slot itself. It does not wait for another then.
    pub nested: bool,
    /// How it hears that it must end sooner.
    pub recall: Recall,
}

/// `occasion` of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occasion {
    /// The same for every attempt to ask about the same thing.
    pub id: String,
    /// Where in the turn.
    pub point: HookPoint,
    /// What becomes of the answer.
    pub mode: HookMode,
    /// The hook's name in the configuration.
    pub hook: String,
    /// The agent.
    pub agent: String,
    /// The session.
    pub session: String,
    /// The turn, where there is one.
    pub turn: Option<String>,
    /// The rest: a JSON object.
    pub about: String,
}

impl Sandbox {
    /// Asks a hook, for no longer than its authority's time limit. The answer is the report's result: as JSON in `structured`, in the form that a webhook answers in.
    ///
    /// Waits for a slot and is cancel-safe as [`Sandbox::call`].
    pub async fn ask(
        &self,
        component: &Component,
        question: Question,
        authority: Arc<Authority>,
        ports: Ports,
    ) -> CallReport {
        let asked = Asked {
            id: question.id,
            share: question.share,
            nested: question.nested,
            deadline: None,
            recall: question.recall,
            what: What::Hook(&question.occasion),
        };
        self.enter(component, asked, authority, ports, Instant::now()).await
    }
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
enum GuestPoint {
    #[component(name = "before-turn")]
    BeforeTurn,
    #[component(name = "after-turn")]
    AfterTurn,
    #[component(name = "before-model-call")]
    BeforeModelCall,
    #[component(name = "after-model-call")]
    AfterModelCall,
    #[component(name = "before-tool-call")]
    BeforeToolCall,
    #[component(name = "after-tool-call")]
    AfterToolCall,
}

impl From<HookPoint> for GuestPoint {
    fn from(point: HookPoint) -> Self {
        match point {
            HookPoint::BeforeTurn => Self::BeforeTurn,
            HookPoint::AfterTurn => Self::AfterTurn,
            HookPoint::BeforeModelCall => Self::BeforeModelCall,
            HookPoint::AfterModelCall => Self::AfterModelCall,
            HookPoint::BeforeToolCall => Self::BeforeToolCall,
            HookPoint::AfterToolCall => Self::AfterToolCall,
        }
    }
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
enum GuestMode {
    #[component(name = "observe")]
    Observe,
    #[component(name = "guard")]
    Guard,
}

impl From<HookMode> for GuestMode {
    fn from(mode: HookMode) -> Self {
        match mode {
            HookMode::Observe => Self::Observe,
            HookMode::Guard => Self::Guard,
        }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct GuestOccasion<'a> {
    id: &'a str,
    point: GuestPoint,
    mode: GuestMode,
    hook: &'a str,
    agent: &'a str,
    session: &'a str,
    turn: Option<&'a str>,
    #[component(name = "deadline-ms")]
    deadline_ms: u64,
    about: &'a str,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum GuestDecision {
    #[component(name = "allow")]
    Allow,
    #[component(name = "deny")]
    Deny(String),
    #[component(name = "change-arguments")]
    ChangeArguments(String),
}

type Answer = Result<GuestDecision, Failure>;

/// `fumehood:tool/hooks.decide`, if the component has it.
pub(crate) fn exports(compiled: &Compiled) -> Result<Option<ComponentExportIndex>, LoadError> {
    let Some(interface) = compiled.get_export_index(None, HOOKS_INTERFACE) else {
        return Ok(None);
    };
    let Some((ComponentItem::ComponentFunc(function), index)) = compiled.get_export(Some(&interface), "decide") else {
        return Err(LoadError::HookMismatch("it has no function `decide`".to_owned()));
    };
    function
        .typecheck::<(GuestOccasion<'_>,), (Answer,)>(&compiled.component_type().instance_type())
        .map_err(|error| LoadError::HookMismatch(one_line(&error)))?;
    Ok(Some(index))
}

/// Asks the guest.
pub(crate) async fn decide(
    instance: &Instance,
    index: &ComponentExportIndex,
    occasion: &Occasion,
    deadline_ms: u64,
    limits: &Limits,
    store: &mut Store<CallState>,
) -> wasmtime::Result<CallResult> {
    let function = instance.get_typed_func::<(GuestOccasion<'_>,), (Answer,)>(&mut *store, index)?;
    let occasion = GuestOccasion {
        id: &occasion.id,
        point: occasion.point.into(),
        mode: occasion.mode.into(),
        hook: &occasion.hook,
        agent: &occasion.agent,
        session: &occasion.session,
        turn: occasion.turn.as_deref(),
        deadline_ms,
        about: &occasion.about,
    };
    let (answer,) = function.call_async(&mut *store, (occasion,)).await?;
    Ok(match answer {
        Ok(decision) => from_guest(decision, limits),
        Err(failure) => output::from_guest(Err(failure), limits),
    })
}

fn from_guest(decision: GuestDecision, limits: &Limits) -> CallResult {
    let answer = match decision {
        GuestDecision::Allow => json!({"decision": "allow"}),
        GuestDecision::Deny(reason) => {
            output::within_limit(reason.len() as u64, limits)?;
            json!({"decision": "deny", "reason": reason})
        }
        GuestDecision::ChangeArguments(text) => {
            output::within_limit(text.len() as u64, limits)?;
            // What is no JSON is passed on as text: whoever reads the answer says that it is no object.
            let arguments = serde_json::from_str(&text).unwrap_or(Value::String(text));
            json!({"decision": "allow", "arguments": arguments})
        }
    };
    Ok(Output {
        structured: Some(answer),
        ..Output::default()
    })
}
