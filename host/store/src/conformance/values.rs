//! Key-values, secrets and the ledger.

use super::{Broken, KV_QUOTA, Outcome, World, ensure, ensure_eq, promises, races::at_once};
use crate::{
    api::{Settlement, Store, StoreError},
    record::{Owner, PageRequest},
};
use fumehood_core::{
    id::{CallId, LedgerId, SessionId},
    ledger::{EgressOutcome, EgressScope, LedgerEntry, ShapeKind, ShapePlace, ShapeSeen},
    name::{ComponentName, OrgName, SecretName, ToolName},
    now,
};
use secrecy::{ExposeSecret as _, SecretString};
use std::sync::Arc;

promises! {
    "a key-value is read as it was set, binary or empty" => key_values,
    "keys are listed by prefix, in order, page by page" => key_pages,
    "keys and values out of bounds are refused" => bounds,
    "what the key-values of a session take ends at its quota" => quota,
    "a session's secret shadows the org's" => secrets,
    "the secrets' stamp changes with the secrets" => stamps,
    "a ledger entry is settled once" => ledger,
    "a ledger is read oldest first, page by page" => ledger_pages,
    "values of another org or session read as absent" => nothing_crosses,
    "nothing is written for a session that does not exist" => no_session,
    "values go with their session" => deletion,
}

fn secret(name: &str) -> Result<SecretName, Broken> {
    SecretName::new(name).map_err(|error| Broken(error.to_string()))
}

fn value(text: &str) -> SecretString {
    SecretString::from(text)
}

pub(super) async fn effective(
    store: &dyn Store,
    org: &OrgName,
    session: Option<SessionId>,
) -> Result<Vec<(String, String)>, Broken> {
    let found = store.secrets_in_effect(org, session).await?;
    Ok(found
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.expose_secret().to_owned()))
        .collect())
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

pub(super) fn new_entry(org: &OrgName, session: Option<SessionId>) -> Result<LedgerEntry, Broken> {
    let name = |error: fumehood_core::name::NameError| Broken(error.to_string());
    Ok(LedgerEntry {
        id: LedgerId::new(),
        time: now(),
        scope: EgressScope {
            org: org.clone(),
            session,
            turn: None,
            call: CallId::new(),
            tool: ToolName::new("fetch").map_err(name)?,
            component: ComponentName::new("http").map_err(name)?,
        },
        method: "GET".into(),
        scheme: "https".into(),
        host: "api.example.com".into(),
        port: 443,
        path: "/v1".into(),
        query_bytes: 3,
        rule: "grant: https://api.example.com/v1".into(),
        address: None,
        secrets: vec![SecretName::new("TOKEN").map_err(name)?],
        outcome: EgressOutcome::Started,
        bytes_sent: 0,
        bytes_received: 0,
        duration_ms: 0,
        shapes: Vec::new(),
    })
}

async fn key_values(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    for owner in [Owner::Org(org.clone()), Owner::Session(org.clone(), session.id)] {
        ensure_eq!(store.kv_get(&owner, "k").await?, None, "before it is set");
        for value in [&b"\x00\xff text"[..], b"", b"again"] {
            store.kv_set(&owner, "k", value).await?;
            ensure_eq!(store.kv_get(&owner, "k").await?, Some(value.to_vec()), "the value");
        }
        ensure!(store.kv_delete(&owner, "k").await?, "it was not deleted");
        ensure!(!store.kv_delete(&owner, "k").await?, "it was deleted twice");
        ensure_eq!(store.kv_get(&owner, "k").await?, None, "after it was deleted");
    }
    Ok(())
}

async fn key_pages(world: &World) -> Outcome {
    let store = &world.store;
    let owner = Owner::Org(world.org().await?);
    for key in ["b", "a/2", "a/1", "a%", "a", "a/\u{10ffff}", "ä", "A/1", "a_1"] {
        store.kv_set(&owner, key, b"x").await?;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.kv_keys(&owner, "a/", &PageRequest { after, limit: 2 }).await?;
        seen.extend(page.items);
        after = page.next;
        if after.is_none() || seen.len() > 9 {
            break;
        }
    }
    ensure_eq!(seen, ["a/1", "a/2", "a/\u{10ffff}"], "the keys below a/");
    let all = store.kv_keys(&owner, "", &PageRequest::default()).await?;
    ensure_eq!(
        all.items,
        ["A/1", "a", "a%", "a/1", "a/2", "a/\u{10ffff}", "a_1", "b", "ä"],
        "all keys, in order of bytes"
    );
    let page = PageRequest {
        after: Some("nonsense".into()),
        limit: 2,
    };
    let result = store.kv_keys(&owner, "", &page).await;
    ensure!(matches!(result, Err(StoreError::BadCursor)), "a bad cursor: {result:?}");
    Ok(())
}

