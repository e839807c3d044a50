//! Turns as they arrive: recognised if they are repeated, counted against the org's limit, accepted, and begun.

use crate::{
    budgets::Purpose,
    client_tools::{ClientTools, ClientToolsError},
    control,
    history::{BackTo, FilesToo},
    host::{Host, HostError, Mode, Submitted, TurnRequest},
    limits::{Counted, Limited},
    redact,
    reins::NotAdded,
    schema::Schema,
};
use fumehood_core::{
    awaited::ClientTool,
    content::Content,
    event::{EventBody, NewEvent, Source},
    id::{CallId, SessionId, TurnId},
    name::OrgName,
    turn::{Budget, TurnStatus},
};
use fumehood_store::{
    StoreError,
    record::{Accepted, Added, IfBusy, NewTurn, Turn},
};

/// How often an input is offered again whose turn ended before it could be steered.
const STEERING_ATTEMPTS: usize = 16;

/// What became of an input.
enum Begun {
    Accepted(Accepted),
    /// It is part of this turn's input.
    Steered(Turn),
}

fn is_only_input(request: &TurnRequest) -> bool {
    request.system.is_none()
        && request.output_schema.is_none()
        && request.tools.is_empty()
        && !request.record
        && request.replaces.is_none()
        && request.budget == Budget::default()
}

/// Refuses an input that says nothing.
pub(crate) fn refuse_empty(input: &[Content]) -> Result<(), HostError> {
    let is_blank = |piece: &Content| matches!(piece, Content::Text { text } if text.trim().is_empty());
    if input.iter().all(is_blank) {
        return Err(HostError::Invalid(
            "the input is empty: send a text, or a list of content".into(),
        ));
    }
    Ok(())
}

