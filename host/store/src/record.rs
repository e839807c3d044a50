//! The rows of the store, as the rest of the host sees them.

use crate::lease::Fence;
use fumehood_core::{
    Time,
    awaited::ClientTool,
    content::Content,
    digest::Digest,
    event::{Event, EventBody, NewEvent, Source},
    id::{EventId, KeyId, SessionId, TurnId},
    name::{AgentName, ComponentName, OrgName},
    rewind::{FilesRewound, OutsideEffect},
    tool::ToolDefinition,
    turn::{Budget, TurnStatus},
};
use fumehood_policy::{
    authority::SessionNarrowing, files::FileAccess, grant::Grant, manifest::Manifest, network::NetworkList,
    tool_pattern::ToolPattern,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Org {
    /// Its name; also its id.
    pub name: OrgName,
    /// When it was made.
    pub created: Time,
}

/// An API key, without its secret: the store holds only the SHA-256 of the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Names the key in lists; not secret.
    pub id: KeyId,
    /// The org it acts for.
    pub org: OrgName,
    /// For people.
    pub label: String,
    /// When it was made.
    pub created: Time,
}

/// One conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Its org.
    pub org: OrgName,
    /// The agent that works its turns.
    pub agent: AgentName,
    /// For people.
    pub title: Option<String>,
    /// The client's own data: a JSON object, kept and returned as it came.
    pub metadata: Value,
    /// How the session narrows what tools may do.
    pub narrowing: SessionNarrowing,
    /// When it was made.
    pub created: Time,
    /// When it, its journal, its key-values or its secrets last changed, or something used it that its journal does not tell.
    pub updated: Time,
    /// Since when it is archived: it takes no turns then. `None`: it takes them.
    pub archived: Option<Time>,
}

/// Which sessions of an org.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhichSessions {
    /// Those that are not archived.
    #[default]
    InUse,
    /// Those that are.
    Archived,
    /// All of them.
    All,
}

/// A component that was put.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// As it is kept, with the grant that holds for it.
    pub component: Component,
    /// The org's component of that name before.
    pub before: Option<Component>,
}

/// What may be changed of a session; `None` leaves a part as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SessionChange {
    /// Another agent, from the next turn on.
    pub agent: Option<AgentName>,
    /// Another title; `Some(None)` removes it.
    pub title: Option<Option<String>>,
    /// Other metadata.
    pub metadata: Option<Value>,
    /// Another network list; `Some(None)` removes it.
    pub network: Option<Option<NetworkList>>,
    /// Another access to files; `Some(None)` removes it.
    pub files: Option<Option<FileAccess>>,
    /// Another list of tools whose calls may run in the background; `Some(None)` removes it.
    pub background: Option<Option<Vec<ToolPattern>>>,
    /// Whether it is archived from now on. Not while it has a turn that hasn't ended.
    pub archived: Option<bool>,
}

/// One input worked to an end. Its outcome is in the journal; the status here is a projection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Its id.
    pub id: TurnId,
    /// Its org.
    pub org: OrgName,
    /// Its session.
    pub session: SessionId,
    /// Where it is.
    pub status: TurnStatus,
    /// The place from which on the journal is about it: that of its `turn.queued`; where something of other turns lies between, that of
    /// its `turn.started`, and 0 if it ended without one.
    pub first_seq: u64,
    /// When it was accepted.
    pub created: Time,
    /// When it ended.
    pub ended: Option<Time>,
}

/// When a cancelled turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CancelAt {
    /// At once: what runs is stopped.
    #[default]
    Now,
    /// Once the model has answered, and the calls of the step have ended.
    Boundary,
}

/// Turns that may wait in a session behind the one that is worked.
pub const MAX_QUEUED: u32 = 16;

/// What becomes of a new turn when its session has one that hasn't ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfBusy {
    /// It is not accepted.
    #[default]
    Refuse,
    /// It waits for its turn.
    Queue,
}

/// What a client adds to a turn's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Addition {
    /// By which taking of which turn.
    pub fence: Fence,
    /// What it sent.
    pub input: Vec<Content>,
    /// The client's `Idempotency-Key` and the digest of the request it came with.
    pub idempotency: Option<(String, Digest)>,
}

/// What became of an addition.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per addition, taken apart at once; Recorded is the usual case"
)]
pub enum Added {
    /// It is in the journal, as this `turn.steered`.
    Recorded(fumehood_core::event::Event),
    /// The same key and request came before, and led to this turn: nothing was done.
    Repeated(Turn),
    /// The same key came with another request before: nothing was done.
    KeyReused,
}