async fn quota(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let own = Owner::Session(org.clone(), world.session(&org).await?.id);
    // Writers at once share what there is.
    let keys: Vec<String> = (0..100).map(|number| format!("{number:0>3}")).collect();
    let written = at_once(keys.len(), |number| {
        let (store, own, key) = (Arc::clone(store), own.clone(), keys[number].clone());
        async move { store.kv_set(&own, &key, b"1234567").await }
    })
    .await?;
    let taken = written.iter().filter(|result| result.is_ok()).count() as u64;
    ensure_eq!(taken, KV_QUOTA.entries, "keys that were taken");
    for refused in written.iter().filter_map(|result| result.as_ref().err()) {
        ensure!(matches!(refused, StoreError::Full { of: "keys", .. }), "{refused:?}");
    }
    let there = store
        .kv_keys(
            &own,
            "",
            &PageRequest {
                after: None,
                limit: 1000,
            },
        )
        .await?;
    ensure_eq!(there.items.len() as u64, KV_QUOTA.entries, "keys that are there");
    // All keys have 3 bytes, and their values 7: what is left is for one of them to grow by, to the byte.
    let first = &there.items[0];
    let left = usize::try_from(KV_QUOTA.bytes).unwrap_or(0) - 10 * there.items.len();
    let result = store.kv_set(&own, first, &vec![0; 7 + left + 1]).await;
    ensure!(
        matches!(result, Err(StoreError::Full { of: "bytes", .. })),
        "a byte too many: {result:?}"
    );
    ensure_eq!(
        store.kv_get(&own, first).await?.map(|value| value.len()),
        Some(7),
        "after a refusal"
    );
    store.kv_set(&own, first, &vec![0; 7 + left]).await?;
    // What does not grow is taken, what is deleted leaves room, and nobody else has less.
    store.kv_set(&own, &there.items[1], b"7654321").await?;
    ensure!(store.kv_delete(&own, first).await?, "it was not deleted");
    store.kv_set(&own, "new", &vec![0; 7 + left]).await?;
    let another = Owner::Session(org.clone(), world.session(&org).await?.id);
    store.kv_set(&another, "k", b"x").await?;
    for key in &keys {
        store.kv_set(&Owner::Org(org.clone()), key, b"x").await?;
    }
    Ok(())
}

async fn bounds(world: &World) -> Outcome {
    let store = &world.store;
    let owner = Owner::Org(world.org().await?);
    let (longest, largest) = ("k".repeat(255), vec![7; 1024 * 1024]);
    store.kv_set(&owner, &longest, &largest).await?;
    ensure_eq!(
        store.kv_get(&owner, &longest).await?.map(|value| value.len()),
        Some(largest.len()),
        "the largest"
    );
    for (key, value) in [
        ("", &b""[..]),
        (&"k".repeat(256), b""),
        ("k", &vec![7; 1024 * 1024 + 1]),
    ] {
        let result = store.kv_set(&owner, key, value).await;
        ensure!(
            matches!(result, Err(StoreError::Invalid { .. })),
            "{} and {} bytes: {result:?}",
            key.len(),
            value.len()
        );
    }
    let result = store
        .secret_set(&owner, &secret("A")?, &value(&"x".repeat(64 * 1024 + 1)))
        .await;
    ensure!(
        matches!(result, Err(StoreError::Invalid { .. })),
        "a large secret: {result:?}"
    );
    let names = store.secret_names(&owner, &PageRequest::default()).await?.items;
    ensure_eq!(names, [], "secrets after a refusal");
    Ok(())
}

