use super::*;
use crate::{
    api::{Orgs as _, Secrets as _},
    record::Owner,
};
use fumehood_core::name::{OrgName, SecretName};
use secrecy::{ExposeSecret as _, SecretString};

/// More than one batch.
const COUNT: usize = 230;
const OLD: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "HxACAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

struct Place {
    dir: tempfile::TempDir,
    org: OrgName,
}

fn name(number: usize) -> SecretName {
    SecretName::new(format!("S{number:03}")).unwrap()
}

impl Place {
    /// A data directory with secrets under a key in a file.
    async fn with_secrets() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            org: OrgName::new("acme").unwrap(),
        };
        let store = place.open().await;
        store.create_org(&place.org).await.unwrap();
        for number in 0..COUNT {
            place.set(&store, number).await;
        }
        store.close().await;
        place
    }

    async fn set(&self, store: &SqliteStore, number: usize) {
        let value = SecretString::from(format!("value {number}"));
        let owner = Owner::Org(self.org.clone());
        store.secret_set(&owner, &name(number), &value).await.unwrap();
    }

    fn keys(&self) -> MasterKeys {
        MasterKeys::load(None, None, self.dir.path()).unwrap()
    }

    async fn lock(&self) -> DataDir {
        DataDir::open(self.dir.path()).await.unwrap()
    }

    /// As a host would.
    async fn open(&self) -> SqliteStore {
        let lock = self.lock().await;
        SqliteStore::open_with(&lock, &StoreUrl::InDataDir, &self.keys())
            .await
            .unwrap()
    }

    async fn rotate(&self, rotation: Rotation) -> Result<Rotated, RotateError> {
        let lock = self.lock().await;
        let keys = MasterKeys::load(None, None, lock.path())?;
        rotate_with(&lock, &StoreUrl::InDataDir, keys, rotation).await
    }

    /// That every value is there, for a host started now.
    async fn assert_whole(&self, count: usize) {
        let store = self.open().await;
        let found = store.secrets_in_effect(&self.org, None).await.unwrap();
        assert_eq!(found.len(), count);
        for (number, (known, value)) in found.iter().enumerate() {
            assert_eq!(known, &name(number));
            assert_eq!(value.expose_secret(), format!("value {number}"));
        }
        store.close().await;
    }

    async fn under(&self) -> Vec<(String, u64)> {
        let store = self.open().await;
        let keys = store.secret_keys().await.unwrap();
        store.close().await;
        keys
    }
}

#[tokio::test]
async fn after_a_change_the_new_key_alone_opens_every_secret_and_the_old_one_none() {
    let place = Place::with_secrets().await;
    let old = place.keys().first().clone();
    let rotated = place.rotate(Rotation::NewKey).await.unwrap();
    let new = place.keys().first().clone();
    assert_ne!(new.fingerprint(), old.fingerprint());
    assert_eq!(rotated.to, Some(new.fingerprint()));
    assert_eq!(rotated.from, [(old.fingerprint(), COUNT as u64)]);
    assert_eq!((rotated.rewrapped, rotated.unchanged), (COUNT as u64, 0));
    place.assert_whole(COUNT).await;
    assert!(place.keys().others().is_empty(), "the change is over");

    let Retired::InFile(kept) = rotated.retired else {
        panic!("{rotated:?}")
    };
    assert_eq!(MasterKey::from_file(&kept).unwrap().fingerprint(), old.fingerprint());
    let lock = place.lock().await;
    let refused = SqliteStore::open(&lock, &StoreUrl::InDataDir, &old).await.unwrap_err();
    assert!(matches!(refused, OpenError::WrongMasterKey { .. }), "{refused}");
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let place = Place::with_secrets().await;
    let before = place.under().await;
    let would = place.rotate(Rotation::DryRun).await.unwrap();
    assert_eq!((would.to, would.rewrapped, would.unchanged), (None, COUNT as u64, 0));
    assert_eq!(place.under().await, before);
    assert!(place.keys().others().is_empty());
}

/// Each point at which the power may go: the key kept, some batches done, all done, the key noted, the old key copied.
#[tokio::test]
async fn a_change_that_breaks_off_anywhere_leaves_every_secret_open_and_is_completed_by_the_next() {
    for batches in [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5)] {
        let place = Place::with_secrets().await;
        let old = place.keys().first().clone();
        let lock = place.lock().await;
        let next = begin(lock.path(), place.keys().first(), Rotation::NewKey).unwrap();
        if let Some(batches) = batches {
            let ring = place.keys().led_by(next.clone());
            let store = SqliteStore::open_with(&lock, &StoreUrl::InDataDir, &ring)
                .await
                .unwrap();
            let mut after = Some(0);
            for _ in 0..batches.min(3) {
                after = store.rewrap_secrets(after.unwrap()).await.unwrap().next;
            }
            if batches >= 4 {
                store.note_key().await.unwrap();
            }
            store.close().await;
        }
        if batches == Some(5) {
            // The old key is copied, and the new one not yet in its place.
            let kept = place.dir.path().join(format!("master.key.{}", old.fingerprint()));
            std::fs::copy(place.dir.path().join("master.key"), kept).unwrap();
        }
        drop(lock);
        place.assert_whole(COUNT).await;

        // A host serves in between, and sets a secret.
        let store = place.open().await;
        place.set(&store, COUNT).await;
        store.close().await;
        let rotated = place.rotate(Rotation::NewKey).await.unwrap();
        assert_eq!(
            rotated.to,
            Some(next.fingerprint()),
            "the change that was begun is completed"
        );
        assert_eq!(place.keys().first().fingerprint(), next.fingerprint());
        assert_eq!(rotated.rewrapped + rotated.unchanged, COUNT as u64 + 1, "{batches:?}");
        assert_eq!(place.under().await, [(next.fingerprint(), COUNT as u64 + 1)]);
        place.assert_whole(COUNT + 1).await;
    }
}

