//! What the store goes through, step by step, and whether a step is there to be seen afterwards.
//!
//! Every id is known beforehand, so that another process can look for what this one did.

use crate::trace::{AGAIN, Call, TOLD, UNTIL_REFUSED};
use fumehood_core::{
    content::Content,
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    name::{AgentName, OrgName, SecretName},
    now,
    turn::{Budget, StopReason},
};
use fumehood_policy::authority::SessionNarrowing;
use fumehood_store::{
    Store, StoreError, StoreUrl,
    record::{Accepted, IfBusy, NewTurn, Owner, Session},
};
use secrecy::SecretString;
use std::{fs::File, io::Write as _, path::Path};

/// One thing that somebody wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Org,
    Session(u8),
    /// An event of so many bytes.
    Remark(u8, u32),
    Value(u8),
    Secret,
    /// A turn with an idempotency key.
    Queue(u8),
    End(u8),
    Delete(u8),
}

use Step::{Delete, End, Org, Queue, Remark, Secret, Session as Begin, Value};

/// The life; the store is closed and opened again between its parts.
const LIFE: [&[Step]; 3] = [
    &[
        Org,
        Begin(1),
        Remark(1, 10),
        Remark(2, 3000),
        Value(1),
        Secret,
        Queue(1),
        Remark(3, 20_000),
        End(1),
        Begin(2),
        Value(2),
    ],
    &[Remark(4, 100), Delete(2), Queue(2), Remark(5, 9000), Value(3)],
    &[End(2), Remark(6, 40_000), Value(1), Remark(7, 400_000), Remark(8, 10)],
];

/// What the process said of a step, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is done.
    Done(usize),
    /// It is refused.
    Refused(usize),
    /// It is refused, and can be seen all the same.
    Half(usize),
    /// The store did not open.
    Unopened,
    /// That was all.
    End,
}

impl Told {
    fn word(self) -> String {
        match self {
            Self::Done(step) => format!("done {step}\n"),
            Self::Refused(step) => format!("refused {step}\n"),
            Self::Half(step) => format!("half {step}\n"),
            Self::Unopened => "unopened\n".into(),
            Self::End => "end\n".into(),
        }
    }

    /// What one line says.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let (word, step) = line.split_once(' ').unwrap_or((line, "0"));
        let step = step.parse().ok()?;
        Some(match word {
            "done" => Self::Done(step),
            "refused" => Self::Refused(step),
            "half" => Self::Half(step),
            "unopened" => Self::Unopened,
            "end" => Self::End,
            _ => return None,
        })
    }

    /// What a call says, if it is one by which the process says something.
    pub(crate) fn of(call: &Call) -> Option<Self> {
        call.said().and_then(|text| Self::read(text.trim_end()))
    }
}

/// Lives in this process, and says of each step what became of it.
pub(crate) async fn live(dir: &Path) {
    let mut said = File::options().append(true).create(true).open(dir.join(TOLD)).unwrap();
    let mut tell = |told: Told| said.write_all(told.word().as_bytes()).unwrap();
    let is_again = std::env::var_os(AGAIN).is_some();
    let mut number = 0;
    for part in LIFE {
        let Ok(opened) = fumehood_store::open(&dir.join("data"), &StoreUrl::InDataDir).await else {
            tell(Told::Unopened);
            number += part.len();
            continue;
        };
        for step in part {
            if is_again && step.undoes_itself() {
                number += 1;
                continue;
            }
            match step.take(&*opened.store).await {
                Ok(()) => tell(Told::Done(number)),
                Err(_) if std::env::var_os(UNTIL_REFUSED).is_some() => {
                    tell(Told::Refused(number));
                    // As one that is killed: nothing is closed.
                    std::process::exit(0);
                }
                Err(_) if matches!(step.is_seen(&*opened.store).await, Ok(true)) && !step.was_before(number) => {
                    tell(Told::Half(number));
                }
                Err(_) => tell(Told::Refused(number)),
            }
            number += 1;
        }
        opened.close().await;
    }
    tell(Told::End);
}

/// What was told to be done and is not to be seen.
pub(crate) async fn undone(store: &dyn Store, told: &[Told]) -> Vec<String> {
    let steps: Vec<Step> = LIFE.concat();
    let mut undone = Vec::new();
    for told in told {
        let Told::Done(number) = told else { continue };
        match steps[*number].is_seen(store).await {
            Ok(true) => {}
            Ok(false) => undone.push(format!("step {number}, {:?}, is not there", steps[*number])),
            Err(error) => undone.push(format!("step {number}, {:?}: {error}", steps[*number])),
        }
    }
    undone
}

