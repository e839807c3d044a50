//! Fault points: every place where something becomes durable, by name, for tests that kill the process before and after each.
//!
//! A [`Fault`] that was armed kills the process with SIGKILL, as a loss of power would stop it but for what the system still
//! writes. It is there in builds with debug assertions or the feature `faults`; in others nothing is looked at and nothing can be
//! armed.

use std::str::FromStr;

macro_rules! points {
    ($($(#[doc = $doc:literal])* $point:ident = $name:literal,)*) => {
        /// Where something becomes durable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[doc = $doc])* $point,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$point),*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// Events of a session, and what follows from them. One type of event can be meant: `journal.append/tool.completed`.
    Append = "journal.append",
    /// A turn is accepted.
    TurnAccept = "turn.accept",
    /// A turn's input is added to.
    TurnAdd = "turn.add",
    /// A turn is to be cancelled.
    TurnCancel = "turn.cancel",
    /// A host takes a turn to work it, holds it for longer, or lets go of it.
    TurnLease = "turn.lease",
    /// The result of a call that a tool handed on is kept.
    CallbackGive = "callback.give",
    /// It is told how far such a call is.
    CallbackReport = "callback.report",
    /// A job is taken to be run.
    JobTake = "job.take",
    /// A job is to be stopped.
    JobStop = "job.stop",
    /// A session goes back.
    Rewind = "session.rewind",
    /// A session is made.
    SessionCreate = "session.create",
    /// A session is changed.
    SessionUpdate = "session.update",
    /// A session is used by something that its journal does not tell.
    SessionTouch = "session.touch",
    /// The deletion of a session is decided.
    SessionDelete = "session.delete",
    /// The deletion of a session that is too old is decided.
    SessionExpire = "session.expire",
    /// Part of a session that is deleted goes.
    SessionShrink = "session.shrink",
    /// The last of a session that is deleted goes.
    SessionEnd = "session.end",
    /// Part of a budget is held for a model call.
    SpendingReserve = "spending.reserve",
    /// What was held is let go of.
    SpendingRelease = "spending.release",
    /// It is told where a budget stands.
    SpendingTell = "spending.tell",
    /// The door has decided about a request.
    LedgerOpen = "ledger.open",
    /// What came of a request.
    LedgerSettle = "ledger.settle",
    /// What a call was answered from outside is kept.
    RecordingKeep = "recording.keep",
    /// A schedule is made.
    ScheduleCreate = "schedule.create",
    /// A schedule is changed.
    ScheduleChange = "schedule.change",
    /// A schedule is deleted.
    ScheduleDelete = "schedule.delete",
    /// A schedule fires, or passes over a time.
    ScheduleFire = "schedule.fire",
    /// A webhook is made.
    WebhookCreate = "webhook.create",
    /// A webhook is changed.
    WebhookChange = "webhook.change",
    /// A webhook is deleted.
    WebhookDelete = "webhook.delete",
    /// What came of telling a webhook.
    DeliverySettle = "delivery.settle",
    /// Something is to be told again.
    DeliveryReplay = "delivery.replay",
    /// What is too old is forgotten.
    Forget = "housekeeping.forget",
    /// The time by which things are too old.
    HousekeepingClock = "housekeeping.clock",
    /// A key-value is set.
    KeyValueSet = "kv.set",
    /// A key-value is deleted.
    KeyValueDelete = "kv.delete",
    /// A secret is set.
    SecretSet = "secret.set",
    /// A secret is deleted.
    SecretDelete = "secret.delete",
    /// Secrets come under another master key.
    SecretsRewrap = "secrets.rewrap",
    /// The database has the master key's name.
    MasterKeyNote = "master_key.note",
    /// A database is told from every other.
    DatabaseId = "database.id",
    /// What the doctor mends in the database is mended.
    StoreRepair = "store.repair",
    /// A backup has its place.
    BackupPlace = "backup.place",
    /// What a backup had has the place of a data directory.
    RestorePlace = "restore.place",
    /// An org is made.
    OrgCreate = "org.create",
    /// The deletion of an org begins.
    OrgDelete = "org.delete",
    /// Part of an org that is deleted goes.
    OrgShrink = "org.shrink",
    /// The last of an org that is deleted goes.
    OrgEnd = "org.end",
    /// The database file is written anew without what was deleted.
    DatabaseErase = "database.erase",
    /// An API key is made.
    KeyCreate = "key.create",
    /// An API key is revoked.
    KeyRevoke = "key.revoke",
    /// The configured agents take the place of those before.
    AgentsReplace = "agents.replace",
    /// A component is added.
    ComponentPut = "component.put",
    /// A component is removed.
    ComponentRemove = "component.remove",
    /// A grant is decided about.
    GrantSet = "grant.set",
    /// A component's code is kept.
    BlobPut = "blob.put",
    /// A component's code is removed.
    BlobRemove = "blob.remove",
    /// A master key comes into its file.
    MasterKeyWrite = "master_key.write",
    /// The next master key takes its place.
    MasterKeyTake = "master_key.take",
    /// A change of the master key is given up.
    MasterKeyForget = "master_key.forget",
    /// The first API key comes into its file.
    FirstKeyWrite = "first_key.write",
    /// A client's file is written beside the workspace.
    WorkspaceBytes = "workspace.bytes",
    /// A client's file takes its place.
    WorkspacePlace = "workspace.place",
    /// A client deletes a file.
    WorkspaceDelete = "workspace.delete",
    /// The files in a data directory are marked as a database's.
    FilesClaim = "files.claim",
    /// Files are marked as those of a session that may not be written yet.
    FilesBegin = "files.begin",
    /// The mark is removed: it is written.
    FilesSettle = "files.settle",
    /// The files of a session that is to be deleted are put aside.
    FilesRetire = "files.retire",
    /// They are put back.
    FilesReinstate = "files.reinstate",
    /// They are removed.
    FilesPurge = "files.purge",
    /// A file of a state is kept.
    SnapshotBytes = "snapshot.bytes",
    /// A state is kept.
    SnapshotState = "snapshot.state",
    /// A state is removed to make room.
    SnapshotRemove = "snapshot.remove",
    /// Going back is made ready.
    RestorePlan = "restore.plan",
    /// A file is put back.
    RestorePut = "restore.put",
    /// What going back has left is cleared away.
    RestoreClear = "restore.clear",
    /// Files are copied for a fork.
    ForkCopy = "fork.copy",
    /// They become the fork's.
    ForkPlace = "fork.place",
}

/// On which side of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Nothing is durable yet.
    Before,
    /// It is durable, and nobody was told.
    After,
}

/// A point as it is passed: with the types of the events that are appended there.
#[derive(Debug)]
pub(crate) struct Passage {
    point: Point,
    events: Vec<&'static str>,
}

impl Passage {
    /// The types are asked for only where one of them may be meant.
    pub(crate) fn with_events<I: Iterator<Item = &'static str>>(point: Point, events: impl FnOnce() -> I) -> Self {
        let events = if is_armed() { events().collect() } else { Vec::new() };
        Self { point, events }
    }
}

impl From<Point> for Passage {
    fn from(point: Point) -> Self {
        Self {
            point,
            events: Vec::new(),
        }
    }
}

/// Where and when the process is to be killed: `POINT[/EVENT]:before|after[:NTH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    point: Point,
    event: Option<String>,
    moment: Moment,
    nth: u64,
}

