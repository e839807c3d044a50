//! Orgs and what they own: keys, agents, components, grants.

use super::{Broken, Outcome, World, agent, ensure, ensure_eq, promises};
use crate::{
    api::StoreError,
    record::{Component, Key},
};
use fumehood_core::{
    digest::Digest,
    id::KeyId,
    name::{ComponentName, OrgName},
    now,
    tool::ToolDefinition,
};
use fumehood_policy::{agent::AgentConfig, files::KvAccess, grant::Grant, manifest::Manifest};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

promises! {
    "an org's name is taken once" => org_names,
    "a key is found by its token until it is revoked" => keys,
    "an org's agents are replaced all at once" => agents,
    "a component is replaced by name, and its grant belongs to its digest" => components,
    "a grant holds for code as long as it asks for no more than what was decided about" => wider_requests,
    "keys, agents and components of another org read as absent" => nothing_crosses,
    "nothing is written for an org that does not exist" => no_org,
}

pub(super) fn json<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Broken> {
    serde_json::from_value(value).map_err(|error| Broken(format!("the suite's own data does not parse: {error}")))
}

pub(super) fn new_key(org: &OrgName) -> (Key, Digest) {
    let key = Key {
        id: KeyId::new(),
        org: org.clone(),
        label: "for tests".into(),
        created: now(),
    };
    let token = Digest::of(key.id.to_string().as_bytes());
    (key, token)
}

pub(super) fn new_component(org: &OrgName, name: &str, code: &[u8]) -> Result<Component, Broken> {
    let manifest: Manifest = json(
        serde_json::json!({"name": name, "version": "0.1.0", "network": {"allow": ["https://api.example.com/v1"]}}),
    )?;
    let tool: ToolDefinition = json(serde_json::json!({
        "name": "fetch", "description": "Fetches.", "input_schema": {"type": "object", "properties": {"z": {}, "a": {}}},
    }))?;
    Ok(Component {
        name: ComponentName::new(name).map_err(|error| Broken(error.to_string()))?,
        org: org.clone(),
        digest: Digest::of(code),
        manifest,
        tools: vec![tool],
        grant: None,
        added: now(),
    })
}

pub(super) fn some_grant() -> Result<Grant, Broken> {
    json(serde_json::json!({"network": {"allow": ["https://api.example.com/v1/x"]}}))
}

async fn org_names(world: &World) -> Outcome {
    let store = &world.store;
    let name = world.org().await?;
    let again = store.create_org(&name).await;
    ensure!(
        matches!(again, Err(StoreError::Exists { .. })),
        "a second org of the name: {again:?}"
    );
    let read = store.org(&name).await?;
    ensure!(
        read.as_ref().is_some_and(|org| org.name == name),
        "the org reads as {read:?}"
    );
    let all = store.orgs().await?;
    ensure!(all.iter().any(|org| org.name == name), "the list of orgs lacks it");
    ensure!(
        all.is_sorted_by(|a, b| a.name < b.name),
        "the list of orgs is not in order"
    );
    let unknown = format!("u{}", uuid::Uuid::now_v7().simple());
    let unknown = OrgName::new(unknown).map_err(|error| Broken(error.to_string()))?;
    ensure_eq!(store.org(&unknown).await?, None, "an unknown org");
    Ok(())
}

async fn keys(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let (first, first_token) = new_key(&org);
    let (second, second_token) = new_key(&org);
    store.create_key(&first, &first_token).await?;
    store.create_key(&second, &second_token).await?;
    let again = store.create_key(&new_key(&org).0, &first_token).await;
    ensure!(
        matches!(again, Err(StoreError::Exists { .. })),
        "a second key of one token: {again:?}"
    );
    ensure_eq!(
        store.key_by_token(&first_token).await?,
        Some(first.clone()),
        "the key of a token"
    );
    ensure_eq!(
        store.keys(&org).await?,
        [first.clone(), second.clone()],
        "the keys, oldest first"
    );
    ensure!(store.revoke_key(&org, first.id).await?, "a live key was not revoked");
    ensure!(!store.revoke_key(&org, first.id).await?, "a key was revoked twice");
    ensure_eq!(
        store.key_by_token(&first_token).await?,
        None,
        "the key of a revoked token"
    );
    ensure_eq!(store.keys(&org).await?, [second], "the live keys");
    let back = store.create_key(&new_key(&org).0, &first_token).await;
    ensure!(
        matches!(back, Err(StoreError::Exists { .. })),
        "a revoked token came back to life: {back:?}"
    );
    Ok(())
}

async fn agents(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let config = |text: &str| AgentConfig {
        instructions: Some(text.into()),
        ..AgentConfig::default()
    };
    let first = BTreeMap::from([(agent("a")?, config("one")), (agent("b")?, config("two"))]);
    store.replace_agents(&org, &first).await?;
    ensure_eq!(store.agents(&org).await?, first, "the agents");
    let second = BTreeMap::from([(agent("b")?, config("three")), (agent("c")?, config("four"))]);
    store.replace_agents(&org, &second).await?;
    ensure_eq!(store.agents(&org).await?, second, "the agents after replacing them");
    Ok(())
}