async fn secrets(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (session, other) = (world.session(&org).await?, world.session(&org).await?);
    let (whole, own) = (Owner::Org(org.clone()), Owner::Session(org.clone(), session.id));
    store.secret_set(&whole, &secret("B")?, &value("org b")).await?;
    store.secret_set(&whole, &secret("A")?, &value("first")).await?;
    store.secret_set(&whole, &secret("A")?, &value("org a")).await?;
    store.secret_set(&own, &secret("A")?, &value("own a ü")).await?;
    let all = PageRequest::default();
    ensure_eq!(
        store.secret_names(&whole, &all).await?.items,
        [secret("A")?, secret("B")?],
        "the org's names, in order"
    );
    let names = store.secret_names(&own, &all).await?.items;
    ensure_eq!(names, [secret("A")?], "the session's names");
    let mut one = PageRequest { after: None, limit: 1 };
    let first = store.secret_names(&whole, &one).await?;
    ensure_eq!(first.items, [secret("A")?], "the first page of the names");
    ensure!(first.next.is_some(), "the first page says that there is no other");
    one.after = first.next;
    let last = store.secret_names(&whole, &one).await?;
    ensure_eq!(
        (last.items, last.next),
        (vec![secret("B")?], None),
        "the last page of the names"
    );
    let orgs = [pair("A", "org a"), pair("B", "org b")];
    ensure_eq!(effective(&**store, &org, None).await?, orgs, "in effect for the org");
    ensure_eq!(
        effective(&**store, &org, Some(other.id)).await?,
        orgs,
        "in effect for another session"
    );
    let owns = [pair("A", "own a ü"), pair("B", "org b")];
    ensure_eq!(
        effective(&**store, &org, Some(session.id)).await?,
        owns,
        "in effect for the session"
    );
    ensure!(store.secret_delete(&own, &secret("A")?).await?, "it was not deleted");
    ensure!(!store.secret_delete(&own, &secret("A")?).await?, "it was deleted twice");
    ensure_eq!(
        effective(&**store, &org, Some(session.id)).await?,
        orgs,
        "in effect after the session's own is gone"
    );
    Ok(())
}

async fn stamps(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?.id;
    let (whole, own) = (Owner::Org(org.clone()), Owner::Session(org.clone(), session));
    let name = secret("A")?;
    let Some(before) = store.secrets_stamp(&org, Some(session)).await? else {
        // It always has to be read then, and nothing can be stale.
        return Ok(());
    };
    ensure!(!before.sessions_have_own, "a new org whose sessions have secrets");
    let mut seen = vec![before];
    for change in [
        "set for the org",
        "set for the session",
        "deleted in the session",
        "deleted in the org",
    ] {
        let quiet = store.secrets_stamp(&org, Some(session)).await?;
        ensure_eq!(quiet, seen.last().copied(), "the stamp when nothing changed");
        match change {
            "set for the org" => store.secret_set(&whole, &name, &value("x")).await?,
            "set for the session" => store.secret_set(&own, &name, &value("y")).await?,
            "deleted in the session" => drop(store.secret_delete(&own, &name).await?),
            _ => drop(store.secret_delete(&whole, &name).await?),
        }
        let Some(now) = store.secrets_stamp(&org, Some(session)).await? else {
            return Err(Broken(format!("no stamp after a secret was {change}")));
        };
        ensure!(
            !seen.contains(&now),
            "the stamp is an old one after a secret was {change}"
        );
        seen.push(now);
    }
    Ok(())
}

async fn ledger(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let entry = new_entry(&org, Some(session.id))?;
    store.ledger_open(&entry).await?;
    let page = PageRequest::default();
    ensure_eq!(
        store.ledger(&org, session.id, &page).await?.items,
        std::slice::from_ref(&entry),
        "the open entry"
    );
    let settlement = Settlement {
        outcome: EgressOutcome::Completed { status: 200 },
        address: Some([192, 0, 2, 1].into()),
        bytes_sent: 1,
        bytes_received: 2,
        duration_ms: 3,
        shapes: vec![ShapeSeen {
            kind: ShapeKind::PrivateKey,
            place: ShapePlace::ResponseBody,
        }],
    };
    store.ledger_settle(entry.id, &settlement).await?;
    let late = Settlement {
        outcome: EgressOutcome::Denied { reason: "no".into() },
        ..settlement.clone()
    };
    store.ledger_settle(entry.id, &late).await?;
    store.ledger_settle(LedgerId::new(), &late).await?;
    let settled = LedgerEntry {
        outcome: settlement.outcome,
        address: settlement.address,
        bytes_sent: 1,
        bytes_received: 2,
        duration_ms: 3,
        shapes: settlement.shapes,
        ..entry
    };
    ensure_eq!(
        store.ledger(&org, session.id, &page).await?.items,
        [settled],
        "the settled entry"
    );
    store.ledger_open(&new_entry(&org, None)?).await?;
    ensure_eq!(
        store.ledger(&org, session.id, &page).await?.items.len(),
        1,
        "after an entry without session"
    );
    Ok(())
}

