//! Keeping the states of workspaces, going back to one, and taking the files along into another session.

use super::{
    Inner, Result, WorkspaceError, Workspaces,
    snapshots::{Copied, Left, NotKept, PutBack, copy_now},
    unavailable,
};
use crate::{
    disk,
    error::OpenError,
    faults::{self, Point},
    session_locks::SessionLock,
    sqlite::SqliteStore,
};
use fumehood_core::{
    Time,
    digest::Digest,
    id::{EventId, SessionId},
    rewind::FilesRewound,
};
use fumehood_files::Full;
use std::{io, sync::Arc};

/// What is ready to be put back. As long as it is there, no client changes the files of the session. Dropped, it is put back or
/// thrown away before the files are used again, as the journal says.
#[derive(Debug)]
#[must_use = "it is put back, or discarded"]
pub struct Ready {
    inner: Arc<Inner>,
    session: SessionId,
    event: EventId,
    care: Care,
    /// What becomes of the files: anything but [`FilesRewound::Kept`].
    pub files: FilesRewound,
    /// How many paths change.
    pub changed: usize,
    /// Files whose last change was made while none of the turns ran, and is lost; the first of them.
    pub lost: Vec<String>,
    /// How many more of them there are.
    pub lost_more: usize,
    _alone: SessionLock,
}

/// Who sees to it that what is ready is put back or thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// Who has it.
    Ours,
    /// Nobody needs to, or whoever uses the files next.
    Others,
}

