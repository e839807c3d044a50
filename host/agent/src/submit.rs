//! Turns as they arrive: recognised if they are repeated, counted against the org's limit, accepted, and begun.

use crate::{
    history::{BackTo, FilesToo},
    host::{Host, HostError, Submitted, TurnRequest},
    limits::{Counted, Limited},
    redact,
    schema::Schema,
};
use fumehood_core::{
    content::Content,
    event::{EventBody, NewEvent, Source},
    id::{CallId, SessionId, TurnId},
    name::OrgName,
    turn::TurnStatus,
};
use fumehood_store::{
    StoreError,
    record::{Accepted, NewTurn, Turn},
};
use tracing::Instrument as _;

impl Host {
    /// Accepts a turn and begins to work it. The turn goes on whether or not the caller waits.
    ///
    /// # Errors
    /// [`HostError::NotFound`], [`HostError::Busy`], [`HostError::KeyReused`], [`HostError::Invalid`] for an empty input,
    /// those of [`Host::undo`] for what it replaces, [`HostError::BudgetExhausted`] when the org or the session has nothing left to
    /// spend, [`HostError::Limited`] when the org has begun as many turns as it may. A repeated request costs nothing.
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
            mut output_schema,
            idempotency,
            replaces,
        } = request;
        // Neither the model nor the journal gets a value, not even from a client that has it.
        let guard = self.guard(org, Some(session)).await?;
        redact::contents(&guard, &mut input);
        system = system.map(|text| guard.redact_str(&text).into_owned());
        if let Some(schema) = &mut output_schema {
            redact::json(&guard, schema);
            Schema::compile(schema)
                .map_err(|error| HostError::Invalid(format!("`output_schema` can't be used: {error}")))?;
        }
        let new = NewTurn {
            id: TurnId::new(),
            input,
            system,
            budget,
            output_schema,
            idempotency,
            replaces: None,
        };
        let (host, org) = (self.clone(), org.clone());
        // A task of the host's: a turn that was counted and accepted is begun, also when who asked for it has gone meanwhile.
        let begin = async move { host.begin_turn(&org, session, new, replaces).await };
        let begun = self.tasks().spawn(begin.in_current_span()).await;
        begun.unwrap_or_else(|error| {
            tracing::error!(%error, "the beginning of a turn broke");
            Err(HostError::Fault)
        })
    }

    async fn begin_turn(
        &self,
        org: &OrgName,
        session: SessionId,
        mut new: NewTurn,
        replaces: Option<TurnId>,
    ) -> Result<Submitted, HostError> {
        let _in_order = self.in_order(session).await?;
        if let Some((key, digest)) = &new.idempotency
            && let Some(earlier) = self.store().repeated_turn(org, session, key, digest).await?
        {
            return self.accepted(org, earlier, None).await;
        }
        self.admit(org, session).await?;
        self.refuse_while_summed_up(session)?;
        if let Some(turn) = replaces {
            let back = self.going_back(org, session, BackTo::Before(turn), FilesToo::PutBack);
            new.replaces = match back.await {
                Ok(rewind) => Some(rewind),
                Err(HostError::Busy(open)) => return self.accepted(org, Accepted::Busy(open), None).await,
                Err(error) => return Err(error),
            };
        }
        let limits = self.caller().limits();
        let counted = match limits.turn(org).await {
            Ok(counted) => counted,
            Err(limited) => {
                let is_there = self.tell_limit(org, session, None, &limited).await;
                return Err(if is_there {
                    limited.into()
                } else {
                    HostError::NotFound("session")
                });
            }
        };
        match self.store().accept_turn(org, session, &new).await {
            Ok(Some(accepted @ Accepted::New(..))) => self.accepted(org, accepted, counted).await,
            not_begun => {
                if counted.is_some() {
                    limits.give_back_turn(org).await;
                }
                let not_begun = not_begun?.ok_or(HostError::NotFound("session"))?;
                self.accepted(org, not_begun, None).await
            }
        }
    }

    async fn accepted(
        &self,
        org: &OrgName,
        accepted: Accepted,
        counted: Option<Counted>,
    ) -> Result<Submitted, HostError> {
        let (turn, repeated) = match accepted {
            Accepted::New(turn, recorded) => {
                self.publish(recorded);
                self.drive(&turn);
                (turn, false)
            }
            Accepted::Repeated(turn) => {
                self.drive_if_left(&turn);
                (turn, true)
            }
            Accepted::Stale => return Err(HostError::Changed),
            Accepted::KeyReused => return Err(HostError::KeyReused),
            Accepted::Busy(id) => {
                if let Some(turn) = self.store().turn(org, id).await? {
                    self.drive_if_left(&turn);
                }
                return Err(HostError::Busy(id));
            }
        };
        Ok(Submitted {
            turn,
            repeated,
            counted,
        })
    }

    /// Takes a turn up again that should be at work and is not: a failing store may have kept the host from it.
    fn drive_if_left(&self, turn: &Turn) {
        if matches!(turn.status, TurnStatus::Queued | TurnStatus::Running) {
            self.drive(turn);
        }
    }

    /// Writes into the session's journal that a limit refused something: once for as long as the limit said to wait, so that
    /// knocking on a closed door fills no journal. Whether the session is there.
    pub(crate) async fn tell_limit(
        &self,
        org: &OrgName,
        session: SessionId,
        call: Option<CallId>,
        limited: &Limited,
    ) -> bool {
        let limits = self.caller().limits();
        if !limits.is_news(org, session, limited) {
            return true;
        }
        let reached = NewEvent {
            turn: None,
            source: Source::Host,
            body: EventBody::LimitReached {
                call,
                limit: limited.limit().to_owned(),
                message: limited.to_string(),
            },
        };
        let error = match self.store().append(org, session, &[reached]).await {
            Ok(events) => {
                self.publish(events);
                return true;
            }
            Err(error) => error,
        };
        limits.not_told(org, session, limited);
        if matches!(error, StoreError::Gone { .. }) {
            return false;
        }
        // What was refused stays refused, and is told of when it is the next time.
        tracing::error!(%error, %session, "a journal could not be told of a limit that was reached");
        true
    }
}
