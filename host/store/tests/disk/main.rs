//! The store on disks that refuse, break off and lie, and under power failures.
//!
//! A scripted life of the real store runs in a process of its own under `strace`, which tells every system call on the files of the
//! database in order (`trace`) and can make any of them fail. What was written and what was synced is laid out again (`platter`), so
//! that the files can be put down as a power failure at any point would leave them, and the store opened on them.
//!
//! Without `strace` these tests do nothing and say so. `TESTS_DISK=all` tries every point instead of some of them.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod life;
mod platter;
mod trace;

use fumehood_store::{OpenError, Opened, StoreUrl};
use life::{Told, undone};
use platter::{Platter, Power};
use std::path::{Path, PathBuf};
use trace::{Call, Run};

/// A data directory with a database that was made and closed, and what is written down beside it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        open(&place.data()).await.unwrap().close().await;
        place
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn run(&self) -> Run {
        Run::new(self.dir.path())
    }

    /// The files of the database, as they are.
    fn platter(&self) -> Platter {
        Platter::of(&self.data().join("fumehood.db"), &self.data().join("fumehood.db-wal"))
    }
}

async fn open(data: &Path) -> Result<Opened, OpenError> {
    fumehood_store::open(data, &StoreUrl::InDataDir).await
}

/// What is missing of what was told, and what does not hang together.
async fn missing(data: &Path, told: &[Told]) -> Vec<String> {
    let opened = match open(data).await {
        Ok(opened) => opened,
        Err(error) => return vec![format!("it does not open: {error}")],
    };
    let mut missing: Vec<String> = match opened.check().await {
        Ok(problems) => problems.iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("it can't be looked at: {error}")],
    };
    missing.extend(undone(&*opened.store, told).await);
    opened.close().await;
    missing
}

/// Puts the files down as a power failure leaves them, in a directory of its own, and looks at them.
async fn after_power_failure(place: &Place, platter: &Platter, power: Power, told: &[Told]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(place.data().join("master.key"), dir.path().join("master.key")).unwrap();
    platter.put_down(power, dir.path());
    missing(dir.path(), told).await
}

/// Which of so many points are tried.
fn tried(count: usize, at_most: usize) -> impl Iterator<Item = usize> {
    let every = match std::env::var("TESTS_DISK").as_deref() {
        Ok("all") => 1,
        _ => count.div_ceil(at_most).max(1),
    };
    (0..count).step_by(every)
}

/// Lets the power fail at points of what was traced, from `first` on, in every way.
async fn fail_everywhere(place: &Place, mut platter: Platter, calls: &[Call], first: usize, at_most: usize) {
    // Before and after each sync, and after each word that was given; in between the last of a run of writes says the most.
    let decisive = |at: &usize| {
        let ends_writes = !calls[*at].is_write() || !calls.get(at + 1).is_some_and(Call::is_write);
        *at >= first && ends_writes
    };
    let points: Vec<usize> = (0..calls.len()).filter(decisive).collect();
    let tried: Vec<usize> = tried(points.len(), at_most).map(|at| points[at]).collect();
    assert!(tried.len() > 5, "{} points of {} calls", tried.len(), calls.len());
    let (mut told, mut seen) = (Vec::new(), std::collections::HashSet::new());
    for (at, call) in calls.iter().enumerate() {
        platter.apply(call);
        told.extend(Told::of(call));
        if !tried.contains(&at) {
            continue;
        }
        for power in Power::ALL {
            if !seen.insert((platter.fingerprint(power), told.len())) {
                continue;
            }
            let missing = after_power_failure(place, &platter, power, &told).await;
            assert!(
                missing.is_empty(),
                "{power:?} at call {at} ({}), after {told:?}: {missing:#?}",
                call.name()
            );
        }
    }
}

/// The process that lives, when a test starts this binary anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn life_in_a_process_of_its_own() {
    if let Some(dir) = std::env::var_os(trace::VARIABLE) {
        life::live(Path::new(&dir)).await;
    }
}

