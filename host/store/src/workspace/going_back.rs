//! Keeping the states of workspaces, going back to one, and taking the files along into another session.

use super::{
    Inner, Result, WorkspaceError, Workspaces, alone,
    snapshots::{Copied, NotKept, PutBack, copy_now},
    unavailable,
};
use crate::{error::OpenError, sqlite::SqliteStore};
use fumehood_core::{
    Time,
    digest::Digest,
    id::{EventId, SessionId},
    rewind::FilesRewound,
};
use fumehood_files::Full;
use tokio::sync::OwnedSemaphorePermit;

/// What is ready to be put back. As long as it is there, no client changes the files of the session.
#[derive(Debug)]
#[must_use = "it is put back, or discarded"]
pub struct Ready {
    session: SessionId,
    /// What becomes of the files: anything but [`FilesRewound::Kept`].
    pub files: FilesRewound,
    /// How many paths change.
    pub changed: usize,
    /// Files whose last change was made while none of the turns ran, and is lost; the first of them.
    pub lost: Vec<String>,
    /// How many more of them there are.
    pub lost_more: usize,
    _alone: OwnedSemaphorePermit,
}

/// What became of the files of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenAlong {
    /// It has them.
    All,
    /// There were none.
    Nothing,
    /// What they were is not kept any more.
    Unavailable,
}

impl Workspaces {
    /// Keeps the state of a session's files as it is now, and names it. `None`: it can't be kept, because it does not fit into what
    /// is kept of a session, or holds what could not be put back.
    ///
    /// # Errors
    /// [`WorkspaceError::Gone`]; [`WorkspaceError::Unavailable`] when the files were to be put back and that fails.
    pub async fn snapshot(&self, session: SessionId) -> Result<Option<Digest>> {
        self.keeping(session, move |inner| {
            inner.finish(session)?;
            let tree = inner.trees.there(session)?;
            match inner.snapshots.take(session, tree.as_ref()) {
                Ok(state) => Ok(Some(state)),
                Err(NotKept::Gone) => Err(WorkspaceError::Gone),
                Err(error @ NotKept::Disk(_)) => {
                    tracing::warn!(%session, %error, "the state of a session's files can't be kept; undo leaves them as they are");
                    Ok(None)
                }
                Err(error) => {
                    tracing::debug!(%session, %error, "the state of a session's files is not kept");
                    Ok(None)
                }
            }
        })
        .await
    }

    /// Makes ready what brings a session's files back to a state, to be decided by `event`. `during` is when the turns ran that
    /// are undone.
    ///
    /// # Errors
    /// [`WorkspaceError::Gone`], [`WorkspaceError::Unavailable`].
    pub async fn make_ready(
        &self,
        session: SessionId,
        event: EventId,
        state: Digest,
        during: Vec<(Time, Time)>,
    ) -> Result<Ready> {
        let alone = alone(&self.inner.writers, session).await?;
        let back = PutBack { event, state, during };
        let (files, prospect) = self
            .keeping(session, move |inner| {
                inner.finish(session)?;
                let tree = match inner.trees.there(session)? {
                    Some(tree) => tree,
                    None => inner.trees.made(session)?,
                };
                let quota = inner.trees.quota();
                inner.snapshots.make_ready(session, &tree, &back, quota).map_err(failed)
            })
            .await?;
        Ok(Ready {
            session,
            files,
            changed: prospect.changed,
            lost: prospect.lost,
            lost_more: prospect.lost_more,
            _alone: alone,
        })
    }

    /// Puts back what is ready: it is decided. Should that fail, it is done at the next start, or before the next turn.
    ///
    /// # Errors
    /// [`WorkspaceError::Gone`], [`WorkspaceError::Unavailable`].
    pub async fn put_back(&self, ready: Ready) -> Result<()> {
        self.blocking(move |inner| {
            if ready.files != FilesRewound::Restored {
                return Ok(());
            }
            let tree = inner.trees.made(ready.session)?;
            inner.snapshots.put_back(ready.session, &tree).map_err(failed)
        })
        .await
    }

