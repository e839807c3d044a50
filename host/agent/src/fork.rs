//! Forks: a session that begins with the conversation and the files of another, and goes its own way from there.
//!
//! The conversation is copied as messages into the new session's journal, which needs nothing of the old one from then on.
//! Key-values and secrets are not copied: secrets go nowhere but where they were put, and what tools keep for one session (a
//! cursor, a lock, the id of something made outside) is seldom right for two.

use crate::{
    history::{Before, Past},
    host::{Host, HostError},
    recorder, redact,
    transcript::Transcript,
};
use fumehood_core::{
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    message::Message,
    name::OrgName,
    now,
    rewind::ForkedFrom,
};
use fumehood_store::{
    record::{Session, Turn},
    workspace::TakenAlong,
};
use serde_json::Value;
use std::sync::Arc;

/// Bytes of messages in one event, unless a single one is longer.
const PIECE: usize = 256 << 10;

/// What a fork takes along.
#[derive(Debug, Clone, Default)]
pub struct ForkRequest {
    /// The last turn; all that have ended when absent.
    pub after: Option<TurnId>,
    /// Another title.
    pub title: Option<String>,
    /// Other data of the client's: a JSON object.
    pub metadata: Option<Value>,
    /// Whether it has the files.
    pub files: TakeFiles,
}

/// Whether a fork has the files of the session it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TakeFiles {
    /// As they were after the last turn that is taken along.
    #[default]
    Along,
    /// It begins without any.
    Not,
}

/// What became of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForkedFiles {
    /// The fork has them.
    Copied,
    /// There were none.
    Empty,
    /// They were left, as asked.
    Left,
    /// What they were is not kept any more.
    Unavailable,
}

/// A fork.
#[derive(Debug, Clone)]
pub struct Forked {
    /// The new session.
    pub session: Session,
    /// Where it comes from.
    pub from: ForkedFrom,
    /// What became of the files.
    pub files: ForkedFiles,
}

/// Where the old session is cut.
struct Cut {
    /// The last place that is looked at.
    last: u64,
    /// How the files were there: as the next turn found them; `None`: as they are now.
    files: Option<Before>,
}

impl Host {
    /// Makes a session that begins as another one was: with all it takes along, or not at all. The other may have an open turn;
    /// that one is not taken along.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; [`HostError::Invalid`] when the turn is undone or has not ended; [`HostError::Files`] when the
    /// files can't be copied.
    pub async fn fork(&self, org: &OrgName, from: SessionId, request: ForkRequest) -> Result<Forked, HostError> {
        let (host, org) = (self.clone(), org.clone());
        // What is copied for it is kept or removed.
        self.to_the_end(async move { host.fork_now(&org, from, request).await })
            .await
    }

    async fn fork_now(&self, org: &OrgName, from: SessionId, request: ForkRequest) -> Result<Forked, HostError> {
        // Nothing begins or is undone there meanwhile.
        let _in_order = self.in_order(from).await;
        let old = self.session(org, from).await?;
        self.chain(org, &old.agent).await?;
        let past = self.past(org, from).await?;
        let cut = self.cut(org, &past, request.after).await?;
        let (messages, seq) = self.conversation(org, from, &past, cut.last).await?;

        // THREAT[T-sec-exfiltration]: of the new session's own secrets none is set yet.
        let guard = self.guard(org, None).await?;
        let title = request.title.map(|title| guard.redact_str(&title).into_owned());
        let mut metadata = request.metadata.unwrap_or(old.metadata);
        redact::json(&guard, &mut metadata);
        let time = now();
        let session = Session {
            id: SessionId::new(),
            org: org.clone(),
            agent: old.agent,
            title: title.or(old.title),
            metadata,
            narrowing: old.narrowing,
            created: time,
            updated: time,
            archived: None,
        };
        let forked_from = ForkedFrom { session: from, seq };
        let mut bodies = vec![EventBody::SessionCreated {
            agent: session.agent.clone(),
            title: session.title.clone(),
            forked_from: Some(forked_from),
        }];
        bodies.extend(pieces(&messages).map(|messages| EventBody::SessionCopied { messages }));
        let mut events: Vec<_> = bodies.into_iter().map(by_client).collect();
        events
            .iter_mut()
            .for_each(|event| redact::event(&guard, &mut event.body));

        // Placed before anybody can find the session: a tool may rely on them.
        let files = self.take_files(from, session.id, request.files, cut.files).await?;
        self.write_session(&session, &events).await?;
        Ok(Forked {
            session,
            from: forked_from,
            files,
        })
    }