#[tokio::test]
async fn a_power_failure_at_any_point_loses_nothing_that_was_told() {
    if !trace::is_possible() {
        return;
    }
    let place = Place::new().await;
    let platter = place.platter();
    let lived = place.run().live();
    assert_eq!(lived.refused(), 0, "{:?}", lived.told);
    assert_eq!(lived.told.last(), Some(&Told::End));
    fail_everywhere(&place, platter, &lived.calls, 0, 40).await;
}

#[tokio::test]
async fn a_write_that_the_disk_refuses_is_told_and_nothing_else_is_lost() {
    if !trace::is_possible() {
        return;
    }
    let place = Place::new().await;
    let writes = place.run().live().most_by_one_thread(Call::is_write);
    assert!(writes > 50, "{writes} writes");
    let mut refused = 0;
    for (number, at) in tried(writes, 12).enumerate() {
        let (error, again) = [("ENOSPC", ""), ("ENOSPC", "+"), ("EIO", ""), ("EIO", "+")][number % 4];
        let place = Place::new().await;
        let lived = place
            .run()
            .failing(&format!("write,pwrite64:error={error}:when={}{again}", at + 1))
            .live();
        refused += lived.refused();
        assert_eq!(lived.half(), 0, "{error}{again} at write {at}: {:?}", lived.told);
        let missing = missing(&place.data(), &lived.told).await;
        assert!(missing.is_empty(), "{error}{again} at write {at}: {missing:#?}");
    }
    assert!(refused > 0, "no write was refused");
}

#[tokio::test]
async fn after_a_failed_sync_what_is_told_survives_a_power_failure() {
    if !trace::is_possible() {
        return;
    }
    let place = Place::new().await;
    let syncs = place.run().live().most_by_one_thread(Call::is_sync);
    assert!(syncs > 10, "{syncs} syncs");
    let mut refused = 0;
    for at in tried(syncs, 5) {
        println!("sync {at} of {syncs} fails");
        let place = Place::new().await;
        let platter = place.platter();
        // The host goes on in the same process, on a disk that has dropped what it could not write.
        let lived = place
            .run()
            .failing(&format!("fsync,fdatasync:error=EIO:when={}", at + 1))
            .live();
        refused += lived.refused();
        let failed = lived.calls.iter().position(Call::is_failed_sync);
        fail_everywhere(&place, platter, &lived.calls, failed.unwrap_or(0), 6).await;
    }
    assert!(refused > 0, "no sync failed that somebody waited for");
}

#[tokio::test]
async fn what_a_failed_sync_left_in_memory_is_not_built_upon_after_a_restart() {
    if !trace::is_possible() {
        return;
    }
    let place = Place::new().await;
    let syncs = place.run().live().most_by_one_thread(Call::is_sync);
    let mut ended = 0;
    for at in tried(syncs, 6) {
        println!("sync {at} of {syncs} fails");
        let place = Place::new().await;
        let platter = place.platter();
        // The host ends with the first refusal, as one that is killed. The system still shows what it could not write.
        let first = place
            .run()
            .ending_when_refused()
            .failing(&format!("fsync,fdatasync:error=EIO:when={}", at + 1))
            .live();
        ended += first.refused();
        let second = place.run().again().live();
        let calls = [first.calls.as_slice(), &second.calls].concat();
        fail_everywhere(&place, platter, &calls, first.calls.len(), 6).await;
    }
    assert!(ended > 0, "no host ended with a refusal");
}

#[tokio::test]
async fn a_file_that_may_not_grow_any_further_refuses_what_is_new_and_keeps_what_is_there() {
    if !trace::is_possible() {
        return;
    }
    let mut refused = 0;
    // A write that passes the bound is done in part, and the next one is refused.
    for more in [3, 17, 60, 101] {
        let place = Place::new().await;
        let kibibytes = place.data().join("fumehood.db").metadata().unwrap().len() / 1024 + more;
        let lived = place.run().with_files_of_at_most(kibibytes).live();
        refused += lived.refused();
        assert_eq!(lived.half(), 0, "{kibibytes} KiB: {:?}", lived.told);
        let missing = missing(&place.data(), &lived.told).await;
        assert!(missing.is_empty(), "{kibibytes} KiB: {missing:#?}");
    }
    assert!(refused > 0, "nothing was refused");
}
