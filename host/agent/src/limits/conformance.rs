//! What every [`RateStore`] promises, tried on each: in memory, and on a real server.

use super::{FailMode, Limits, MemoryRates, OrgLimits, Quota, RateStore, Taken, ValkeyRates, Want};
use fumehood_core::name::OrgName;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

fn quota(text: &str) -> Quota {
    text.parse::<fumehood_policy::quantity::Rate>().unwrap().into()
}

fn want(key: &str, quota: Quota, units: u64) -> Want<'_> {
    Want { key, quota, units }
}

async fn fits(store: &dyn RateStore, key: &str, quota: Quota, units: u64) -> bool {
    matches!(store.take(&[want(key, quota, units)]).await.unwrap(), Taken::All { .. })
}

async fn refused(store: &dyn RateStore, key: &str, quota: Quota, units: u64) -> Duration {
    match store.take(&[want(key, quota, units)]).await.unwrap() {
        Taken::Nothing { retry_after, .. } => retry_after,
        taken @ Taken::All { .. } => panic!("{key}: {taken:?}"),
    }
}

/// Tries every promise.
async fn keeps_every_promise(store: Arc<dyn RateStore>) {
    a_whole_period_fits_at_once_and_then_no_more(&*store).await;
    units_are_weighed(&*store).await;
    keys_do_not_know_of_each_other(&*store).await;
    rates_are_told_apart(&*store).await;
    who_comes_back_when_told_is_admitted(&*store).await;
    what_is_refused_costs_nothing(&*store).await;
    several_are_taken_together_or_not_at_all(&*store).await;
    of_several_that_do_not_fit_the_longest_wait_is_told(&*store).await;
    debts_are_paid_before_anything_fits(&*store).await;
    what_is_given_back_fits_again(&*store).await;
    a_standing_tells_what_is_left(&*store).await;
    of_those_who_race_only_as_many_as_fit_succeed(&store).await;
}

async fn a_whole_period_fits_at_once_and_then_no_more(store: &dyn RateStore) {
    for text in ["1/hour", "3/hour", "7/day", "997/day"] {
        let quota = quota(text);
        for _ in 0..text.split_once('/').unwrap().0.parse::<u32>().unwrap() {
            assert!(fits(store, text, quota, 1).await, "{text}");
        }
        let wait = refused(store, text, quota, 1).await;
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(86_400),
            "{text}: {wait:?}"
        );
    }
}

async fn units_are_weighed(store: &dyn RateStore) {
    let quota = quota("10/hour");
    assert!(fits(store, "weight", quota, 7).await);
    refused(store, "weight", quota, 4).await;
    assert!(fits(store, "weight", quota, 3).await);
    refused(store, "weight", quota, 1).await;
    assert!(fits(store, "all of it", quota, 1_000_000).await);
    refused(store, "all of it", quota, 1).await;
}

async fn keys_do_not_know_of_each_other(store: &dyn RateStore) {
    for key in ["{a}:turns", "{b}:turns", "{a}:turn", "{a}:turns:"] {
        assert!(fits(store, key, quota("1/hour"), 1).await, "{key}");
    }
    refused(store, "{a}:turns", quota("1/hour"), 1).await;
}

async fn rates_are_told_apart(store: &dyn RateStore) {
    let slow = refused_after_one(store, "slow", "1/day").await;
    let fast = refused_after_one(store, "fast", "1/min").await;
    assert!(
        slow > Duration::from_secs(86_000) && fast <= Duration::from_secs(60),
        "{slow:?} {fast:?}"
    );
}

async fn refused_after_one(store: &dyn RateStore, key: &str, rate: &str) -> Duration {
    assert!(fits(store, key, quota(rate), 1).await);
    refused(store, key, quota(rate), 1).await
}

async fn who_comes_back_when_told_is_admitted(store: &dyn RateStore) {
    let quota = quota("2/4s");
    assert!(fits(store, "return", quota, 2).await);
    let wait = refused(store, "return", quota, 1).await;
    assert!(wait <= Duration::from_secs(2), "{wait:?}");
    tokio::time::sleep(wait).await;
    assert!(fits(store, "return", quota, 1).await, "{wait:?}");
}

