//! Turns as they arrive: recognised if they are repeated, counted against the org's limit, accepted, and begun.

use crate::{
    host::{Host, HostError, Submitted, TurnRequest},
    limits::{Limited, Standing},
    redact,
};
use fumehood_core::{
    content::Content,
    event::{EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    name::OrgName,
};
use fumehood_store::{
    StoreError,
    record::{Accepted, NewTurn},
};

impl Host {
    /// Accepts a turn and begins to work it. The turn goes on whether or not the caller waits.
    ///
    /// # Errors
    /// [`HostError::NotFound`], [`HostError::Busy`], [`HostError::KeyReused`], [`HostError::Invalid`] for an empty input,
    /// [`HostError::Limited`] when the org has begun as many turns as it may. A repeated request costs nothing.
    pub async fn submit_turn(
        &self,
        org: &OrgName,
        session: SessionId,
        request: TurnRequest,
    ) -> Result<Submitted, HostError> {
        if self.is_closing() {
            return Err(HostError::ShuttingDown);
        }
        if request
            .input
            .iter()
            .all(|piece| matches!(piece, Content::Text { text } if text.trim().is_empty()))
        {
            return Err(HostError::Invalid(
                "the input is empty: send a text, or a list of content".into(),
            ));
        }
        let TurnRequest {
            mut input,
            mut system,
            budget,
            idempotency,
        } = request;
        // Neither the model nor the journal gets a value, not even from a client that has it.
        let guard = self.guard(org, Some(session)).await?;
        redact::contents(&guard, &mut input);
        system = system.map(|text| guard.redact_str(&text).into_owned());
        let new = NewTurn {
            id: TurnId::new(),
            input,
            system,
            budget,
            idempotency,
        };
        if let Some((key, digest)) = &new.idempotency
            && let Some(earlier) = self.store().repeated_turn(org, session, key, digest).await?
        {
            return self.accepted(earlier, None);
        }
        let limits = self.caller().limits();
        let standing = match limits.turn(org).await {
            Ok(standing) => standing,
            Err(limited) => return Err(self.turn_limited(org, session, limited).await?),
        };
        match self.store().accept_turn(org, session, &new).await {
            Ok(Some(accepted @ Accepted::New(..))) => self.accepted(accepted, standing),
            not_begun => {
                limits.give_back_turn(org).await;
                self.accepted(not_begun?.ok_or(HostError::NotFound("session"))?, None)
            }
        }
    }

    fn accepted(&self, accepted: Accepted, standing: Option<Standing>) -> Result<Submitted, HostError> {
        let (turn, repeated) = match accepted {
            Accepted::New(turn, queued) => {
                self.publish(vec![queued]);
                self.drive(&turn);
                (turn, false)
            }
            Accepted::Repeated(turn) => (turn, true),
            Accepted::KeyReused => return Err(HostError::KeyReused),
            Accepted::Busy(turn) => return Err(HostError::Busy(turn)),
        };
        Ok(Submitted {
            turn,
            repeated,
            standing,
        })
    }

    /// Writes into the session's journal that a limit refused a turn: once for as long as the limit said to wait, so that knocking
    /// on a closed door fills no journal.
    async fn turn_limited(&self, org: &OrgName, session: SessionId, limited: Limited) -> Result<HostError, HostError> {
        if self.caller().limits().is_news(org, &limited) {
            let reached = NewEvent {
                turn: None,
                source: Source::Host,
                body: EventBody::LimitReached {
                    call: None,
                    limit: limited.limit().to_owned(),
                    message: limited.to_string(),
                },
            };
            match self.store().append(org, session, &[reached]).await {
                Ok(events) => self.publish(events),
                Err(StoreError::Gone { .. }) => return Ok(HostError::NotFound("session")),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(limited.into())
    }
}