/// Why a text is no fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FaultError {
    /// It does not read `POINT[/EVENT]:before|after[:NTH]`.
    #[error("`{0}` is not of the form POINT[/EVENT]:before|after[:NTH], with NTH from 1")]
    Form(String),
    /// There is no such point.
    #[error("there is no fault point `{0}`; there are: {all}", all = names())]
    Unknown(String),
}

fn names() -> String {
    Point::ALL
        .iter()
        .map(|point| point.name())
        .collect::<Vec<_>>()
        .join(", ")
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let wrong = || FaultError::Form(text.to_owned());
        let mut parts = text.split(':');
        let named = parts.next().unwrap_or_default();
        let (name, event) = match named.split_once('/') {
            Some((name, event)) => (name, Some(event.to_owned())),
            None => (named, None),
        };
        let point = Point::ALL.iter().find(|point| point.name() == name);
        let point = *point.ok_or_else(|| FaultError::Unknown(name.to_owned()))?;
        let moment = match parts.next() {
            Some("before") => Moment::Before,
            Some("after") => Moment::After,
            _ => return Err(wrong()),
        };
        let nth = parts.next().map_or(Ok(1), |nth| nth.parse().map_err(|_| wrong()))?;
        if nth == 0 || parts.next().is_some() || event.as_ref().is_some_and(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self {
            point,
            event,
            moment,
            nth,
        })
    }
}