async fn ledger_pages(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let mut opened = Vec::new();
    for _ in 0..5 {
        let entry = new_entry(&org, Some(session.id))?;
        store.ledger_open(&entry).await?;
        opened.push(entry.id);
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.ledger(&org, session.id, &PageRequest { after, limit: 2 }).await?;
        seen.extend(page.items.into_iter().map(|entry| entry.id));
        after = page.next;
        if after.is_none() || seen.len() > opened.len() {
            break;
        }
    }
    ensure_eq!(seen, opened, "the entries");
    Ok(())
}

async fn nothing_crosses(world: &World) -> Outcome {
    let store = &world.store;
    let (org, foreign) = (world.org().await?, world.org().await?);
    let (session, neighbour) = (world.session(&org).await?, world.session(&org).await?);
    let own = Owner::Session(org.clone(), session.id);
    store.kv_set(&own, "k", b"x").await?;
    store.secret_set(&own, &secret("A")?, &value("x")).await?;
    store.ledger_open(&new_entry(&org, Some(session.id))?).await?;
    let page = PageRequest::default();
    let others = [
        Owner::Org(org.clone()),
        Owner::Org(foreign.clone()),
        Owner::Session(org.clone(), neighbour.id),
        Owner::Session(foreign.clone(), session.id),
    ];
    for other in &others {
        ensure_eq!(store.kv_get(other, "k").await?, None, "a value");
        ensure_eq!(
            store.kv_keys(other, "", &page).await?.items,
            Vec::<String>::new(),
            "keys"
        );
        ensure!(
            !store.kv_delete(other, "k").await?,
            "a foreign value was deleted by {other:?}"
        );
        let names = store.secret_names(other, &page).await?.items;
        ensure_eq!(names, [], "secret names");
        ensure!(
            !store.secret_delete(other, &secret("A")?).await?,
            "a foreign secret was deleted by {other:?}"
        );
    }
    ensure_eq!(
        effective(&**store, &foreign, Some(session.id)).await?,
        [],
        "secrets in effect for a foreign org"
    );
    ensure_eq!(
        effective(&**store, &org, Some(neighbour.id)).await?,
        [],
        "secrets in effect for another session"
    );
    ensure_eq!(store.ledger(&foreign, session.id, &page).await?.items, [], "a ledger");
    ensure_eq!(
        store.ledger(&org, neighbour.id, &page).await?.items,
        [],
        "a neighbour's ledger"
    );
    ensure_eq!(
        store.kv_get(&own, "k").await?,
        Some(b"x".to_vec()),
        "the value afterwards"
    );
    ensure_eq!(
        effective(&**store, &org, Some(session.id)).await?,
        [pair("A", "x")],
        "the secret afterwards"
    );
    Ok(())
}

async fn no_session(world: &World) -> Outcome {
    let store = &world.store;
    let (org, foreign) = (world.org().await?, world.org().await?);
    let session = world.session(&org).await?;
    for (org, session) in [(&org, SessionId::new()), (&foreign, session.id)] {
        let owner = Owner::Session(org.clone(), session);
        let result = store.kv_set(&owner, "k", b"x").await;
        ensure!(matches!(result, Err(StoreError::Gone { .. })), "a value: {result:?}");
        let result = store.secret_set(&owner, &secret("A")?, &value("x")).await;
        ensure!(matches!(result, Err(StoreError::Gone { .. })), "a secret: {result:?}");
        let result = store.ledger_open(&new_entry(org, Some(session))?).await;
        ensure!(
            matches!(result, Err(StoreError::Gone { .. })),
            "a ledger entry: {result:?}"
        );
    }
    Ok(())
}

async fn deletion(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let session = world.session(&org).await?;
    let own = Owner::Session(org.clone(), session.id);
    store.kv_set(&own, "k", b"x").await?;
    store.secret_set(&own, &secret("A")?, &value("x")).await?;
    store.ledger_open(&new_entry(&org, Some(session.id))?).await?;
    store.delete_session(&org, session.id).await?;
    ensure_eq!(store.kv_get(&own, "k").await?, None, "the value");
    ensure_eq!(effective(&**store, &org, Some(session.id)).await?, [], "the secret");
    ensure_eq!(
        store.ledger(&org, session.id, &PageRequest::default()).await?.items,
        [],
        "the ledger"
    );
    Ok(())
}