    /// Throws away what is ready: it is not decided.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`]; it is thrown away at the next start then.
    pub async fn discard(&self, ready: Ready) -> Result<()> {
        self.blocking(move |inner| inner.snapshots.discard(ready.session).map_err(unavailable))
            .await
    }

    /// Gives a session that has no files those of another: as they are now, or as they were. All of them, or none.
    ///
    /// # Errors
    /// [`WorkspaceError::Quota`], [`WorkspaceError::Gone`], [`WorkspaceError::Unavailable`].
    pub async fn take_along(&self, from: SessionId, to: SessionId, state: Option<Digest>) -> Result<TakenAlong> {
        self.keeping(from, move |inner| {
            inner.finish(from)?;
            let (name, quota) = (to.to_string(), inner.trees.quota());
            let place = (&inner.temporary, name.as_str());
            let copied = match state {
                Some(state) => inner.snapshots.copy_state(from, &state, place, quota),
                None => match inner.trees.there(from)? {
                    Some(tree) => copy_now(&tree, place, quota),
                    None => Ok(Copied::Nothing),
                },
            };
            let taken = match copied {
                Ok(Copied::All) => inner
                    .temporary
                    .rename(&name, &inner.root, &name)
                    .and_then(|()| inner.root.open(".")?.sync_all())
                    .map(|()| TakenAlong::All)
                    .map_err(unavailable),
                Ok(Copied::Nothing) => Ok(TakenAlong::Nothing),
                Ok(Copied::NotKept) | Err(NotKept::Strange | NotKept::TooLarge) => Ok(TakenAlong::Unavailable),
                Ok(Copied::Full(Full { limit, most })) => Err(WorkspaceError::Quota {
                    of: limit.counts(),
                    limit: most,
                }),
                Err(error) => Err(failed(error)),
            };
            if !matches!(taken, Ok(TakenAlong::All)) {
                // The first error counts; a leftover is swept at the next start.
                let _ = fumehood_files::remove_all(&inner.temporary, &name);
            }
            taken
        })
        .await
    }

    /// Like [`Self::blocking`], and apart from others who use what is kept of the session.
    // THREAT[T-org-starve]: who looks at a large workspace keeps no client of another session waiting.
    async fn keeping<T: Send + 'static>(
        &self,
        session: SessionId,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let alone = alone(&self.inner.keepers, session).await?;
        self.blocking(move |inner| {
            let _alone = alone;
            work(inner)
        })
        .await
    }

    /// Ends what an earlier process left: files that were to be put back are, if the journal says so.
    ///
    /// # Errors
    /// When the database or the system refuses.
    pub(crate) async fn finish_what_is_left(&self, journal: &SqliteStore) -> std::result::Result<(), OpenError> {
        let refused = |reason: String| OpenError::Unavailable {
            path: super::RESTORING.into(),
            reason,
        };
        let left = self.blocking(|inner| inner.snapshots.left().map_err(unavailable)).await;
        for (session, event) in left.map_err(|error| refused(error.to_string()))? {
            let is_decided = match event {
                Some(event) => journal.has_event(session, event).await,
                None => Ok(false),
            };
            let is_decided = is_decided.map_err(|error| refused(error.to_string()))?;
            let ended = self.blocking(move |inner| {
                if !is_decided {
                    return inner.snapshots.discard(session).map_err(unavailable);
                }
                tracing::warn!(%session, "the session went back and its files did not; they are put back");
                let tree = inner.trees.made(session)?;
                inner.snapshots.put_back(session, &tree).map_err(failed)
            });
            ended.await.map_err(|error| refused(error.to_string()))?;
        }
        Ok(())
    }
}

impl Inner {
    fn finish(&self, session: SessionId) -> Result<()> {
        let tree = || self.trees.made(session).map_err(|_| NotKept::Gone);
        self.snapshots.finish(session, tree).map_err(failed)
    }
}

fn failed(error: NotKept) -> WorkspaceError {
    match error {
        NotKept::Gone => WorkspaceError::Gone,
        NotKept::Disk(error) => unavailable(error),
        other => WorkspaceError::Unavailable {
            reason: other.to_string(),
        },
    }
}