#[cfg(any(debug_assertions, feature = "faults"))]
mod armed {
    use super::{Fault, Moment, Passage};
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    static FAULT: OnceLock<Fault> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// Arms a fault for the rest of the process; the first that is armed counts.
    pub fn arm(fault: Fault) {
        let _ = FAULT.set(fault);
    }

    pub(crate) fn is_armed() -> bool {
        FAULT.get().is_some()
    }

    pub(crate) fn pass(passage: &Passage, moment: Moment) {
        let Some(fault) = FAULT.get() else { return };
        if fault.is_meant(passage, moment) && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == fault.nth {
            die();
        }
    }

    impl Fault {
        pub(super) fn is_meant(&self, passage: &Passage, moment: Moment) -> bool {
            let of_event = |event: &String| passage.events.contains(&event.as_str());
            self.point == passage.point && self.moment == moment && self.event.as_ref().is_none_or(of_event)
        }
    }

    fn die() -> ! {
        // Nothing in this process runs any more when it is done; what the system could refuse here is only another process's end.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(any(debug_assertions, feature = "faults"))]
pub use armed::arm;
#[cfg(any(debug_assertions, feature = "faults"))]
pub(crate) use armed::{is_armed, pass};

#[cfg(not(any(debug_assertions, feature = "faults")))]
pub(crate) const fn is_armed() -> bool {
    false
}

#[cfg(not(any(debug_assertions, feature = "faults")))]
pub(crate) const fn pass(_: &Passage, _: Moment) {}

/// Passes a point.
pub fn hit(point: Point, moment: Moment) {
    if is_armed() {
        pass(&point.into(), moment);
    }
}

/// Does what becomes durable at a point, and passes both its sides; the second only if it was done.
///
/// # Errors
/// Those of the work.
pub fn around<T, E>(point: Point, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    hit(point, Moment::Before);
    let done = work()?;
    hit(point, Moment::After);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    #[test]
    fn a_fault_names_a_point_a_side_and_which_time() {
        let fault: Fault = "journal.append/tool.completed:after:2".parse().unwrap();
        assert_eq!(fault.point, Point::Append);
        assert_eq!(fault.event.as_deref(), Some("tool.completed"));
        assert_eq!((fault.moment, fault.nth), (Moment::After, 2));
        assert_eq!("kv.set:before".parse::<Fault>().unwrap().nth, 1);
    }

    #[test]
    fn what_is_no_fault_is_refused_with_what_would_be() {
        for text in [
            "kv.set",
            "kv.set:during",
            "kv.set:after:0",
            "kv.set:after:x",
            "kv.set:after:1:2",
            "kv.set/:after",
        ] {
            assert!(matches!(text.parse::<Fault>(), Err(FaultError::Form(_))), "{text}");
        }
        let unknown = "kv.get:after".parse::<Fault>().unwrap_err().to_string();
        assert!(
            unknown.contains("`kv.get`") && unknown.contains("kv.set, kv.delete"),
            "{unknown}"
        );
    }

    #[test]
    fn a_fault_about_an_event_is_meant_only_where_that_is_appended() {
        let fault: Fault = "journal.append/tool.started:before".parse().unwrap();
        let passage = |events: &[&'static str]| Passage {
            point: Point::Append,
            events: events.to_vec(),
        };
        assert!(fault.is_meant(&passage(&["step.started", "tool.started"]), Moment::Before));
        assert!(!fault.is_meant(&passage(&["tool.started"]), Moment::After));
        assert!(!fault.is_meant(&passage(&["tool.completed"]), Moment::Before));
        assert!(!fault.is_meant(&Point::TurnAdd.into(), Moment::Before));
    }

    #[test]
    fn names_are_distinct_and_each_point_is_passed_somewhere() {
        let names: BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        let host = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut code = String::new();
        for source in ["store/src", "cli/src"] {
            read(&host.join(source), &mut code);
        }
        let unused: Vec<_> = Point::ALL
            .iter()
            .filter(|point| {
                let used = format!("Point::{point:?}");
                // A longer name that begins so is another point.
                !code.match_indices(&used).any(|(at, _)| {
                    let next = code[at + used.len()..].chars().next();
                    !next.is_some_and(|next| next.is_alphanumeric())
                })
            })
            .collect();
        assert!(unused.is_empty(), "nothing passes {unused:?}");
    }

    fn read(dir: &Path, code: &mut String) {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut entries: Vec<PathBuf> = entries.collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                read(&path, code);
            } else if path.file_name().is_some_and(|name| name != "faults.rs") {
                code.push_str(&fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
}
