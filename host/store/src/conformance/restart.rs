//! Closing and opening again.

use super::{
    Broken, Factory, Outcome, World, agent,
    callbacks::{giving, handed_on},
    completed, ensure, ensure_eq, of_turn,
    rewinds::to_before,
    spending::{all_usage, org_cap, started, step, usage, wish},
    tenancy::{new_component, new_key, some_grant},
    values::{effective, new_entry},
};
use crate::{
    record::{Component, Owner, PageRequest},
    spending::{Reserved, Standing},
};
use fumehood_core::{name::SecretName, now, turn::TurnStatus};
use fumehood_policy::agent::AgentConfig;
use secrecy::SecretString;
use std::{collections::BTreeMap, time::Duration};

pub(super) const TEXT: &str = "everything is there after closing and opening again";

pub(super) async fn everything_is_kept(factory: &dyn Factory) -> Outcome {
    let world = World {
        store: factory.open().await,
    };
    let store = &world.store;
    let org = world.org().await?;
    let (key, token) = new_key(&org);
    store.create_key(&key, &token).await?;
    let agents = BTreeMap::from([(agent("a")?, AgentConfig::default())]);
    store.replace_agents(&org, &agents).await?;
    let component = Component {
        grant: Some(some_grant()?),
        ..new_component(&org, "github", b"one")?
    };
    store.put_component(&component).await?;
    let id = world.session(&org).await?.id;
    let turn = world.turn(&org, id).await?;
    let spent = [
        of_turn(turn.id, started()?),
        of_turn(turn.id, step(Some(usage(5, 2)), Some(3))),
        completed(turn.id),
    ];
    store.append(&org, id, &spent).await?;
    let own = Owner::Session(org.clone(), id);
    store.kv_set(&own, "k", b"v").await?;
    let name = SecretName::new("A").map_err(|error| Broken(error.to_string()))?;
    store.secret_set(&own, &name, &SecretString::from("hidden")).await?;
    let entry = new_entry(&org, Some(id))?;
    store.ledger_open(&entry).await?;
    store.rewind(&org, id, &to_before(std::slice::from_ref(&turn))).await?;
    let busy = world.session(&org).await?.id;
    let at_work = world.turn(&org, busy).await?;
    let waiting = super::queue::queue(&world, &org, busy).await?;
    let session = store.session(&org, id).await?;
    let rewinds = store.rewinds(&org, id).await?;
    let events = store.events(&org, id, 0, 100).await?;
    let ended = store.turn(&org, turn.id).await?;
    let used = all_usage(&**store, &org).await?;
    ensure_eq!(used.len(), 1, "the rows of usage");
    let held = store.reserve(&org, &[], wish(&turn, 7)).await?;
    ensure_eq!(held, Reserved::Granted(Vec::new()), "what was held");
    let caps = [org_cap(100)];
    let standings = store.standings(&org, id, &caps).await?;
    ensure_eq!(standings, [Standing { used: 7, held: 7 }], "what is spent and held");
    let given = handed_on(&world, &org, now() + Duration::from_secs(3600)).await?;
    ensure!(
        store.give(&giving(given.callback, "built")).await?,
        "the result was not kept"
    );
    let callback = store.callback(given.callback).await?;
    drop(world);

    let store = factory.open().await;
    ensure_eq!(
        store.callback(given.callback).await?,
        callback,
        "the callback with its result"
    );
    let results = store.given(&org, given.turn()).await?;
    ensure_eq!(results.len(), 1, "the results that are not in the journal yet");
    ensure_eq!(store.org(&org).await?.map(|org| org.name), Some(org.clone()), "the org");
    ensure_eq!(store.key_by_token(&token).await?, Some(key), "the key");
    ensure_eq!(store.agents(&org).await?, agents, "the agents");
    ensure_eq!(store.components(&org).await?, [component], "the components");
    ensure_eq!(store.session(&org, id).await?, session, "the session");
    ensure_eq!(store.events(&org, id, 0, 100).await?, events, "the journal");
    ensure_eq!(store.rewinds(&org, id).await?, rewinds, "where it went back");
    let again = store.turn(&org, turn.id).await?;
    ensure_eq!(again, ended, "the turn");
    ensure_eq!(
        again.map(|turn| turn.status),
        Some(TurnStatus::Completed),
        "the turn's status"
    );
    ensure_eq!(
        store.next_turn(&org, busy).await?,
        Some(at_work.clone()),
        "the turn at work"
    );
    store.append(&org, busy, &[completed(at_work.id)]).await?;
    ensure_eq!(store.next_turn(&org, busy).await?, Some(waiting), "the turn that waits");
    ensure_eq!(store.kv_get(&own, "k").await?, Some(b"v".to_vec()), "the value");
    let hidden = vec![("A".to_owned(), "hidden".to_owned())];
    ensure_eq!(effective(&*store, &org, Some(id)).await?, hidden, "the secret");
    ensure_eq!(
        store.ledger(&org, id, &PageRequest::default()).await?.items,
        [entry],
        "the ledger"
    );
    ensure_eq!(all_usage(&*store, &org).await?, used, "the usage");
    ensure_eq!(
        store.standings(&org, id, &caps).await?,
        standings,
        "what is spent and held, opened again"
    );
    let next = store.append(&org, id, &[super::remark("next")]).await?;
    ensure_eq!(next[0].seq, Some(events.len() as u64 + 1), "the next place");
    Ok(())
}
