//! A deadline that is set while calls run, for all of them at once.

use fumehood_policy::deadline::Deadline;
use tokio::sync::watch;

/// Sets the deadline. Dropped, it sets none any more.
#[derive(Debug)]
pub struct Recaller(watch::Sender<Option<Deadline>>);

/// What a call hears of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recall(watch::Receiver<Option<Deadline>>);

/// Both ends. Nothing is recalled yet.
#[must_use]
pub fn recall() -> (Recaller, Recall) {
    let (sender, receiver) = watch::channel(None);
    (Recaller(sender), Recall(receiver))
}

impl Recaller {
    /// Has every call that hears of it end then, or no longer, if there is none.
    pub fn set(&self, deadline: Option<Deadline>) {
        self.0.send_replace(deadline);
    }

    /// One more that hears of it.
    #[must_use]
    pub fn recall(&self) -> Recall {
        Recall(self.0.subscribe())
    }
}

impl Recall {
    /// For a call that nobody recalls.
    #[must_use]
    pub fn never() -> Self {
        recall().1
    }

    /// What is set now.
    pub(crate) fn now(&self) -> Option<Deadline> {
        self.0.borrow().clone()
    }

    /// Waits until a deadline passes that is sooner than the other; for ever, if none is set. Cancel-safe.
    pub(crate) async fn sooner_than(mut self, other: &Deadline) -> Deadline {
        loop {
            let sooner = self.0.borrow_and_update().clone();
            let sooner = sooner.filter(|set| set.at() < other.at());
            let passes = async {
                match &sooner {
                    Some(deadline) => tokio::time::sleep_until(deadline.at().into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Another one, or none: who sets it may also have gone, and then what is set stays.
                Ok(()) = self.0.changed() => continue,
                () = passes => {}
            }
            if let Some(deadline) = sooner {
                return deadline;
            }
        }
    }
}