/// A turn as somebody saw it: nothing had happened in it after its event at `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The turn.
    pub turn: TurnId,
    /// The `seq` of its last event.
    pub seq: u64,
}

/// A turn that waits for somebody, and what ends it when an input comes instead.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// The turn, as it was seen.
    pub seen: Seen,
    /// What ends it.
    pub events: Vec<NewEvent>,
}

/// A turn to be accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTurn {
    /// Its id, made by the caller.
    pub id: TurnId,
    /// What the client sent.
    pub input: Vec<Content>,
    /// Instructions for this turn only.
    pub system: Option<String>,
    /// What the client allows it to use.
    pub budget: Budget,
    /// What the answer must follow: a JSON Schema.
    pub output_schema: Option<Value>,
    /// The tools that the client brings and runs itself.
    pub tools: Vec<ClientTool>,
    /// Whether it is to be recorded, so that it can be replayed.
    pub record: bool,
    /// The client's `Idempotency-Key` and the digest of the request it came with.
    pub idempotency: Option<(String, Digest)>,
    /// What is undone in the moment that it is accepted.
    pub replaces: Option<NewRewind>,
    /// The turn that ends for it, if that is the only one that hasn't ended and nothing happened in it since it was seen.
    pub ends: Option<Ending>,
    /// Whether it may wait.
    pub if_busy: IfBusy,
}

/// A session that is to go back to before a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRewind {
    /// The id of its `session.rewound`, made by the caller: what was made ready for it is found by that after a crash.
    pub id: EventId,
    /// The last place in the journal that still counts.
    pub after: u64,
    /// The turns that are undone, oldest first: exactly those that begin after that place and are not undone yet.
    pub turns: Vec<TurnId>,
    /// What becomes of the files.
    pub files: FilesRewound,
    /// What is not undone.
    pub outside: Vec<OutsideEffect>,
    /// How much more of it there was.
    pub outside_more: u64,
}

impl NewRewind {
    /// As it is recorded.
    pub(crate) fn event(&self) -> NewEvent {
        NewEvent {
            turn: None,
            source: Source::Client,
            body: EventBody::SessionRewound {
                after: self.after,
                turns: self.turns.clone(),
                files: self.files,
                outside: self.outside.clone(),
                outside_more: self.outside_more,
            },
        }
    }
}

/// What became of a session that was to go back.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per request, taken apart at once; Done is the usual case"
)]
pub enum Rewound {
    /// It did; its `session.rewound`.
    Done(Event),
    /// It has a turn that hasn't ended: nothing was done.
    Busy(TurnId),
    /// Its turns are others than those that were to be undone: nothing was done.
    Stale,
}

/// What became of a turn to be accepted.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// It is a new turn, queued: with what is in the journal for it, its `turn.queued` last.
    New(Turn, Vec<Event>),
    /// The same key and request made this turn before.
    Repeated(Turn),
    /// The same key came with another request before: nothing was done.
    KeyReused,
    /// The session has a turn that hasn't ended, the oldest of which is this: nothing was done.
    Busy(TurnId),
    /// The session's turns are others than those it was to replace: nothing was done.
    Stale,
    /// In the session wait as many turns as may: nothing was done.
    QueueFull,
}

/// A component as an org has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Its name in the org.
    pub name: ComponentName,
    /// The org.
    pub org: OrgName,
    /// Its exact code.
    pub digest: Digest,
    /// What it asks for.
    pub manifest: Manifest,
    /// The tools it offers.
    pub tools: Vec<ToolDefinition>,
    /// What the org lets it do; `None` until somebody decided.
    pub grant: Option<Grant>,
    /// When this version was added.
    pub added: Time,
}

/// Whose secret or key-value it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The whole org's.
    Org(OrgName),
    /// One session's.
    Session(OrgName, SessionId),
}

impl Owner {
    /// The org, in either case.
    #[must_use]
    pub const fn org(&self) -> &OrgName {
        match self {
            Self::Org(org) | Self::Session(org, _) => org,
        }
    }
}

/// A page of a list, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows, in the list's order.
    pub items: Vec<T>,
    /// Pass it to get the rows after these; absent when there are none.
    pub next: Option<String>,
}

/// Which page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// The `next` of the page before.
    pub after: Option<String>,
    /// At most this many rows, from 1 to 1,000: the store brings others into this range.
    pub limit: u32,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            after: None,
            limit: 100,
        }
    }
}