impl Ready {
    fn settled(mut self) {
        self.care = Care::Others;
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // Before the next change may begin: that ends with the last field.
        if self.care == Care::Ours {
            self.inner.snapshots.leave(self.session, Left::UpTo(self.event));
        }
    }
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
        let alone = self.inner.writers.lock(session).await;
        let back = PutBack { event, state, during };
        let (files, prospect) = self
            .keeping(session, move |inner| {
                let tree = match inner.trees.there(session)? {
                    Some(tree) => tree,
                    None => inner.trees.made(session)?,
                };
                let quota = inner.trees.quota();
                inner.snapshots.make_ready(session, &tree, &back, quota).map_err(failed)
            })
            .await?;
        Ok(Ready {
            inner: Arc::clone(&self.inner),
            session,
            event,
            care: match files {
                FilesRewound::Restored => Care::Ours,
                _ => Care::Others,
            },
            files,
            changed: prospect.changed,
            lost: prospect.lost,
            lost_more: prospect.lost_more,
            _alone: alone,
        })
    }

    /// Puts back what is ready: it is decided. Should that fail, it is done before anybody uses the files, or at the next start.
    ///
    /// # Errors
    /// [`WorkspaceError::Gone`], [`WorkspaceError::Unavailable`].
    pub async fn put_back(&self, mut ready: Ready) -> Result<()> {
        if ready.files != FilesRewound::Restored {
            return Ok(());
        }
        self.inner.snapshots.leave(ready.session, Left::Decided);
        ready.care = Care::Others;
        self.keeping(ready.session, move |_| {
            drop(ready);
            Ok(())
        })
        .await
    }

    /// Throws away what is ready: it is not decided.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`]; it is thrown away before anybody uses the files, or at the next start.
    pub async fn discard(&self, ready: Ready) -> Result<()> {
        self.blocking(move |inner| {
            inner.snapshots.discard(ready.session).map_err(unavailable)?;
            ready.settled();
            Ok(())
        })
        .await
    }

    /// Gives a session that has no files those of another: as they are now, or as they were. All of them, or none.
    /// [`Self::settle`] follows when the session is written: a crash before leaves no files.
    ///
    /// # Errors
    /// [`WorkspaceError::Quota`], [`WorkspaceError::Gone`], [`WorkspaceError::Unavailable`].
    pub async fn take_along(&self, from: SessionId, to: SessionId, state: Option<Digest>) -> Result<TakenAlong> {
        self.keeping(from, move |inner| {
            let (name, quota) = (to.to_string(), inner.trees.quota());
            let place = (&inner.temporary, name.as_str());
            let there = inner.trees.there(from)?;
            let copied = faults::around(Point::ForkCopy, || match (state, there) {
                (Some(state), _) => inner.snapshots.copy_state(from, &state, place, quota),
                (None, Some(tree)) => copy_now(&tree, place, quota),
                (None, None) => Ok(Copied::Nothing),
            });
            let taken = match copied {
                Ok(Copied::All) => inner.begin(to).and_then(|()| {
                    let place = || {
                        let placed = inner.temporary.rename(&name, &inner.root, &name);
                        placed.and_then(|()| inner.root.open(".")?.sync_all())
                    };
                    faults::around(Point::ForkPlace, place)
                        .map(|()| TakenAlong::All)
                        .map_err(unavailable)
                }),
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

    /// Like [`Self::blocking`], and apart from others who use what is kept of the session. What is left of going back is ended
    /// first.
    // THREAT[T-org-starve]: who looks at a large workspace keeps no client of another session waiting.
    async fn keeping<T: Send + 'static>(
        &self,
        session: SessionId,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let alone = self.inner.keepers.lock(session).await;
        let verdict = self.verdict(session).await?;
        self.blocking(move |inner| {
            let _alone = alone;
            inner.end(session, verdict)?;
            work(inner)
        })
        .await
    }

    /// Ends what is left of going back, if anything is.
    pub(super) async fn finished(&self, session: SessionId) -> Result<()> {
        match self.inner.snapshots.is_left(session) {
            None => Ok(()),
            Some(_) => self.keeping(session, |_| Ok(())).await,
        }
    }

    /// What becomes of what is left of going back.
    async fn verdict(&self, session: SessionId) -> Result<Verdict> {
        let event = match self.inner.snapshots.is_left(session) {
            None => return Ok(Verdict::Nothing),
            Some(Left::Decided) => return Ok(Verdict::PutBack),
            Some(Left::UpTo(event)) => event,
            Some(Left::Earlier) => {
                let decided = self.blocking(move |inner| inner.snapshots.decided_by(session).map_err(unreadable));
                match decided.await? {
                    Some(event) => event,
                    None => return Ok(Verdict::Discard),
                }
            }
        };
        let Some(journal) = self.inner.journal.get() else {
            return Ok(Verdict::Discard);
        };
        match journal.went_back(session, event).await {
            Ok(true) => Ok(Verdict::PutBack),
            Ok(false) => Ok(Verdict::Discard),
            Err(error) => Err(WorkspaceError::Unavailable {
                reason: error.to_string(),
            }),
        }
    }

    /// Ends what an earlier process left: files that were to be put back are, if the journal says so. A session where that fails
    /// keeps no other waiting: it is tried again before its files are used.
    ///
    /// # Errors
    /// When the system refuses to say what is left.
    pub(crate) async fn finish_what_is_left(&self, journal: &SqliteStore) -> std::result::Result<(), OpenError> {
        // Nobody else sets it.
        let _ = self.inner.journal.set(journal.clone());
        let left = self.blocking(|inner| inner.snapshots.left().map_err(unavailable)).await;
        let left = left.map_err(|error| OpenError::Unavailable {
            path: super::RESTORING.into(),
            reason: error.to_string(),
        })?;
        for session in left {
            tracing::warn!(%session, "the host ended while the session went back; if it did, its files are put back now");
            self.inner.snapshots.leave(session, Left::Earlier);
            let ended = self.finished(session).await;
            if let Err(error) = ended {
                tracing::error!(%session, %error, "the session's files can't be put back yet; nobody uses them until they are");
            }
        }
        Ok(())
    }
}

/// What becomes of what is left of going back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Nothing,
    PutBack,
    Discard,
}

impl Inner {
    fn end(&self, session: SessionId, verdict: Verdict) -> Result<()> {
        match verdict {
            Verdict::Nothing => Ok(()),
            Verdict::Discard => self.snapshots.discard(session).map_err(unavailable),
            Verdict::PutBack => {
                tracing::debug!(%session, "the session went back; its files are put back");
                let tree = self.trees.made(session)?;
                self.snapshots.put_back(session, &tree).map_err(failed)
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn unreadable(error: io::Error) -> WorkspaceError {
    WorkspaceError::Unavailable {
        reason: format!(
            "what its files are to be put back to can't be read: {}",
            disk::reason(&error)
        ),
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