    async fn cut(&self, org: &OrgName, past: &Past, after: Option<TurnId>) -> Result<Cut, HostError> {
        let later: &[Turn] = match after {
            None => past.open().map_or(Ok(&[][..]), |open| past.since(open.id))?,
            Some(turn) => {
                let since = past.since(turn)?;
                if since.first().is_some_and(|turn| !turn.status.is_terminal()) {
                    return Err(HostError::Invalid(format!(
                        "the turn {turn} has not ended; wait for its end, or fork after one that has"
                    )));
                }
                since.get(1..).unwrap_or_default()
            }
        };
        let last = later.first().map_or(u64::MAX, |turn| turn.first_seq.saturating_sub(1));
        let mut before = Before::NothingRan;
        for turn in later {
            for event in self.store().turn_events(org, turn.id).await? {
                before.look_at(&event.body);
            }
            if !matches!(before, Before::NothingRan) {
                break;
            }
        }
        let files = Some(before).filter(|before| !matches!(before, Before::NothingRan));
        Ok(Cut { last, files })
    }

    /// The messages up to a place, and the last place there is.
    async fn conversation(
        &self,
        org: &OrgName,
        session: SessionId,
        past: &Past,
        last: u64,
    ) -> Result<(Arc<Vec<Message>>, u64), HostError> {
        let mut transcript = Transcript::default();
        let mut seq = 0;
        recorder::for_each_page_between(&**self.store(), org, session, (0, last), &past.passed, |events| {
            transcript.apply_all(events);
            seq = events.last().and_then(|event| event.seq).unwrap_or(seq);
        })
        .await?;
        Ok((transcript.messages(), seq))
    }

    async fn take_files(
        &self,
        from: SessionId,
        to: SessionId,
        files: TakeFiles,
        state: Option<Before>,
    ) -> Result<ForkedFiles, HostError> {
        let state: Option<Digest> = match (files, state) {
            (TakeFiles::Not, _) => return Ok(ForkedFiles::Left),
            (_, Some(Before::NotKept)) => return Ok(ForkedFiles::Unavailable),
            (_, Some(Before::Kept(state))) => Some(state),
            (_, Some(Before::NothingRan) | None) => None,
        };
        Ok(match self.workspaces().take_along(from, to, state).await? {
            TakenAlong::All => ForkedFiles::Copied,
            TakenAlong::Nothing => ForkedFiles::Empty,
            TakenAlong::Unavailable => ForkedFiles::Unavailable,
        })
    }
}

fn by_client(body: EventBody) -> NewEvent {
    NewEvent {
        turn: None,
        source: Source::Client,
        body,
    }
}

/// The messages in pieces that an event may hold.
fn pieces(messages: &[Message]) -> impl Iterator<Item = Vec<Message>> {
    let mut left = messages;
    std::iter::from_fn(move || {
        let mut size = 0;
        let count = left
            .iter()
            .take_while(|message| {
                let fits = size < PIECE;
                size += serde_json::to_vec(message).map_or(PIECE, |text| text.len());
                fits && (size <= PIECE || size == 0)
            })
            .count()
            .max(1);
        let (piece, rest) = left.split_at_checked(count).filter(|(piece, _)| !piece.is_empty())?;
        left = rest;
        Some(piece.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::content::Content;

    fn said(length: usize) -> Message {
        Message::User {
            content: vec![Content::text("x".repeat(length))],
        }
    }

    #[test]
    fn messages_are_copied_in_bounded_pieces_and_none_is_left_out() {
        let messages: Vec<_> = [10, PIECE / 2, PIECE / 2, PIECE * 2, 10, 10].map(said).into();
        let pieces: Vec<_> = pieces(&messages).collect();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 2]);
        assert_eq!(pieces.concat(), messages);
        assert_eq!(super::pieces(&[]).count(), 0);
    }
}
