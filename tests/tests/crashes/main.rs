//! The crash matrix: at every fault point, before and after it, the real process is killed and started again, and everything that
//! was promised is looked at.
//!
//! Each case does the same life up to its point: tools of all three effects side by side, an approval, a call that is handed on, jobs, files,
//! steering, a schedule, a webhook, a compaction, undo, a fork, a deletion, a cancel. A step of it that the crash cut off is done again by the client, as a client would do it.
//!
//! By default each point is tried on one side, by turns the one and the other; with `FUMEHOOD_CRASHES=all`, as `cargo xtask soak`
//! sets it, on both. `FUMEHOOD_CRASHES=TEXT` tries those whose name has it in them, on both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod journal;
mod kills;
mod life;
mod script;

use fumehood_tests::{Host, Place, world::World};
use futures::{StreamExt as _, stream};
use life::{Died, Life};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::{collections::BTreeSet, os::unix::process::ExitStatusExt as _};

const SIGKILL: i32 = 9;
/// Cases at a time. A case waits for its disk more than it computes.
const AT_A_TIME: usize = 3;

/// What the process does that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It serves, and a client uses it.
    Serving,
    /// It starts where none did before.
    FirstStart,
    /// It starts after a host that was killed here.
    StartAfter(&'static str),
    /// A command, in the place of a serving host that is not there.
    Command(&'static [&'static str]),
    /// The same where a change of the master key was broken off that leads nowhere.
    CommandAfterNoChange(&'static [&'static str]),
    /// The same where something is to be mended.
    CommandAfterDamage(&'static [&'static str]),
    /// The same where a session is too old.
    CommandAfterAge(&'static [&'static str]),
    /// It serves where a session is too old, and a client uses that.
    ServingAfterAge,
    /// It restores a backup of what was there before.
    Restoring,
    /// It deletes an org.
    DeletingAnOrg,
}

use Doing::{
    Command, CommandAfterAge, CommandAfterDamage, CommandAfterNoChange, DeletingAnOrg, FirstStart, Restoring, Serving,
    ServingAfterAge, StartAfter,
};

/// Where the process is killed, and what it does then.
const MATRIX: &[(&str, Doing)] = &[
    ("journal.append/turn.started", Serving),
    ("journal.append/step.started", Serving),
    ("journal.append/text.completed", Serving),
    ("journal.append/tool.requested", Serving),
    ("journal.append/tool.started", Serving),
    ("journal.append/tool.started:2", Serving),
    ("journal.append/tool.detached", Serving),
    ("journal.append/tool.detached", Serving),
    ("journal.append/tool.provisional", Serving),
    ("callback.give", Serving),
    ("callback.give", Serving),
    ("callback.report", Serving),
    ("journal.append/job.queued", Serving),
    ("journal.append/job.started", Serving),
    ("journal.append/job.completed", Serving),
    ("journal.append/job.completed:2", Serving),
    ("job.take", Serving),
    ("job.stop", Serving),
    ("journal.append/tool.completed", Serving),
    ("journal.append/tool.completed:2", Serving),
    ("journal.append/tool.completed:3", Serving),
    ("journal.append/step.completed", Serving),
    ("journal.append/approval.requested", Serving),
    ("journal.append/approval.resolved", Serving),
    ("journal.append/turn.completed", Serving),
    ("journal.append/compaction.started", Serving),
    ("journal.append/compaction.completed", Serving),
    ("turn.accept", Serving),
    ("turn.add", Serving),
    ("turn.lease", Serving),
    ("turn.lease:2", Serving),
    ("session.rewind", Serving),
    ("session.create", Serving),
    ("session.update", Serving),
    ("session.touch", ServingAfterAge),
    ("session.delete", Serving),
    ("session.shrink", Serving),
    ("session.shrink:2", Serving),
    ("session.end", Serving),
    ("session.update:2", Serving),
    ("session.update:3", Serving),
    ("spending.reserve", Serving),
    ("spending.tell", Serving),
    ("ledger.open", Serving),
    ("ledger.settle", Serving),
    ("recording.keep", Serving),
    ("recording.keep:2", Serving),
    ("schedule.create", Serving),
    ("schedule.change", Serving),
    ("schedule.fire", Serving),
    ("schedule.delete", Serving),
    ("webhook.create", Serving),
    ("webhook.change", Serving),
    ("delivery.settle", Serving),
    ("delivery.replay", Serving),
    ("webhook.delete", Serving),
    ("kv.set", Serving),
    ("kv.delete", Serving),
    ("secret.set", Serving),
    ("secret.delete", Serving),
    ("secrets.rewrap", Command(&["secret", "rotate"])),
    ("master_key.note", Command(&["secret", "rotate"])),
    ("master_key.write", Command(&["secret", "rotate"])),
    ("master_key.write:2", Command(&["secret", "rotate"])),
    ("master_key.take", Command(&["secret", "rotate"])),
    ("master_key.forget", CommandAfterNoChange(&["secret", "rotate"])),
    ("database.id", FirstStart),
    ("files.claim", FirstStart),
    ("org.create", FirstStart),
    ("key.create", FirstStart),
    ("first_key.write", FirstStart),
    ("agents.replace", FirstStart),
    ("component.put", FirstStart),
    ("blob.put", FirstStart),
    ("key.revoke", Command(&["key", "revoke", "KEY"])),
    ("component.remove", Serving),
    ("grant.set", Serving),
    ("workspace.bytes", Serving),
    ("workspace.place", Serving),
    ("workspace.delete", Serving),
    ("files.begin", Serving),
    ("files.settle", Serving),
    ("files.retire", Serving),
    ("files.retire:2", Serving),
    ("files.reinstate", StartAfter("files.retire:after:1")),
    ("files.purge", Serving),
    ("snapshot.bytes", Serving),
    ("snapshot.state", Serving),
    ("snapshot.remove", Serving),
    ("restore.plan", Serving),
    ("restore.put", Serving),
    ("restore.put", StartAfter("session.rewind:after:1")),
    ("restore.clear", Serving),
    ("fork.copy", Serving),
    ("fork.place", Serving),
    ("store.repair", CommandAfterDamage(REPAIR)),
    ("blob.remove", CommandAfterDamage(REPAIR)),
    ("backup.place", Command(&["backup", "copy"])),
    ("restore.place", Restoring),
    ("session.expire", CommandAfterAge(HOUSEKEEP)),
    ("session.shrink", CommandAfterAge(HOUSEKEEP)),
    ("session.end", CommandAfterAge(HOUSEKEEP)),
    ("files.retire", CommandAfterAge(HOUSEKEEP)),
    ("housekeeping.clock", CommandAfterAge(HOUSEKEEP)),
    ("housekeeping.forget", CommandAfterAge(HOUSEKEEP)),
    ("org.delete", DeletingAnOrg),
    ("org.shrink", DeletingAnOrg),
    ("org.end", DeletingAnOrg),
    ("database.erase", DeletingAnOrg),
    ("journal.append/turn.cancelled", Serving),
    ("turn.cancel", Serving),
];

