//! Handing a call on to somebody outside, who ends it.
//!
//! That the call waits is in the journal, and its row beside it, before the tool has what ends it. What the tool says besides that is
//! searched for the token from then on, so that nobody who reads the journal has it.

use super::{CallEvents, Observe};
use crate::callbacks::{CallbackLimits, Token};
use async_trait::async_trait;
use fumehood_core::{
    call::{CallError, CallErrorCode},
    event::{EventBody, NewEvent, Source},
    id::{CallId, CallbackId, TurnId},
    name::ToolName,
    now,
};
use fumehood_sandbox::ports::{Jobs, Ticket};
use secrecy::ExposeSecret as _;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Who would wait for a call that is handed on.
pub(crate) enum Waits {
    /// The turn whose model asked for it.
    Turn(TurnId, Observe, Arc<CallEvents>),
    /// Another tool, which runs meanwhile.
    Tool,
    /// A client that calls the tool itself.
    Client,
    /// Nobody: it runs in the background.
    Nobody,
}

/// The port of one call, which its grant lets be handed on.
pub(crate) fn jobs(waits: Waits, call: CallId, tool: &ToolName, limits: &CallbackLimits) -> Arc<dyn Jobs> {
    match waits {
        Waits::Turn(turn, observe, events) => Arc::new(InTurn {
            turn,
            observe,
            events,
            call,
            tool: tool.clone(),
            limits: limits.clone(),
            is_handed_on: AtomicBool::new(false),
        }),
        Waits::Tool => Arc::new(Refused(
            "handing this call on was denied: another tool made it, and waits for its result; return the result, or let the model \
             call this tool itself",
        )),
        Waits::Client => Arc::new(Refused(
            "handing this call on was denied: no turn waits for its result; it can be handed on where a model calls it in a turn",
        )),
        Waits::Nobody => Arc::new(Refused(
            "handing this call on was denied: it runs in the background, where nothing can be handed on; do the work here, or leave the \
             tool out of `[jobs] background`",
        )),
    }
}

struct Refused(&'static str);

#[async_trait]
impl Jobs for Refused {
    async fn detach(&self, _: Option<Duration>, _: Option<String>) -> Result<Ticket, CallError> {
        Err(CallError::new(CallErrorCode::Denied, self.0))
    }
}

struct InTurn {
    turn: TurnId,
    observe: Observe,
    events: Arc<CallEvents>,
    call: CallId,
    tool: ToolName,
    limits: CallbackLimits,
    is_handed_on: AtomicBool,
}

#[async_trait]
impl Jobs for InTurn {
    async fn detach(&self, within: Option<Duration>, note: Option<String>) -> Result<Ticket, CallError> {
        if self.is_handed_on.swap(true, Ordering::Relaxed) {
            let message = "this call is handed on already, or could not be; it can be handed on once";
            return Err(CallError::new(CallErrorCode::Failed, message));
        }
        let token = Token::random().ok_or_else(|| unavailable("the system gives no random bytes"))?;
        self.events.hide(token.secret());
        let (callback, expires) = (CallbackId::new(), now() + self.limits.waits(within));
        let detached = NewEvent {
            turn: Some(self.turn),
            source: Source::Tool {
                tool: self.tool.to_string(),
                call: self.call,
            },
            body: EventBody::ToolDetached {
                call: self.call,
                tool: self.tool.clone(),
                callback,
                token: token.digest(),
                expires,
                note: note.map(|note| self.events.cleaned(&note)),
            },
        };
        // THREAT[T-callback-early]: recorded before anybody can answer, or nobody gets what answers.
        let recorded = self.observe.claim(detached).await;
        recorded.map_err(|_| unavailable("the host could not write down that it waits"))?;
        let url = self.limits.url.as_deref().map(|url| url.trim_end_matches('/'));
        Ok(Ticket {
            id: callback.to_string(),
            token: token.secret().expose_secret().to_owned(),
            url: url.map(|url| format!("{url}/v1/callbacks/{callback}")),
            expires_ms: u64::try_from(expires.timestamp_millis()).unwrap_or_default(),
        })
    }
}

fn unavailable(why: &str) -> CallError {
    // It is handed on once: the guest has no second try.
    let message = format!(
        "this call was not handed on: {why}; start nothing that would end it, and return an error that says so"
    );
    CallError::new(CallErrorCode::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Telling, observe};
    use fumehood_egress::LeakGuard;

    fn tool() -> ToolName {
        ToolName::new("build").unwrap()
    }

    #[tokio::test]
    async fn the_ticket_is_there_once_it_is_written_down_that_the_call_waits() {
        let (observe, mut observed) = observe();
        let (turn, call) = (TurnId::new(), CallId::new());
        let telling = (observe.clone(), Telling::AtOnce);
        let events = Arc::new(CallEvents::new(telling, Some(turn), call, tool(), LeakGuard::default()));
        let limits = CallbackLimits {
            url: Some("https://agents.example.com/".into()),
            ..CallbackLimits::default()
        };
        let jobs = jobs(Waits::Turn(turn, observe, events), call, &tool(), &limits);
        let mut detaching = jobs.detach(Some(Duration::from_secs(60)), Some("build 7".into()));
        assert!(futures::poll!(&mut detaching).is_pending());
        let event = observed.next().await.unwrap();
        let EventBody::ToolDetached {
            callback, token, note, ..
        } = event.body
        else {
            panic!("not the event of a call that is handed on");
        };
        assert_eq!(note.as_deref(), Some("build 7"));
        assert!(futures::poll!(&mut detaching).is_pending(), "taken out is not recorded");
        observed.recorded();
        let ticket = detaching.await.unwrap();
        assert!(crate::callbacks::is_token(ticket.token.as_bytes(), &token));
        assert_eq!(
            ticket.url,
            Some(format!("https://agents.example.com/v1/callbacks/{callback}"))
        );
        assert!(!format!("{ticket:?}").contains(&ticket.token));
        let again = jobs.detach(None, None).await.unwrap_err();
        assert_eq!(again.code, CallErrorCode::Failed);
    }

    #[tokio::test]
    async fn a_call_that_is_not_written_down_is_not_handed_on() {
        let (observe, observed) = observe();
        drop(observed);
        let (turn, call) = (TurnId::new(), CallId::new());
        let telling = (observe.clone(), Telling::AtOnce);
        let events = Arc::new(CallEvents::new(telling, Some(turn), call, tool(), LeakGuard::default()));
        let jobs = jobs(
            Waits::Turn(turn, observe, events),
            call,
            &tool(),
            &CallbackLimits::default(),
        );
        let refused = jobs.detach(None, None).await.unwrap_err();
        assert_eq!(refused.code, CallErrorCode::Unavailable);
        assert!(
            !refused.message.contains("try again"),
            "a call is handed on once: {refused:?}"
        );
    }

    #[tokio::test]
    async fn a_call_that_no_turn_waits_for_is_not_handed_on_and_says_why() {
        for (waits, why) in [
            (Waits::Tool, "another tool"),
            (Waits::Client, "no turn waits"),
            (Waits::Nobody, "in the background"),
        ] {
            let jobs = jobs(waits, CallId::new(), &tool(), &CallbackLimits::default());
            let refused = jobs.detach(None, None).await.unwrap_err();
            assert_eq!(refused.code, CallErrorCode::Denied);
            assert!(refused.message.contains(why), "{}", refused.message);
        }
    }
}