impl Host {
    /// Accepts an input, as a turn or for the one that is worked, and sees to it that it is worked in its turn. The turn goes on whether or not the caller waits.
    ///
    /// # Errors
    /// [`HostError::NotFound`], [`HostError::Busy`], [`HostError::QueueFull`], [`HostError::KeyReused`], [`HostError::HookDenied`] for
    /// what was to steer a turn, [`HostError::Invalid`] for an empty input, those of [`Host::undo`] for what it replaces, [`HostError::BudgetExhausted`] when the org or the session has nothing
    /// left to spend, [`HostError::Limited`] when the org has begun as many turns as it may. A repeated request costs nothing.
    pub async fn submit_turn(
        &self,
        org: &OrgName,
        session: SessionId,
        request: TurnRequest,
    ) -> Result<Submitted, HostError> {
        if self.is_draining() {
            return Err(HostError::ShuttingDown);
        }
        refuse_empty(&request.input)?;
        if request.mode == Mode::Steer && !is_only_input(&request) {
            return Err(HostError::Invalid(
                "what steers a turn is only an `input`: the turn has its own `system`, `budget`, `output_schema`, `tools` and `record`, and \
                 replaces none"
                    .into(),
            ));
        }
        let TurnRequest {
            mut input,
            mut system,
            budget,
            mut output_schema,
            mut tools,
            record,
            idempotency,
            replaces,
            mode,
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
        tools.iter_mut().for_each(|tool| redact::client_tool(&guard, tool));
        ClientTools::ready(&tools).map_err(|error| HostError::Invalid(error.to_string()))?;
        let new = NewTurn {
            id: TurnId::new(),
            input,
            system,
            budget,
            output_schema,
            tools,
            record,
            idempotency,
            replaces: None,
            ends: None,
            if_busy: match mode {
                Mode::Queue => IfBusy::Queue,
                Mode::Reject | Mode::Steer => IfBusy::Refuse,
            },
        };
        let (host, org) = (self.clone(), org.clone());
        // A turn that was counted and accepted is begun.
        self.to_the_end(async move { host.begin_turn(&org, session, new, replaces, mode).await })
            .await
    }

    async fn begin_turn(
        &self,
        org: &OrgName,
        session: SessionId,
        new: NewTurn,
        replaces: Option<TurnId>,
        mode: Mode,
    ) -> Result<Submitted, HostError> {
        if let Some((key, digest)) = &new.idempotency
            && let Some(earlier) = self.store().repeated_turn(org, session, key, digest).await?
        {
            return self.accepted(org, earlier, None).await;
        }
        self.refuse_taken_names(org, &new.tools).await?;
        self.admit(org, session, Purpose::Turn).await?;
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
        let begun = self.accept_or_steer(org, session, new, replaces, mode).await;
        let counts = matches!(&begun, Ok(Begun::Accepted(Accepted::New(..)) | Begun::Steered(_)));
        if counted.is_some() && !counts {
            limits.give_back_turn(org).await;
        }
        let counted = counted.filter(|_| counts);
        match begun? {
            Begun::Accepted(accepted) => self.accepted(org, accepted, counted).await,
            Begun::Steered(turn) => Ok(Submitted {
                turn,
                repeated: false,
                counted,
            }),
        }
    }

    /// Refuses tools of a client whose names the host's have.
    // THREAT[T-client-tools]: nobody takes a client's tool for one of the host's, nor the other way round.
    async fn refuse_taken_names(&self, org: &OrgName, tools: &[ClientTool]) -> Result<(), HostError> {
        if tools.is_empty() {
            return Ok(());
        }
        let there = self.catalog().tools(org).await?;
        let taken = |tool: &&ClientTool| control::is_reserved(&tool.name) || there.is_taken(&tool.name);
        match tools.iter().find(taken) {
            None => Ok(()),
            Some(tool) => {
                let error = ClientToolsError::Taken(tool.name.clone());
                Err(HostError::Invalid(error.to_string()))
            }
        }
    }

    /// The store decides whether the session is busy. What was to steer a turn that ended meanwhile is offered to the store again: so
    /// it is a turn of its own, or it steers the next one.
    async fn accept_or_steer(
        &self,
        org: &OrgName,
        session: SessionId,
        mut new: NewTurn,
        replaces: Option<TurnId>,
        mode: Mode,
    ) -> Result<Begun, HostError> {
        let mut busy_with = None;
        for _ in 0..STEERING_ATTEMPTS {
            if self.is_draining() {
                return Err(HostError::ShuttingDown);
            }
            let accepted = {
                let _in_order = self.in_order(session).await;
                // What waits does not change the conversation.
                if mode != Mode::Queue || replaces.is_some() {
                    self.refuse_while_summed_up(session)?;
                }
                self.accept(org, session, &mut new, replaces).await?
            };
            let accepted = accepted.ok_or(HostError::NotFound("session"))?;
            // One that waits for somebody gives way: the input comes instead.
            if let Accepted::Busy(open) = &accepted
                && mode != Mode::Queue
                && let Some(ending) = self.abandonment(org, *open).await?
                && new.ends.as_ref() != Some(&ending)
            {
                busy_with = Some(*open);
                new.ends = Some(ending);
                continue;
            }
            match accepted {
                Accepted::Busy(open) if mode == Mode::Steer => {
                    if let Some(begun) = self.steer(org, open, &new).await? {
                        return Ok(begun);
                    }
                    busy_with = Some(open);
                }
                accepted => return Ok(Begun::Accepted(accepted)),
            }
        }
        // Each time the turn stopped being worked and did not end: the store fails it.
        Err(busy_with.map_or(HostError::Fault, HostError::Busy))
    }

    /// Accepts the turn, and undoes what it takes the place of. The caller holds the session's order.
    async fn accept(
        &self,
        org: &OrgName,
        session: SessionId,
        new: &mut NewTurn,
        replaces: Option<TurnId>,
    ) -> Result<Option<Accepted>, HostError> {
        let mut ready = None;
        if let Some(turn) = replaces {
            // The same request may have come first: what it undid is not undone again.
            if let Some((key, digest)) = &new.idempotency
                && let Some(earlier) = self.store().repeated_turn(org, session, key, digest).await?
            {
                return Ok(Some(earlier));
            }
            let gives_way = new.ends.as_ref().map(|ending| ending.seen.turn);
            let back = (BackTo::Before(turn), FilesToo::PutBack);
            let back = match self.going_back(org, session, back, gives_way).await {
                Err(HostError::Busy(open)) => return Ok(Some(Accepted::Busy(open))),
                back => back?,
            };
            (new.replaces, ready) = (Some(back.rewind), back.ready);
        }
        let accepted = self.store().accept_turn(org, session, new).await;
        match (&accepted, ready) {
            (Ok(Some(Accepted::New(..))), Some(ready)) => {
                self.put_back(session, ready).await;
            }
            (_, ready) => self.not_back(ready).await,
        }
        Ok(accepted?)
    }

    /// Adds to the input of the open turn. `None` if it ended, or stopped being worked, before it was recorded.
    async fn steer(&self, org: &OrgName, open: TurnId, new: &NewTurn) -> Result<Option<Begun>, HostError> {
        let Some(turn) = self.store().turn(org, open).await? else {
            return Ok(None);
        };
        match turn.status {
            TurnStatus::Queued | TurnStatus::Running => {}
            TurnStatus::AwaitingApproval | TurnStatus::AwaitingResults => return Err(HostError::Busy(open)),
            TurnStatus::Completed | TurnStatus::Failed | TurnStatus::Cancelled => return Ok(None),
        }
        let control = self.drive(&turn);
        match control.add(new.input.clone(), new.idempotency.clone()).await {
            Ok(Added::Recorded(_)) => Ok(Some(Begun::Steered(turn))),
            Ok(Added::Repeated(turn)) => Ok(Some(Begun::Accepted(Accepted::Repeated(turn)))),
            Ok(Added::KeyReused) => Ok(Some(Begun::Accepted(Accepted::KeyReused))),
            Err(NotAdded::Full) => Err(HostError::QueueFull),
            Err(NotAdded::Denied(words)) => Err(HostError::HookDenied(words)),
            Err(NotAdded::Ended) => Ok(None),
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
                self.publish_accepted(org, recorded).await;
                (turn, false)
            }
            Accepted::Repeated(turn) => (turn, true),
            Accepted::Stale => return Err(HostError::Changed),
            Accepted::KeyReused => return Err(HostError::KeyReused),
            Accepted::QueueFull => return Err(HostError::QueueFull),
            Accepted::Busy(id) => {
                if let Some(turn) = self.store().turn(org, id).await? {
                    self.drive_following(org, turn.session, None).await?;
                }
                return Err(HostError::Busy(id));
            }
        };
        // A failing store may have kept the host from working one that came before.
        if let Err(error) = self.drive_next(org, turn.session).await {
            tracing::error!(turn = %turn.id, %error, "an accepted turn could not be begun; the next one, or the next start, does it");
        }
        Ok(Submitted {
            turn,
            repeated,
            counted,
        })
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
