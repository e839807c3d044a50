use super::*;
use crate::{
    callbacks::CallbackLimits, caller::CallerParts, limits::Limits, ports::StoreLedger, recording::RECORDING_BYTES,
};
use fumehood_core::turn::{Budget, StepStop};
use fumehood_egress::{Egress, EgressConfig};
use fumehood_policy::authority::{HostPolicy, SessionNarrowing};
use fumehood_sandbox::{Sandbox, SandboxConfig};
use fumehood_store::{
    Opened, StoreUrl,
    lease::{HostId, Lease, Taken},
    record::{IfBusy, NewTurn, Session},
};
use tempfile::TempDir;

/// A turn in a store of its own.
struct Kept {
    opened: Opened,
    caller: Arc<Caller>,
    org: OrgName,
    session: SessionId,
    turn: TurnId,
    host: HostId,
    _dir: TempDir,
}

impl Kept {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = StoreUrl::Sqlite(dir.path().join("store.db"));
        let opened = fumehood_store::open(dir.path(), &url).await.unwrap();
        let org = OrgName::default_org();
        let (session, turn) = (SessionId::new(), TurnId::new());
        opened.store.create_org(&org).await.unwrap();
        let created = Session {
            id: session,
            org: org.clone(),
            agent: "assistant".parse().unwrap(),
            title: None,
            metadata: serde_json::json!({}),
            narrowing: SessionNarrowing::default(),
            created: now(),
            updated: now(),
            archived: None,
        };
        opened.store.create_session(&created, &[]).await.unwrap();
        let input = NewTurn {
            id: turn,
            input: vec![Content::text("hi")],
            system: None,
            budget: Budget::default(),
            output_schema: None,
            tools: Vec::new(),
            record: false,
            idempotency: None,
            replaces: None,
            ends: None,
            if_busy: IfBusy::Refuse,
        };
        opened.store.accept_turn(&org, session, &input).await.unwrap().unwrap();
        Self {
            caller: Arc::new(caller(&opened)),
            opened,
            org,
            session,
            turn,
            host: HostId::new(),
            _dir: dir,
        }
    }

    /// What one writes under who takes the turn now: whoever had it has lost it.
    async fn taken(&self) -> Fence {
        let lease = Lease {
            host: self.host,
            at: now(),
            until: now() + Duration::from_secs(3600),
        };
        match self.opened.store.take_turn(&self.org, self.turn, lease).await.unwrap() {
            Some(Taken::Mine { fence, .. }) => fence,
            other => panic!("{other:?}"),
        }
    }

    async fn recorder(&self, hub: &Arc<Hub>) -> Recorder {
        let (store, caller) = (Arc::clone(&self.opened.store), Arc::clone(&self.caller));
        let written = (self.taken().await, Duration::ZERO);
        Recorder::open(store, caller, Arc::clone(hub), self.org.clone(), self.session, written)
            .await
            .unwrap()
    }

    /// What the journal has after the turn's input.
    async fn journal(&self) -> Vec<EventBody> {
        let events = self.opened.store.events(&self.org, self.session, 0, 100).await.unwrap();
        events.into_iter().skip(1).map(|event| event.body).collect()
    }
}

fn caller(opened: &Opened) -> Caller {
    let store = Arc::clone(&opened.store);
    let sandbox = Sandbox::new(&SandboxConfig {
        max_concurrent_calls: 1,
        ..SandboxConfig::new().unwrap()
    })
    .unwrap();
    let limits = Arc::new(Limits::default());
    let ledger = StoreLedger::new(Arc::clone(&store), Arc::clone(&limits));
    Caller::new(CallerParts {
        sandbox,
        egress: Egress::new(&EgressConfig::default(), Arc::clone(&ledger) as Arc<_>).unwrap(),
        ledger,
        store,
        workspaces: opened.workspaces.clone(),
        policy: HostPolicy::default(),
        limits,
        env: Vec::new(),
        recording_bytes: RECORDING_BYTES,
        callbacks: CallbackLimits::default(),
    })
}

/// A step as a driver holds it back.
fn step() -> [EventBody; 3] {
    [
        EventBody::StepStarted {
            step: 1,
            notes: Vec::new(),
            worked_ms: None,
        },
        EventBody::TextCompleted {
            step: 1,
            text: "held".into(),
        },
        EventBody::StepCompleted {
            step: 1,
            stop_reason: StepStop::Stop,
            usage: None,
            model: None,
            cost: None,
            unmeasured: true,
            dropped_calls: Vec::new(),
            worked_ms: None,
        },
    ]
}

fn without_times(mut bodies: Vec<EventBody>) -> Vec<EventBody> {
    for body in &mut bodies {
        if let EventBody::StepCompleted { worked_ms, .. } = body {
            *worked_ms = None;
        }
    }
    bodies
}

fn of(recorder: &Recorder, bodies: impl IntoIterator<Item = EventBody>) -> Vec<NewEvent> {
    bodies.into_iter().map(|body| recorder.machine.event(body)).collect()
}

/// Two events, the second of which no store keeps.
fn refused(recorder: &Recorder) -> Vec<NewEvent> {
    let said = EventBody::TurnSteered {
        input: vec![Content::text("refused")],
    };
    let live = EventBody::TextDelta {
        step: 1,
        index: 0,
        delta: "refused".into(),
    };
    of(recorder, [said, live])
}

#[tokio::test]
async fn what_was_held_back_is_written_once_by_the_next_settle_though_what_came_with_it_was_refused() {
    let kept = Kept::new().await;
    let hub = Arc::<Hub>::default();
    let mut heard = hub.subscribe(kept.session);
    let mut recorder = kept.recorder(&hub).await;
    let held = of(&recorder, step());
    recorder.hold_back(held).await.unwrap();
    let conversation = recorder.messages();
    assert_eq!(recorder.machine.last_text(), "held");

    let refused = refused(&recorder);
    let error = recorder.record(refused).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    assert!(!recorder.is_settled());
    assert!(!recorder.was_refused(), "it is not for want of a store");
    assert!(kept.journal().await.is_empty(), "neither alone");
    assert!(heard.try_recv().is_err(), "nothing is shown that is not kept");

    recorder.settle().await.unwrap();
    assert!(recorder.is_settled());
    recorder.settle().await.unwrap();
    let journal = kept.journal().await;
    assert!(
        journal[2].worked_ms().is_some(),
        "who ends a step says how long the turn was worked"
    );
    assert_eq!(without_times(journal), step());
    let mut shown = Vec::new();
    while let Ok(event) = heard.try_recv() {
        shown.push(event.body.clone());
    }
    assert_eq!(without_times(shown), step());
    assert_eq!(
        recorder.messages(),
        conversation,
        "folded when it was held back, and not again"
    );
}

#[tokio::test]
async fn what_was_held_back_is_written_by_nobody_once_another_host_has_the_turn() {
    let kept = Kept::new().await;
    let hub = Arc::<Hub>::default();
    let mut recorder = kept.recorder(&hub).await;
    let held = of(&recorder, step());
    recorder.hold_back(held).await.unwrap();
    kept.taken().await;
    let more = of(&recorder, [EventBody::StepRestarted { step: 1 }]);
    assert!(matches!(recorder.record(more).await, Err(StoreError::Lost)));
    assert!(matches!(recorder.settle().await, Err(StoreError::Lost)));
    assert!(!recorder.is_settled());
    assert!(kept.journal().await.is_empty());
}