async fn what_is_refused_costs_nothing(store: &dyn RateStore) {
    let quota = quota("2/hour");
    assert!(fits(store, "refusals", quota, 1).await);
    let first = refused(store, "refusals", quota, 2).await;
    for _ in 0..50 {
        assert!(refused(store, "refusals", quota, 2).await <= first);
    }
    assert!(fits(store, "refusals", quota, 1).await);
}

async fn several_are_taken_together_or_not_at_all(store: &dyn RateStore) {
    let (wide, narrow) = (quota("3/hour"), quota("1/hour"));
    let both = [want("{o}:wide", wide, 1), want("{o}:narrow", narrow, 1)];
    assert!(matches!(store.take(&both).await.unwrap(), Taken::All { .. }));
    for _ in 0..5 {
        assert!(matches!(
            store.take(&both).await.unwrap(),
            Taken::Nothing { index: 1, .. }
        ));
    }
    assert!(fits(store, "{o}:wide", wide, 2).await, "a refusal consumed something");
}

async fn of_several_that_do_not_fit_the_longest_wait_is_told(store: &dyn RateStore) {
    let (quick, slow) = (quota("1/min"), quota("1/day"));
    for (key, quota) in [("{o}:quick", quick), ("{o}:slow", slow)] {
        assert!(fits(store, key, quota, 1).await);
    }
    for (index, wants) in [
        (1, [want("{o}:quick", quick, 1), want("{o}:slow", slow, 1)]),
        (0, [want("{o}:slow", slow, 1), want("{o}:quick", quick, 1)]),
    ] {
        let taken = store.take(&wants).await.unwrap();
        assert!(
            matches!(taken, Taken::Nothing { index: told, retry_after, .. }
                if told == index && retry_after > Duration::from_secs(86_000)),
            "{taken:?}"
        );
    }
}

async fn debts_are_paid_before_anything_fits(store: &dyn RateStore) {
    let quota = quota("10/hour");
    store.charge(want("debt", quota, 30)).await.unwrap();
    let wait = refused(store, "debt", quota, 1).await;
    assert!(
        wait > Duration::from_secs(7200) && wait <= Duration::from_secs(7560),
        "{wait:?}"
    );
}

async fn what_is_given_back_fits_again(store: &dyn RateStore) {
    let quota = quota("2/hour");
    assert!(fits(store, "back", quota, 2).await);
    store.give_back(want("back", quota, 1)).await.unwrap();
    assert!(fits(store, "back", quota, 1).await);
    refused(store, "back", quota, 1).await;
    // More than there was is no credit.
    store.give_back(want("back", quota, 100)).await.unwrap();
    assert!(fits(store, "back", quota, 2).await);
    refused(store, "back", quota, 1).await;
}

async fn a_standing_tells_what_is_left(store: &dyn RateStore) {
    let quota = quota("4/hour");
    for left in [3, 2, 1, 0] {
        let Taken::All { standing } = store.take(&[want("standing", quota, 1)]).await.unwrap() else {
            panic!("it fits");
        };
        assert_eq!((standing.limit, standing.remaining), (4, left));
        assert_eq!(standing.period, Duration::from_secs(3600));
        let used = Duration::from_secs(900 * (4 - left));
        assert!(
            standing.reset <= used && standing.reset > used - PATIENCE,
            "{standing:?}"
        );
    }
}