async fn components(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let grant = some_grant()?;
    let first = new_component(&org, "github", b"one")?;
    let second = new_component(&org, "github", b"two")?;
    let granted = |component: &Component| Component {
        grant: Some(grant.clone()),
        ..component.clone()
    };
    store.put_component(&first).await?;
    ensure_eq!(
        store.component(&org, &first.name).await?,
        Some(first.clone()),
        "the component"
    );
    ensure!(
        !store.set_grant(&org, &first.name, &second.digest, &grant).await?,
        "a grant was given to code that isn't there"
    );
    ensure!(
        store.set_grant(&org, &first.name, &first.digest, &grant).await?,
        "a grant was not given"
    );
    ensure_eq!(
        store.component(&org, &first.name).await?,
        Some(granted(&first)),
        "the granted component"
    );
    let put = store.put_component(&second).await?;
    ensure_eq!(put.before, Some(granted(&first)), "the component before");
    ensure_eq!(put.component, granted(&second), "other code that asks for no more");
    ensure_eq!(
        store.component(&org, &first.name).await?,
        Some(granted(&second)),
        "other code under the name"
    );
    let nothing = Grant::none();
    ensure!(
        store.set_grant(&org, &second.name, &second.digest, &nothing).await?,
        "a grant was not given"
    );
    store.put_component(&first).await?;
    ensure_eq!(
        store.component(&org, &first.name).await?,
        Some(granted(&first)),
        "the same code again, with its own grant and not the other's"
    );
    let other = granted(&new_component(&org, "data", b"one")?);
    store.put_component(&other).await?;
    ensure_eq!(
        store.components(&org).await?,
        [other, granted(&first)],
        "the components, by name"
    );
    ensure!(
        store.remove_component(&org, &first.name).await?,
        "a component was not removed"
    );
    ensure!(
        !store.remove_component(&org, &first.name).await?,
        "a component was removed twice"
    );
    store.put_component(&first).await?;
    ensure_eq!(
        store.component(&org, &first.name).await?,
        Some(first.clone()),
        "a component added after removal"
    );
    Ok(())
}

/// A manifest need not be part of the code, so the same code may come back asking for more.
async fn wider_requests(world: &World) -> Outcome {
    let store = &world.store;
    let org = world.org().await?;
    let asks = new_component(&org, "github", b"one")?;
    let granted = Component {
        grant: Some(some_grant()?),
        ..asks.clone()
    };
    let mut wider = asks.clone();
    wider.manifest.kv.access = KvAccess::ReadWrite;
    let mut other = new_component(&org, "github", b"two")?;
    other.manifest = wider.manifest.clone();
    store.put_component(&granted).await?;
    let put = store.put_component(&asks).await?;
    ensure_eq!(put.component, granted, "the same again");
    let put = store.put_component(&other).await?;
    ensure_eq!(put.component, other, "other code that asks for more");
    let put = store.put_component(&wider).await?;
    ensure_eq!(
        put.component,
        wider,
        "the same code that asks for more, from another version"
    );
    let put = store.put_component(&asks).await?;
    ensure_eq!(put.component, asks, "the same code once its grant is withheld");
    store.put_component(&granted).await?;
    let put = store.put_component(&wider).await?;
    ensure_eq!(put.component, wider, "the same code that asks for more");
    ensure_eq!(
        store.component(&org, &wider.name).await?,
        Some(wider),
        "a component whose grant is withheld"
    );
    Ok(())
}

async fn nothing_crosses(world: &World) -> Outcome {
    let store = &world.store;
    let (org, foreign) = (world.org().await?, world.org().await?);
    let (key, token) = new_key(&org);
    store.create_key(&key, &token).await?;
    let component = new_component(&org, "github", b"one")?;
    store.put_component(&component).await?;
    store
        .replace_agents(&org, &BTreeMap::from([(agent("a")?, AgentConfig::default())]))
        .await?;

    ensure_eq!(store.keys(&foreign).await?, [], "keys");
    ensure!(!store.revoke_key(&foreign, key.id).await?, "a foreign key was revoked");
    ensure_eq!(store.agents(&foreign).await?, BTreeMap::new(), "agents");
    ensure_eq!(store.component(&foreign, &component.name).await?, None, "a component");
    ensure_eq!(store.components(&foreign).await?, [], "components");
    ensure!(
        !store.remove_component(&foreign, &component.name).await?,
        "a foreign component was removed"
    );
    let granted = store
        .set_grant(&foreign, &component.name, &component.digest, &some_grant()?)
        .await?;
    ensure!(!granted, "a foreign component was granted something");
    store.replace_agents(&foreign, &BTreeMap::new()).await?;

    ensure_eq!(
        store.agents(&org).await?.len(),
        1,
        "agents after another org replaced its own"
    );
    ensure_eq!(
        store.component(&org, &component.name).await?,
        Some(component),
        "the component afterwards"
    );
    ensure_eq!(store.key_by_token(&token).await?, Some(key), "the key afterwards");
    Ok(())
}

async fn no_org(world: &World) -> Outcome {
    let store = &world.store;
    let unknown = format!("u{}", uuid::Uuid::now_v7().simple());
    let unknown = OrgName::new(unknown).map_err(|error| Broken(error.to_string()))?;
    let (key, token) = new_key(&unknown);
    let result = store.create_key(&key, &token).await;
    ensure!(matches!(result, Err(StoreError::Gone { .. })), "a key: {result:?}");
    let result = store.put_component(&new_component(&unknown, "github", b"one")?).await;
    ensure!(
        matches!(result, Err(StoreError::Gone { .. })),
        "a component: {result:?}"
    );
    let result = store.create_session(&super::new_session(&unknown)?, &[]).await;
    ensure!(matches!(result, Err(StoreError::Gone { .. })), "a session: {result:?}");
    Ok(())
}
