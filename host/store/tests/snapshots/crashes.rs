//! What is decided is done, and what is not leaves nothing, wherever a crash comes or a disk refuses.

use super::*;

#[tokio::test]
async fn a_crash_before_the_decision_changes_nothing() {
    let house = House::new().await;
    house.put("a", "1").await;
    let state = house.snapshot().await;
    house.turn().await;
    house.put("a", "2").await;
    let ready = house.ready(EventId::new(), state).await;
    assert_eq!(ready.files, FilesRewound::Restored);
    drop(ready);
    let house = house.reopened().await;
    assert_eq!(fs::read(house.root().join("a")).unwrap(), b"2");
    let left = fs::read_dir(house.dir.path().join("workspaces.restoring")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn a_crash_after_the_decision_is_made_good_at_the_next_start_wherever_it_came() {
    // How many of the files had been put back already.
    for done in 0..=3 {
        let house = House::new().await;
        for name in ["a", "b", "c"] {
            house.put(name, "old").await;
        }
        let before = all(&house.root());
        let state = house.snapshot().await;
        let turn = house.turn().await;
        for name in ["a", "b", "c", "d/e"] {
            house.put(name, "new").await;
        }
        let event = EventId::new();
        drop(house.ready(event, state).await);
        house.decide(event, &turn).await;
        let staged = house
            .dir
            .path()
            .join("workspaces.restoring")
            .join(house.session.to_string());
        for (number, name) in ["a", "b", "c"].iter().enumerate().take(done) {
            fs::rename(staged.join(number.to_string()), house.root().join(name)).unwrap();
        }
        if done > 0 {
            fs::remove_file(house.root().join("d/e")).unwrap();
        }
        let house = house.reopened().await;
        assert_eq!(all(&house.root()), before, "after {done}");
        assert!(!staged.exists());
    }
}

#[tokio::test]
async fn a_file_that_took_the_place_of_a_directory_or_link_is_there_after_every_start() {
    let house = House::new().await;
    house.put("a", "a file").await;
    house.put("link", "another").await;
    let before = all(&house.root());
    let state = house.snapshot().await;
    let turn = house.turn().await;
    for name in ["a", "link"] {
        house.delete(name).await;
    }
    house.put("a/b/c", "deep").await;
    symlink("a", house.root().join("link")).unwrap();
    let event = EventId::new();
    drop(house.ready(event, state).await);
    house.decide(event, &turn).await;
    let plan = fs::read(house.staged().join("plan.json")).unwrap();
    let house = house.reopened().await;
    assert_eq!(all(&house.root()), before);

    // As if it had been killed when all was back, before the plan was thrown away.
    fs::create_dir(house.staged()).unwrap();
    fs::write(house.staged().join("plan.json"), plan).unwrap();
    let house = house.reopened().await;
    assert_eq!(all(&house.root()), before);
    assert!(!house.staged().exists());
}

#[tokio::test]
async fn what_is_decided_is_put_back_before_anything_else_is_done_with_the_files() {
    for nobody_put_it_back in [true, false] {
        let house = House::new().await;
        for name in ["a", "b"] {
            house.put(name, "old").await;
        }
        let state = house.snapshot().await;
        let turn = house.turn().await;
        for name in ["a", "b", "c"] {
            house.put(name, "new").await;
        }
        let event = EventId::new();
        let ready = house.ready(event, state).await;
        house.decide(event, &turn).await;
        let staged = house.staged().join("1");
        fs::rename(&staged, house.dir.path().join("aside")).unwrap();
        fs::create_dir(&staged).unwrap();
        if nobody_put_it_back {
            drop(ready);
        } else {
            let failed = house.files().put_back(ready).await;
            assert!(matches!(failed, Err(WorkspaceError::Unavailable { .. })), "{failed:?}");
        }
        let path: WorkspacePath = "b".parse().unwrap();
        let files = house.files();
        let write = || files.write(house.session, &path, b"later".to_vec(), Precondition::Any);
        let unavailable = |error| matches!(error, WorkspaceError::Unavailable { .. });
        assert!(unavailable(write().await.unwrap_err()));
        let delete = files.delete(house.session, &path, Precondition::Any).await;
        assert!(unavailable(delete.unwrap_err()));
        assert!(unavailable(files.read(house.session, &path).await.unwrap_err()));
        assert!(unavailable(files.tree(house.session).await.unwrap_err()));
        assert!(unavailable(files.snapshot(house.session).await.unwrap_err()));

        fs::remove_dir(&staged).unwrap();
        fs::rename(house.dir.path().join("aside"), &staged).unwrap();
        write().await.unwrap();
        let house = house.reopened().await;
        let found = all(&house.root());
        let texts: Vec<_> = found
            .iter()
            .map(|(name, (_, bytes))| (name.as_str(), bytes.as_slice()))
            .collect();
        assert_eq!(texts, [("a", b"old".as_slice()), ("b", b"later")]);
    }
}

#[tokio::test]
async fn what_is_dropped_and_was_not_decided_changes_nothing() {
    let house = House::new().await;
    house.put("a", "1").await;
    let state = house.snapshot().await;
    house.put("a", "2").await;
    drop(house.ready(EventId::new(), state).await);
    assert_eq!(house.text("a").await, "2");
    assert!(!house.staged().exists());
}

#[tokio::test]
async fn a_session_whose_files_can_not_be_put_back_keeps_no_other_waiting() {
    let house = House::new().await;
    house.put("a", "old").await;
    let state = house.snapshot().await;
    let turn = house.turn().await;
    house.put("a", "new").await;
    let event = EventId::new();
    drop(house.ready(event, state).await);
    house.decide(event, &turn).await;
    let aside = house.dir.path().join("aside");
    fs::rename(house.root(), &aside).unwrap();
    fs::write(house.root(), "no directory").unwrap();

    let house = house.reopened().await;
    let other = SessionId::new();
    let path: WorkspacePath = "a".parse().unwrap();
    let written = house.files().write(other, &path, b"x".to_vec(), Precondition::Any);
    written.await.unwrap();
    let refused = house
        .files()
        .write(house.session, &path, b"x".to_vec(), Precondition::Any)
        .await;
    assert!(
        matches!(refused, Err(WorkspaceError::Unavailable { .. })),
        "{refused:?}"
    );
    fs::remove_file(house.root()).unwrap();
    fs::rename(&aside, house.root()).unwrap();
    assert_eq!(house.text("a").await, "old");
}

#[tokio::test]
async fn a_directory_that_a_file_takes_the_place_of_is_put_back_to_the_end() {
    let house = House::new().await;
    house.put("a", "a file").await;
    symlink("/", house.root().join("link")).unwrap();
    let before = all(&house.root());
    let state = house.snapshot().await;
    house.delete("a").await;
    fs::remove_file(house.root().join("link")).unwrap();
    house.put("a/b/c", "deep").await;
    house.put("link/b/c", "deep").await;
    assert_eq!(house.back(state).await, FilesRewound::Restored);
    assert_eq!(all(&house.root()), before);
}

#[tokio::test]
async fn what_can_not_be_read_of_going_back_is_not_taken_for_undecided() {
    for damage in ["a directory", "no plan"] {
        let house = House::new().await;
        house.put("a", "old").await;
        let state = house.snapshot().await;
        let turn = house.turn().await;
        house.put("a", "new").await;
        let event = EventId::new();
        drop(house.ready(event, state).await);
        house.decide(event, &turn).await;
        let (plan, aside) = (house.staged().join("plan.json"), house.dir.path().join("aside"));
        fs::rename(&plan, &aside).unwrap();
        match damage {
            "a directory" => fs::create_dir(&plan).unwrap(),
            _ => fs::write(&plan, "{").unwrap(),
        }

        let house = house.reopened().await;
        let path: WorkspacePath = "a".parse().unwrap();
        for _ in 0..2 {
            let read = house.files().read(house.session, &path).await;
            assert!(
                matches!(&read, Err(WorkspaceError::Unavailable { reason }) if reason.contains("put back")),
                "{damage}: {read:?}"
            );
        }
        let other = house
            .files()
            .write(SessionId::new(), &path, b"x".to_vec(), Precondition::Any);
        other.await.unwrap();

        match damage {
            "a directory" => fs::remove_dir(&plan).unwrap(),
            _ => fs::remove_file(&plan).unwrap(),
        }
        fs::rename(&aside, &plan).unwrap();
        assert_eq!(house.text("a").await, "old", "{damage}");
        assert!(!house.staged().exists());
    }
}
