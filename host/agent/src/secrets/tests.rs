use super::*;
use fumehood_core::name::SecretName;
use fumehood_store::{DataDir, MasterKey, SqliteStore, StoreUrl, record::Owner};

struct Place {
    _dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    org: OrgName,
}

async fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).await.unwrap();
    let key = MasterKey::random().unwrap();
    let store = SqliteStore::open(&data, &StoreUrl::InDataDir, &key).await.unwrap();
    let org = OrgName::new("acme").unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    store.create_org(&org).await.unwrap();
    Place { _dir: dir, store, org }
}

impl Place {
    async fn set(&self, name: &str, value: &str) {
        let owner = Owner::Org(self.org.clone());
        let name = SecretName::new(name).unwrap();
        self.store.secret_set(&owner, &name, &value.into()).await.unwrap();
    }

    async fn delete(&self, name: &str) {
        let owner = Owner::Org(self.org.clone());
        self.store
            .secret_delete(&owner, &SecretName::new(name).unwrap())
            .await
            .unwrap();
    }

    fn cache(&self, bounds: Bounds) -> SecretCache {
        SecretCache::new(Arc::clone(&self.store), bounds)
    }
}

fn finds(secrets: &SecretsInUse, text: &str) -> bool {
    secrets.guard().find(text.as_bytes()).is_some()
}

#[tokio::test]
async fn secrets_are_read_once_and_again_after_each_change() {
    let place = place().await;
    let cache = place.cache(Bounds::default());
    place.set("KEY", "first-value").await;
    let first = cache.of(&place.org, None).await.unwrap();
    assert!(finds(&first, "first-value"));
    assert!(Arc::ptr_eq(&first, &cache.of(&place.org, None).await.unwrap()));
    assert!(
        Arc::ptr_eq(&first, &cache.of(&place.org, Some(SessionId::new())).await.unwrap()),
        "sessions without secrets of their own share the org's"
    );
    place.set("KEY", "second-value").await;
    let second = cache.of(&place.org, None).await.unwrap();
    assert!(finds(&second, "second-value") && !finds(&second, "first-value"));
    place.delete("KEY").await;
    assert!(cache.of(&place.org, None).await.unwrap().guard().is_empty());
    assert!(finds(&second, "second-value"), "who has it keeps it");
}

#[tokio::test]
async fn what_is_not_used_is_forgotten() {
    let place = place().await;
    let idle = Duration::from_millis(20);
    let cache = place.cache(Bounds {
        idle,
        ..Bounds::default()
    });
    place.set("KEY", "first-value").await;
    let kept = Arc::downgrade(&cache.of(&place.org, None).await.unwrap());
    while kept.strong_count() > 0 {
        tokio::time::sleep(idle).await;
    }
    assert_eq!(lock(&cache.kept).bytes, 0);
    assert!(lock(&cache.kept).orgs.is_empty());
}

#[tokio::test]
async fn what_is_kept_is_bounded_and_the_least_recently_used_goes_first() {
    let place = place().await;
    place.set("KEY", "first-value").await;
    let size = place
        .cache(Bounds::default())
        .of(&place.org, None)
        .await
        .unwrap()
        .size();
    let small = place.cache(Bounds {
        bytes: size - 1,
        ..Bounds::default()
    });
    assert!(
        finds(&small.of(&place.org, None).await.unwrap(), "first-value"),
        "used all the same"
    );
    assert!(lock(&small.kept).orgs.is_empty());

    let cache = place.cache(Bounds {
        per_org: 2,
        ..Bounds::default()
    });
    let secrets = cache.of(&place.org, None).await.unwrap();
    let stamp = SecretsStamp {
        org: 0,
        session: 0,
        sessions_have_own: true,
    };
    let sessions = [SessionId::new(), SessionId::new()];
    let mut kept = lock(&cache.kept);
    kept.put(&place.org, Some(sessions[0]), stamp, &secrets);
    assert!(kept.get(&place.org, Some(sessions[0]), stamp).is_some());
    kept.put(&place.org, Some(sessions[1]), stamp, &secrets);
    assert!(kept.get(&place.org, None, stamp).is_none(), "the oldest is gone");
    assert!(
        sessions
            .iter()
            .all(|id| kept.get(&place.org, Some(*id), stamp).is_some())
    );
    assert_eq!(kept.bytes, 2 * size);
}

#[test]
fn a_damaged_secret_is_refused_alone_and_shadows_all_the_same() {
    let secrets = SecretsInUse {
        values: vec![
            (SecretName::new("GOOD").unwrap(), None),
            (SecretName::new("BAD").unwrap(), Some("shadowed".into())),
            (SecretName::new("GOOD").unwrap(), Some("good-value".into())),
            (SecretName::new("BAD").unwrap(), None),
        ],
        guard: LeakGuard::default(),
    };
    let value = |name: &str| secrets.value(&SecretName::new(name).unwrap());
    assert!(value("GOOD").unwrap().is_some());
    assert!(value("ABSENT").unwrap().is_none());
    assert_eq!(value("BAD").unwrap_err().code, CallErrorCode::Unavailable);
}

#[tokio::test]
async fn an_org_that_needs_much_room_takes_it_from_itself() {
    let place = place().await;
    place.set("KEY", "first-value").await;
    let secrets = place.cache(Bounds::default()).of(&place.org, None).await.unwrap();
    let cache = place.cache(Bounds {
        org_bytes: secrets.size() * 2,
        ..Bounds::default()
    });
    let stamp = SecretsStamp {
        org: 0,
        session: 0,
        sessions_have_own: true,
    };
    let other = OrgName::new("other").unwrap();
    let mut kept = lock(&cache.kept);
    kept.put(&other, None, stamp, &secrets);
    for _ in 0..5 {
        kept.put(&place.org, Some(SessionId::new()), stamp, &secrets);
    }
    assert!(kept.get(&other, None, stamp).is_some());
    assert_eq!(kept.orgs[&place.org].len(), 2);
    assert_eq!(kept.bytes, secrets.size() * 3);
}

#[tokio::test]
async fn who_needs_what_is_being_made_waits_for_it_and_shares_it() {
    let place = place().await;
    place.set("KEY", "first-value").await;
    let cache = place.cache(Bounds::default());
    let all = futures::future::join_all((0..20).map(|_| cache.of(&place.org, None))).await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])), "each was made once");
    drop(lock(&cache.kept).making(&place.org, None));
    assert!(lock(&cache.kept).making.len() <= 1);
}
