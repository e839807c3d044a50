//! Who is listening now: one broadcast channel per session that somebody listens to.
//!
//! The hub is a wake-up and a shortcut, never the truth: a listener that falls behind is told so and reads the journal.

use fumehood_core::{event::Event, id::SessionId};
use fumehood_store::webhooks::is_told;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Notify, broadcast};

/// Events a slow listener may be behind before it is told to read the journal instead. The places of all of them are taken up as soon
/// as anybody listens, so what an idle session costs grows with it; some seconds of a model's answer are enough.
const BACKLOG: usize = 128;

/// The listeners of every session.
#[derive(Debug, Default)]
pub struct Hub {
    /// Something was published that webhooks may be told.
    told: Notify,
    sessions: Mutex<HashMap<SessionId, broadcast::Sender<Arc<Event>>>>,
}

impl Hub {
    /// Listens to a session from now on. Read the journal *after* subscribing, and nothing is missed.
    #[must_use]
    pub fn subscribe(&self, session: SessionId) -> broadcast::Receiver<Arc<Event>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, sender| sender.receiver_count() > 0);
        sessions
            .entry(session)
            .or_insert_with(|| broadcast::channel(BACKLOG).0)
            .subscribe()
    }

    /// Whether anybody listens to the session; so that nobody builds live events for no one.
    #[must_use]
    pub fn is_heard(&self, session: SessionId) -> bool {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&session).is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// Waits until something is published that webhooks may be told, or was since the last wait.
    pub(crate) async fn is_to_be_told(&self) {
        self.told.notified().await;
    }

    /// Shows an event to whoever listens. Never waits.
    pub fn publish(&self, event: Arc<Event>) {
        if event.seq.is_some() && is_told(event.body.type_name()) {
            self.told.notify_one();
        }
        let sender = {
            let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.get(&event.session).cloned()
        };
        if let Some(sender) = sender {
            // An error only says that nobody listens any more.
            let _ = sender.send(event);
        }
    }
}
