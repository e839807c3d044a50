//! Files go only with a session that was deleted or never made: not because a database does not know it.

use super::*;
use fumehood_store::OpenError;

impl House {
    /// What there is of a session in one place.
    fn of(&self, place: &str, name: &impl ToString) -> PathBuf {
        self.dir.path().join(place).join(name.to_string())
    }

    /// The database without its log: closed.
    async fn with_database(self, exchange: impl FnOnce(&Path)) -> Self {
        let Self {
            dir,
            opened,
            quotas,
            org,
            session,
        } = self;
        opened.close().await;
        exchange(&dir.path().join("fumehood.db"));
        let opened = fumehood_store::open_with(dir.path(), &StoreUrl::InDataDir, quotas)
            .await
            .unwrap();
        Self {
            dir,
            opened,
            quotas,
            org,
            session,
        }
    }

    async fn write(&self, session: SessionId, path: &str, text: &str) {
        let path: WorkspacePath = path.parse().unwrap();
        let written = self.files().write(session, &path, text.into(), Precondition::Any);
        written.await.unwrap();
    }

    async fn new_session(&self) -> SessionId {
        let session = Session {
            id: SessionId::new(),
            ..self
                .opened
                .store
                .session(&self.org, self.session)
                .await
                .unwrap()
                .unwrap()
        };
        self.opened.store.create_session(&session, &[]).await.unwrap();
        session.id
    }
}

fn starter() -> Vec<Starter> {
    vec![Starter {
        path: "a".parse().unwrap(),
        bytes: b"x".to_vec(),
        kept: Kept::Changeable,
    }]
}

#[tokio::test]
async fn files_of_a_session_that_was_never_made_are_removed_at_the_next_start() {
    let house = House::new().await;
    let (orphan, fork) = (SessionId::new(), SessionId::new());
    house.files().start_with(orphan, starter()).await.unwrap();
    house.files().snapshot(orphan).await.unwrap().unwrap();
    house.put("a", "1").await;
    house.files().take_along(house.session, fork, None).await.unwrap();
    let strange = house.of("workspaces", &"lost+found");
    fs::create_dir(&strange).unwrap();

    let house = house.reopened().await;
    for place in ["workspaces", "snapshots", "workspaces.gone", "workspaces.unknown"] {
        for session in [orphan, fork] {
            assert!(!house.of(place, &session).exists(), "{place}");
        }
    }
    assert_eq!(house.text("a").await, "1");
    assert!(strange.exists(), "what is not ours stays");
}

#[tokio::test]
async fn files_that_a_session_began_with_are_its_own_when_it_is_written() {
    let house = House::new().await;
    let begun = house.new_session().await;
    house.files().start_with(begun, starter()).await.unwrap();
    house.files().settle(begun).await;
    let killed_before_it_settled = house.new_session().await;
    house
        .files()
        .start_with(killed_before_it_settled, starter())
        .await
        .unwrap();
    let mut house = house.reopened().await;
    for session in [begun, killed_before_it_settled] {
        house.session = session;
        assert_eq!(house.text("a").await, "x");
    }
    let new = fs::read_dir(house.dir.path().join("workspaces.new")).unwrap();
    assert_eq!(new.count(), 0);
}

#[tokio::test]
async fn files_of_sessions_that_an_older_database_does_not_know_come_back_with_one_that_does() {
    let yesterday = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| yesterday.path().join(name));
    let house = House::new().await;
    house.put("a", "1").await;
    let house = house
        .with_database(|file| {
            fs::copy(file, &old).unwrap();
        })
        .await;
    let later = house.new_session().await;
    house.write(later, "a", "2").await;
    let state = house.files().snapshot(later).await.unwrap().unwrap();
    house.write(later, "a", "3").await;
    let ready = house.files().make_ready(later, EventId::new(), state, Vec::new()).await;
    drop(ready.unwrap());

    let house = house
        .with_database(|file| {
            fs::rename(file, &new).unwrap();
            fs::copy(&old, file).unwrap();
        })
        .await;
    assert_eq!(house.text("a").await, "1");
    assert!(!house.of("workspaces", &later).exists());
    for name in ["", ".snapshots", ".restoring"] {
        assert!(
            house.of("workspaces.unknown", &format!("{later}{name}")).exists(),
            "{name}"
        );
    }
    // However often it starts.
    let mut house = house.reopened().await.reopened().await;
    house = house.with_database(|file| fs::rename(&new, file).unwrap()).await;
    house.session = later;
    assert_eq!(house.text("a").await, "3", "what was not decided did not happen");
    assert_eq!(house.back(state).await, FilesRewound::Restored);
    assert_eq!(house.text("a").await, "2");
    let unknown = fs::read_dir(house.dir.path().join("workspaces.unknown")).unwrap();
    assert_eq!(unknown.count(), 0);
}

#[tokio::test]
async fn what_a_session_that_comes_back_has_already_is_not_replaced() {
    let house = House::new().await;
    house.put("a", "now").await;
    let aside = house.of("workspaces.unknown", &house.session);
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("a"), "then").unwrap();
    let house = house.reopened().await;
    assert_eq!(house.text("a").await, "now");
    assert_eq!(fs::read(aside.join("a")).unwrap(), b"then");
}

#[tokio::test]
async fn a_host_does_not_start_with_the_files_of_another_database() {
    let house = House::new().await;
    house.put("a", "1").await;
    let gone = house.new_session().await;
    house.write(gone, "a", "1").await;
    house.files().retire(gone).await.unwrap();
    let before = all(house.dir.path());
    let House { dir, opened, .. } = house;
    opened.close().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let url = StoreUrl::Sqlite(elsewhere.path().join("other.db"));
    let mark = dir.path().join("workspaces.database");
    for _ in 0..2 {
        let refused = fumehood_store::open(dir.path(), &url).await.err();
        let Some(OpenError::OtherFiles { mark: named, .. }) = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!(named.canonicalize().unwrap(), mark.canonicalize().unwrap());
    }
    let files = |found: BTreeMap<String, (u32, Vec<u8>)>| {
        let of_files = |name: &String| name.starts_with("workspaces") || name.starts_with("snapshots");
        found.into_iter().filter(|(name, _)| of_files(name)).collect::<Vec<_>>()
    };
    assert_eq!(files(all(dir.path())), files(before), "nothing was touched");

    // The operator wants it.
    fs::remove_file(&mark).unwrap();
    let opened = fumehood_store::open(dir.path(), &url).await.unwrap();
    opened.close().await;
    assert_eq!(fs::read_dir(dir.path().join("workspaces")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.path().join("workspaces.unknown")).unwrap().count(), 1);

    // And back again: no files are in the way.
    let opened = fumehood_store::open(dir.path(), &StoreUrl::InDataDir).await.unwrap();
    opened.close().await;
    assert_eq!(fs::read_dir(dir.path().join("workspaces")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path().join("workspaces.unknown")).unwrap().count(), 0);
}
