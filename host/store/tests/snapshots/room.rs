//! States take room, which is bounded: what goes for it, and what is not kept for the want of it.

use super::*;

#[tokio::test]
async fn the_oldest_states_go_when_there_is_no_room_and_what_is_left_can_be_gone_back_to() {
    let quotas = Quotas {
        snapshots: 100_000,
        ..Quotas::default()
    };
    let house = House::with(quotas).await;
    let mut states = Vec::new();
    for number in 0..20 {
        let text = format!("{number:04}").repeat(4000);
        house.put("large", &text).await;
        states.push((house.snapshot().await, text));
        let size: u64 = all(&house.kept()).values().map(|(_, bytes)| bytes.len() as u64).sum();
        assert!(size < 100_000 + 4096, "{size} bytes are kept");
    }
    assert_eq!(house.back(states[0].0).await, FilesRewound::Unavailable);
    let (last_but_one, text) = &states[18];
    assert_eq!(house.back(*last_but_one).await, FilesRewound::Restored);
    assert_eq!(fs::read_to_string(house.root().join("large")).unwrap(), *text);
}

#[tokio::test]
async fn a_workspace_that_does_not_fit_is_not_kept_and_stays_as_it_is() {
    let quotas = Quotas {
        snapshots: 10_000,
        ..Quotas::default()
    };
    let house = House::with(quotas).await;
    house.put("a", "small").await;
    let small = house.snapshot().await;
    house.put("large", &"x".repeat(20_000)).await;
    assert_eq!(house.files().snapshot(house.session).await.unwrap(), None);
    assert_eq!(
        house.back(small).await,
        FilesRewound::Restored,
        "what was kept before is there"
    );
    assert!(!house.root().join("large").exists());

    let none = Quotas {
        snapshots: 0,
        ..Quotas::default()
    };
    let house = House::with(none).await;
    house.put("a", "x").await;
    assert_eq!(house.files().snapshot(house.session).await.unwrap(), None);
}

#[tokio::test]
async fn going_back_brings_no_more_than_the_quota_allows() {
    let house = House::new().await;
    house.put("large", &"x".repeat(5000)).await;
    let large = house.snapshot().await;
    house.delete("large").await;
    let narrow = Quotas {
        files: Quota {
            bytes: 1000,
            file_bytes: 1000,
            ..Quota::default()
        },
        ..Quotas::default()
    };
    let house = House {
        quotas: narrow,
        ..house
    };
    let house = house.reopened().await;
    assert_eq!(house.back(large).await, FilesRewound::Unavailable);
    assert!(all(&house.root()).is_empty());
    let copied = house
        .files()
        .take_along(house.session, SessionId::new(), Some(large))
        .await;
    assert!(matches!(copied, Err(WorkspaceError::Quota { .. })), "{copied:?}");
}