async fn of_those_who_race_only_as_many_as_fit_succeed(store: &Arc<dyn RateStore>) {
    let quota = quota("25/hour");
    let admitted = Arc::new(AtomicU32::new(0));
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (store, admitted) = (Arc::clone(store), Arc::clone(&admitted));
        racers.spawn(async move {
            if fits(&*store, "race", quota, 1).await {
                admitted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    racers.join_all().await;
    assert_eq!(admitted.load(Ordering::Relaxed), 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_in_memory_keep_every_promise() {
    keeps_every_promise(Arc::new(MemoryRates::default())).await;
}

/// A Redis or Valkey server of this test alone, on loopback, killed on drop.
struct Server {
    program: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Server {
    /// Starts one, if it is installed. `cargo xtask setup` installs it; where it can't, the test says that it was skipped.
    async fn start() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let find = |name: &str| {
            std::env::split_paths(&path)
                .map(|dir| dir.join(name))
                .find(|file| file.is_file())
        };
        let Some(program) = find("valkey-server").or_else(|| find("redis-server")) else {
            eprintln!("SKIPPED: neither valkey-server nor redis-server is installed; `cargo xtask setup` installs it");
            assert!(std::env::var_os("TESTS_REQUIRE_REDIS").is_none(), "it is required here");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let process = Self::spawn(&program, &dir, port);
        let server = Self {
            program,
            dir,
            port,
            process,
        };
        server.ready().await;
        Some(server)
    }

    fn spawn(program: &Path, dir: &tempfile::TempDir, port: u16) -> Child {
        Command::new(program)
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "yes",
            ])
            .args(["--appendfsync", "always", "--daemonize", "no"])
            .arg("--dir")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn rates(&self) -> ValkeyRates {
        ValkeyRates::new(&format!("redis://127.0.0.1:{}/0", self.port)).unwrap()
    }

    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(format!("redis://127.0.0.1:{}", self.port))
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap()
    }

    async fn ready(&self) {
        let rates = self.rates();
        let begun = Instant::now();
        while rates.ping().await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "the server did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    async fn restart(&mut self) {
        self.process = Self::spawn(&self.program, &self.dir, self.port);
        self.ready().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_on_a_server_keep_every_promise() {
    let Some(server) = Server::start().await else { return };
    keeps_every_promise(Arc::new(server.rates())).await;
}

#[tokio::test]
async fn hosts_share_what_a_server_keeps_and_it_outlives_them() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let quota = quota("2/hour");
    assert!(fits(&server.rates(), "shared", quota, 1).await);
    assert!(fits(&server.rates(), "shared", quota, 1).await);
    refused(&server.rates(), "shared", quota, 1).await;
    let other = server.rates().with_prefix("elsewhere:");
    assert!(fits(&other, "shared", quota, 1).await);
    server.stop();
    server.restart().await;
    refused(&server.rates(), "shared", quota, 1).await;
}

#[tokio::test]
async fn what_has_drained_leaves_no_key_behind() {
    let Some(server) = Server::start().await else { return };
    let rates = server.rates();
    assert!(fits(&rates, "short", quota("1/50ms"), 1).await);
    let mut connection = server.connection().await;
    let life: i64 = redis::cmd("PTTL")
        .arg("fumehood:limits:short")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!((1..=1100).contains(&life), "{life}");
}

#[tokio::test]
async fn a_clock_that_was_set_back_locks_nobody_out() {
    let Some(server) = Server::start().await else { return };
    let mut connection = server.connection().await;
    let (now, _): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    let in_an_hour = format!("{} {}", 100_000_000, (now + 3600) * 1_000_000);
    let () = redis::cmd("SET")
        .arg("fumehood:limits:ahead")
        .arg(in_an_hour)
        .query_async(&mut connection)
        .await
        .unwrap();
    let (rates, quota) = (server.rates(), quota("1/100ms"));
    let wait = refused(&rates, "ahead", quota, 1).await;
    assert!(wait <= Duration::from_millis(101), "{wait:?}");
    tokio::time::sleep(wait).await;
    assert!(fits(&rates, "ahead", quota, 1).await, "{wait:?}");
}

#[tokio::test]
async fn a_server_that_goes_away_is_noticed_and_its_return_as_well() {
    let Some(mut server) = Server::start().await else {
        return;
    };
    let org = OrgName::default_org();
    let limited = OrgLimits {
        turns: Some("100000/hour".parse().unwrap()),
        fail: FailMode::Closed,
        ..OrgLimits::none()
    };
    let limits = Limits::shared([(org.clone(), limited)].into(), Arc::new(server.rates()));
    assert!(limits.turn(&org).await.is_ok());
    server.stop();
    let begun = Instant::now();
    while limits.turn(&org).await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "the outage was not noticed");
    }
    // No check of the outage waits for the server: they are refused at once.
    for _ in 0..1000 {
        let mut check = Box::pin(limits.turn(&org));
        let answer = futures::poll!(&mut check);
        assert!(
            matches!(answer, std::task::Poll::Ready(Err(_))),
            "a check waited for a dead server"
        );
    }
    server.restart().await;
    let begun = Instant::now();
    while limits.turn(&org).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the return was not noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