#[tokio::test]
async fn a_key_of_one_s_own_is_taken_and_does_not_cut_into_a_change_under_way() {
    let place = Place::with_secrets().await;
    let given = || {
        MasterKeys::load(Some(NEW), None, place.dir.path())
            .unwrap()
            .first()
            .clone()
    };
    begin(place.dir.path(), place.keys().first(), Rotation::NewKey).unwrap();
    let refused = place.rotate(Rotation::To(given())).await.unwrap_err();
    assert!(matches!(refused, RotateError::Unfinished { .. }), "{refused}");
    place.rotate(Rotation::NewKey).await.unwrap();
    place.rotate(Rotation::To(given())).await.unwrap();
    assert_eq!(place.keys().first().fingerprint(), given().fingerprint());
    place.assert_whole(COUNT).await;
}

#[tokio::test]
async fn keys_in_the_environment_are_changed_there() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DataDir::open(dir.path()).await.unwrap();
    let keys = |now, before| MasterKeys::load(Some(now), before, dir.path()).unwrap();
    let url = StoreUrl::InDataDir;
    let org = OrgName::new("acme").unwrap();
    let store = SqliteStore::open_with(&lock, &url, &keys(OLD, None)).await.unwrap();
    store.create_org(&org).await.unwrap();
    let owner = Owner::Org(org.clone());
    store.secret_set(&owner, &name(0), &"value 0".into()).await.unwrap();
    store.close().await;

    let refused = rotate_with(&lock, &url, keys(OLD, None), Rotation::NewKey)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("FUMEHOOD_MASTER_KEY_PREVIOUS"),
        "{refused}"
    );
    let refused = SqliteStore::open_with(&lock, &url, &keys(NEW, None)).await.unwrap_err();
    assert!(matches!(refused, OpenError::WrongMasterKey { .. }), "{refused}");

    let rotated = rotate_with(&lock, &url, keys(NEW, Some(OLD)), Rotation::NewKey)
        .await
        .unwrap();
    assert_eq!((rotated.rewrapped, rotated.retired), (1, Retired::InEnvironment));
    let store = SqliteStore::open_with(&lock, &url, &keys(NEW, None)).await.unwrap();
    assert_eq!(store.secrets_in_effect(&org, None).await.unwrap().len(), 1);
    store.close().await;
    assert!(!dir.path().join("master.key").exists());
}

#[tokio::test]
async fn a_secret_that_opens_with_no_key_keeps_the_old_one_from_being_retired() {
    let place = Place::with_secrets().await;
    let old = place.keys().first().fingerprint();
    let store = place.open().await;
    let owner = Owner::Org(place.org.clone());
    store.close().await;
    let lock = place.lock().await;
    let ring: MasterKeys = MasterKeys::load(Some(NEW), None, place.dir.path()).unwrap();
    let both = ring.led_by(place.keys().first().clone());
    // Sealed by a key that is lost afterwards.
    let lost = SqliteStore::open_with(&lock, &StoreUrl::InDataDir, &both.led_by(MasterKey::random().unwrap()))
        .await
        .unwrap();
    lost.secret_set(&owner, &name(7), &"value 7".into()).await.unwrap();
    lost.close().await;
    drop(lock);
    let refused = place.rotate(Rotation::NewKey).await.unwrap_err();
    assert!(
        matches!(&refused, RotateError::Damaged { reasons } if reasons.len() == 1),
        "{refused}"
    );
    assert!(refused.to_string().contains("S007"), "{refused}");
    assert_eq!(place.keys().first().fingerprint(), old);
    let store = place.open().await;
    store.secret_delete(&owner, &name(7)).await.unwrap();
    store.close().await;
    place.rotate(Rotation::NewKey).await.unwrap();
    assert_ne!(place.keys().first().fingerprint(), old);
}

#[tokio::test]
async fn the_present_key_is_no_key_to_change_to_and_stands_in_no_change_s_way() {
    let place = Place::with_secrets().await;
    let present = place.keys().first().clone();
    let refused = place.rotate(Rotation::To(present.clone())).await.unwrap_err();
    assert!(matches!(&refused, RotateError::PresentKey { key } if *key == present.fingerprint()));
    assert!(
        MasterKeys::next(place.dir.path()).unwrap().is_none(),
        "nothing was begun"
    );
    // Left by whatever: a change that leads to where it began.
    MasterKeys::keep_next(place.dir.path(), &present).unwrap();
    let rotated = place.rotate(Rotation::NewKey).await.unwrap();
    assert_ne!(rotated.to, Some(present.fingerprint()));
    assert!(matches!(rotated.retired, Retired::InFile(_)));
    place.assert_whole(COUNT).await;
}