const DELETE: &[&str] = &["org", "delete", "doomed", "--yes"];
const HOUSEKEEP: &[&str] = &["housekeep"];
const REPAIR: &[&str] = &["doctor", "--store", "--repair"];

/// Points that no process passes: nothing in the host does that yet.
const NEVER_PASSED: &[&str] = &["spending.release"];

/// One case.
#[derive(Debug, Clone)]
struct Case {
    fault: String,
    doing: Doing,
}

impl Case {
    fn new(point: &str, moment: &str, doing: Doing) -> Self {
        let fault = match point.split_once(':') {
            Some((point, nth)) => format!("{point}:{moment}:{nth}"),
            None => format!("{point}:{moment}"),
        };
        Self { fault, doing }
    }
}

fn cases() -> Vec<Case> {
    let asked = std::env::var("FUMEHOOD_CRASHES").unwrap_or_default();
    let mut cases = Vec::new();
    for (number, (point, doing)) in MATRIX.iter().enumerate() {
        let moments: &[&str] = match (asked.as_str(), number % 2) {
            ("", 0) => &["after"],
            ("", _) => &["before"],
            _ => &["before", "after"],
        };
        if matches!(asked.as_str(), "" | "all") || point.contains(&asked) {
            cases.extend(moments.iter().map(|moment| Case::new(point, moment, *doing)));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_promised_holds_wherever_the_process_is_killed() {
    let broken: Vec<String> = stream::iter(cases())
        .map(|case| async move {
            let name = format!("{case:?}");
            // On a task of its own, so that one that breaks keeps none of the others from being tried.
            let tried = tokio::spawn(attempt(case)).await;
            tried.err().map(|error| format!("{name}: {error}"))
        })
        .buffer_unordered(AT_A_TIME)
        .filter_map(async |broken| broken)
        .collect()
        .await;
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[tokio::test]
async fn every_fault_point_is_in_the_matrix() {
    let place = Place::empty("");
    let refused = place
        .command(&["config", "show"])
        .env("FUMEHOOD_FAULT", "nowhere:after")
        .output()
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    let (_, points) = said.split_once("there are: ").unwrap();
    let points: BTreeSet<&str> = points.trim().split(", ").collect();
    let tried = MATRIX
        .iter()
        .map(|(point, _)| point.split(['/', ':']).next().unwrap())
        .chain(NEVER_PASSED.iter().copied());
    assert_eq!(tried.collect::<BTreeSet<_>>(), points);
}

async fn attempt(case: Case) {
    let world = World::start().await;
    let place = match case.doing {
        FirstStart => Place::compiled(&script::config()),
        _ => Place::new(&script::config()),
    };
    std::fs::write(place.path().join("script.yaml"), script::script(&world)).unwrap();
    let mut life = Life::new(&world);
    match case.doing {
        Serving => {
            let host = serve(&place, &case.fault).await;
            dies_living(&mut life, host, &case).await;
        }
        ServingAfterAge => {
            let host = place.serve().await;
            life.until_secrets(&host).await;
            host.stop().await;
            age(&place).await;
            let host = serve(&place, &case.fault).await;
            dies_living(&mut life, host, &case).await;
        }
        FirstStart => dies(&place, &["serve", "--listen", "127.0.0.1:0"], &case).await,
        StartAfter(first) => {
            let host = serve(&place, first).await;
            dies_living(&mut life, host, &case).await;
            dies(&place, &["serve", "--listen", "127.0.0.1:0"], &case).await;
        }
        Command(args) | CommandAfterNoChange(args) | CommandAfterDamage(args) | CommandAfterAge(args) => {
            let host = place.serve().await;
            life.until_secrets(&host).await;
            host.stop().await;
            match case.doing {
                CommandAfterNoChange(_) => {
                    std::fs::copy(place.data().join("master.key"), place.data().join("master.key.next")).unwrap();
                }
                CommandAfterDamage(_) => damage(&place).await,
                CommandAfterAge(_) => age(&place).await,
                _ => {}
            }
            let another = place.json(&["key", "create", "--label", "another"]).await;
            let id = another["id"].as_str().unwrap();
            let args: Vec<_> = args.iter().map(|arg| if *arg == "KEY" { id } else { *arg }).collect();
            dies(&place, &args, &case).await;
            if matches!(case.doing, CommandAfterDamage(_) | CommandAfterAge(_)) {
                place.json(&args).await;
            }
            if matches!(case.doing, CommandAfterAge(_)) {
                life.forgets();
            }
        }
        Restoring => {
            let host = place.serve().await;
            life.until_secrets(&host).await;
            host.stop().await;
            place.json(&["backup", "copy", "--with-keys"]).await;
            std::fs::rename(place.data(), place.path().join("before")).unwrap();
            dies(&place, &["restore", "copy"], &case).await;
            if !place.data().exists() {
                place.json(&["restore", "copy"]).await;
            }
        }
        DeletingAnOrg => {
            let host = place.serve().await;
            life.until_secrets(&host).await;
            host.stop().await;
            place.json(&["org", "create", "doomed"]).await;
            dies(&place, DELETE, &case).await;
            let orgs = place.json(&["org", "list"]).await.to_string();
            // It was not begun, or is done by now.
            if orgs.contains("doomed") {
                place.json(DELETE).await;
            }
        }
    }
    let host = place.serve().await;
    life.goes_on(&host).await;
    life.is_whole(&host).await;
    host.stop().await;
    assert_whole(&place, &format!("{case:?}")).await;
}

async fn serve(place: &Place, fault: &str) -> Host {
    place.serve_with(&[("FUMEHOOD_FAULT", fault)]).await
}

/// Uses the host until it dies.
async fn dies_living(life: &mut Life<'_>, host: Host, case: &Case) {
    let lived = life.lives(&host).await;
    assert!(matches!(lived, Err(Died)), "{case:?} was never reached");
    assert_eq!(host.ended().await.signal(), Some(SIGKILL), "{case:?}");
}

/// Runs a command that dies.
async fn dies(place: &Place, args: &[&str], case: &Case) {
    let mut command = place.command(args);
    let running = command.env("FUMEHOOD_FAULT", &case.fault).output();
    let ended = tokio::time::timeout(fumehood_tests::PATIENCE, running)
        .await
        .unwrap_or_else(|_| panic!("{case:?} was never reached"))
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(SIGKILL), "{case:?}: {said}");
}

/// A row that does not follow from its journal, and code that no component has.
async fn damage(place: &Place) {
    std::fs::write(place.data().join("components").join(format!("{:064x}.wasm", 7)), "").unwrap();
    let options = SqliteConnectOptions::new().filename(place.data().join("fumehood.db"));
    let mut database = options.connect().await.unwrap();
    let tampered = sqlx::query("UPDATE sessions SET spent_tokens = spent_tokens + 1")
        .execute(&mut database)
        .await;
    assert!(tampered.unwrap().rows_affected() > 0);
    database.close().await.unwrap();
}

/// Every session is too old.
async fn age(place: &Place) {
    let options = SqliteConnectOptions::new().filename(place.data().join("fumehood.db"));
    let mut database = options.connect().await.unwrap();
    let aged = sqlx::query("UPDATE sessions SET updated = 1, created = 1")
        .execute(&mut database)
        .await;
    assert!(aged.unwrap().rows_affected() > 0);
    // As if the last round had been now.
    let round = "INSERT OR REPLACE INTO meta (key, value) VALUES ('housekeeping_clock', unixepoch() || '000000000')";
    sqlx::query(round).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
}

/// What the doctor says of all that is kept.
async fn assert_whole(place: &Place, case: &str) {
    let output = place.run(&["--json", "doctor", "--store"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{case}: {said}");
}