impl Step {
    async fn take(self, store: &dyn Store) -> Result<(), StoreError> {
        let (org, one) = (org(), session(1));
        match self {
            // One that a life before this one did is as good.
            Org => match store.create_org(&org).await {
                Err(StoreError::Exists { .. }) => Ok(()),
                made => made.map(drop),
            },
            Begin(number) => match store
                .create_session(&new_session(number), &[remark("begun".into())])
                .await
            {
                Err(StoreError::Exists { .. }) => Ok(()),
                made => made.map(drop),
            },
            Remark(number, length) => store.append(&org, one, &[remark(text(number, length))]).await.map(drop),
            Value(number) => store.kv_set(&owner(), &key(number), &[number; 500]).await,
            Secret => {
                store
                    .secret_set(&owner(), &secret(), &SecretString::from("hunter2-hunter2"))
                    .await
            }
            Queue(number) => match store.accept_turn(&org, one, &new_turn(number)).await? {
                Some(Accepted::New(..) | Accepted::Repeated(_)) => Ok(()),
                _ => Err(StoreError::Gone { what: "session" }),
            },
            End(number) => {
                let ended = store.append(&org, one, &[ended(number)]).await;
                match ended {
                    Err(StoreError::Invalid { .. }) if self.is_seen(store).await? => Ok(()),
                    ended => ended.map(drop),
                }
            }
            Delete(number) => store.delete_session(&org, session(number)).await.map(drop),
        }
    }

    async fn is_seen(self, store: &dyn Store) -> Result<bool, StoreError> {
        let (org, one) = (org(), session(1));
        Ok(match self {
            Org => store.org(&org).await?.is_some(),
            // The second one is deleted later.
            Begin(2) => true,
            Begin(number) => store.session(&org, session(number)).await?.is_some(),
            Remark(number, length) => {
                let wanted = remark(text(number, length)).body;
                let events = store.events(&org, one, 0, u32::MAX).await?;
                events.iter().any(|event| event.body == wanted)
            }
            Value(number) => store.kv_get(&owner(), &key(number)).await? == Some(vec![number; 500]),
            Secret => {
                let secrets = store.secrets_in_effect(&org, Some(one)).await?;
                secrets.iter().any(|(name, _)| *name == secret())
            }
            Queue(number) => {
                let turn = new_turn(number);
                let (key, request) = turn.idempotency.clone().unwrap();
                let again = store.repeated_turn(&org, one, &key, &request).await?;
                matches!(again, Some(Accepted::Repeated(found)) if found.id == turn.id)
            }
            End(number) => {
                let turn = store.turn(&org, turn_id(number)).await?;
                turn.is_some_and(|turn| turn.status.is_terminal())
            }
            Delete(number) => store.session(&org, session(number)).await?.is_none(),
        })
    }

    /// Whether the life undoes it later, or it is what does so.
    fn undoes_itself(self) -> bool {
        matches!(self, Begin(2) | Delete(_))
    }

    /// Whether an earlier step did the same, so that its being there says nothing.
    fn was_before(self, number: usize) -> bool {
        self.undoes_itself() || LIFE.concat()[..number].contains(&self)
    }
}

fn org() -> OrgName {
    OrgName::new("acme").unwrap()
}

fn uuid(kind: u8, number: u8) -> uuid::Uuid {
    let mut bytes = [0; 16];
    (bytes[6], bytes[8], bytes[14], bytes[15]) = (0x70, 0x80, kind, number);
    uuid::Uuid::from_bytes(bytes)
}

fn session(number: u8) -> SessionId {
    SessionId::from_uuid(uuid(1, number))
}

fn turn_id(number: u8) -> TurnId {
    TurnId::from_uuid(uuid(2, number))
}

fn owner() -> Owner {
    Owner::Session(org(), session(1))
}

fn key(number: u8) -> String {
    format!("key {number}")
}

fn secret() -> SecretName {
    SecretName::new("TOKEN").unwrap()
}

fn text(number: u8, length: u32) -> String {
    format!("{number} {}", "x".repeat(length as usize))
}

fn new_session(number: u8) -> Session {
    Session {
        id: session(number),
        org: org(),
        agent: AgentName::new("assistant").unwrap(),
        title: None,
        metadata: serde_json::json!({}),
        narrowing: SessionNarrowing::default(),
        created: now(),
        updated: now(),
        archived: None,
    }
}

fn new_turn(number: u8) -> NewTurn {
    NewTurn {
        id: turn_id(number),
        input: vec![Content::text("hello")],
        system: None,
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        record: false,
        idempotency: Some((format!("key {number}"), Digest::of(&[number]))),
        replaces: None,
        ends: None,
        if_busy: IfBusy::Queue,
    }
}

fn remark(text: String) -> NewEvent {
    NewEvent {
        turn: None,
        source: Source::Host,
        body: EventBody::TextCompleted { step: 1, text },
    }
}

fn ended(number: u8) -> NewEvent {
    NewEvent {
        turn: Some(turn_id(number)),
        source: Source::Host,
        body: EventBody::TurnCompleted {
            stop_reason: StopReason::EndTurn,
            output: Vec::new(),
            usage: None,
            cost: None,
            worked_ms: None,
        },
    }
}
