//! Webhooks: an org is told what happens in its sessions, at URLs of its own.
//!
//! What is to be told is in the store with the event that tells it; [`sender`] takes it from there, by turns as [`places`] says, and
//! [`attempt`] sends one.

mod attempt;
mod places;
mod sender;

use super::{Host, HostError, made_before};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::{
    digest::Digest,
    id::{DeliveryId, WebhookId},
    name::{OrgName, SecretName},
    now,
};
use fumehood_policy::hook;
use fumehood_store::{
    record::Owner,
    webhooks::{KeyBefore, NewWebhook, Settings, Told, Webhook, WebhookState},
};
use secrecy::SecretString;
use std::time::Duration;
use tokio::sync::Notify;
use zeroize::Zeroizing;

/// The longest title.
const LONGEST_TITLE: usize = 200;
/// Webhooks of an org.
const MOST_WEBHOOKS: u64 = 10;
/// How long the key before signs as well, once another has taken its place.
const KEY_BEFORE: Duration = Duration::from_secs(24 * 60 * 60);
/// Keys that sign besides: each makes the requests longer, and a server tries each.
const MOST_KEYS_BEFORE: usize = 4;
/// How often a webhook that somebody else changes is looked at again.
const ATTEMPTS: usize = 16;
/// Bytes of a key that the host makes.
const KEY_BYTES: usize = 32;

/// What the host knows of its webhooks.
#[derive(Default)]
pub(super) struct Webhooks {
    /// One was changed, or is to be told something.
    changed: Notify,
}

/// A webhook to be made.
#[derive(Debug, Clone)]
pub struct WebhookRequest {
    /// For people.
    pub title: Option<String>,
    /// Where it is told.
    pub url: String,
    /// What.
    pub events: Vec<Told>,
    /// The client's `Idempotency-Key` and the digest of the request it came with.
    pub idempotency: Option<(String, Digest)>,
}

/// What to change of a webhook; `None` leaves a part as it is.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    /// For people; `Some(None)` removes it.
    pub title: Option<Option<String>>,
    /// Where it is told.
    pub url: Option<String>,
    /// What.
    pub events: Option<Vec<Told>>,
    /// Whether it is told.
    pub told: Option<BeTold>,
}

/// Whether a webhook is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeTold {
    /// From now on, and what waits.
    Yes,
    /// Not before somebody says so.
    Paused,
}

impl Host {
    /// Makes a webhook, and the key that signs its requests; or gives the one that the same request made before. The key is an org's
    /// secret like others, and not shown again.
    ///
    /// # Errors
    /// [`HostError::Invalid`] for a URL that can't be requested, [`HostError::KeyReused`], and the store's `TooMany`.
    pub async fn create_webhook(
        &self,
        org: &OrgName,
        request: WebhookRequest,
    ) -> Result<(Webhook, SecretString), HostError> {
        let WebhookRequest {
            title,
            url,
            events,
            idempotency,
        } = request;
        // First: a key that is made for nothing would be a change of the org's secrets.
        if let Some((key, request)) = &idempotency
            && let Some(earlier) = self
                .store()
                .repeated_webhook(org, key, request)
                .await
                .map_err(made_before)?
        {
            let key = self.key_of(&earlier).await?;
            return Ok((earlier, key));
        }
        let id = WebhookId::new();
        let settings = Settings {
            title,
            url,
            key: key_name(id)?,
            key_before: None,
            older_keys: Vec::new(),
        };
        check(&settings, &events)?;
        let new = NewWebhook {
            id,
            org: org.clone(),
            settings,
            events,
            idempotency,
        };
        let (host, key) = (self.clone(), new_key()?);
        self.to_the_end(async move {
            let (owner, name) = (Owner::Org(new.org.clone()), new.settings.key.clone());
            // A webhook without its key could tell nothing.
            host.store().secret_set(&owner, &name, &key).await?;
            let made = host.store().create_webhook(&new, MOST_WEBHOOKS).await;
            if made.as_ref().map(|made| made.id).ok() != Some(new.id) {
                host.forget_key(&new.org, &name).await;
            }
            let made = made.map_err(made_before)?;
            let key = match made.id == new.id {
                true => key,
                false => host.key_of(&made).await?,
            };
            Ok((made, key))
        })
        .await
    }

    /// The key that signs its requests, for one that a request made which is repeated.
    async fn key_of(&self, webhook: &Webhook) -> Result<SecretString, HostError> {
        let secrets = self.store().secrets_in_effect(&webhook.org, None).await?;
        let key = secrets.into_iter().find(|(name, _)| *name == webhook.settings.key);
        key.map(|(_, value)| value).ok_or(HostError::NotFound("secret"))
    }

    /// One webhook.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn webhook(&self, org: &OrgName, id: WebhookId) -> Result<Webhook, HostError> {
        let webhook = self.store().webhook(org, id).await?;
        webhook.ok_or(HostError::NotFound("webhook"))
    }

    /// Changes a webhook, from the next request on.
    ///
    /// # Errors
    /// Those of [`Host::create_webhook`].
    pub async fn change_webhook(
        &self,
        org: &OrgName,
        id: WebhookId,
        change: WebhookChange,
    ) -> Result<Webhook, HostError> {
        for _ in 0..ATTEMPTS {
            let mut webhook = self.webhook(org, id).await?;
            let change = change.clone();
            webhook.settings.title = change.title.unwrap_or(webhook.settings.title);
            webhook.settings.url = change.url.unwrap_or(webhook.settings.url);
            webhook.events = change.events.unwrap_or(webhook.events);
            check(&webhook.settings, &webhook.events)?;
            webhook.state = match change.told {
                None => webhook.state,
                Some(BeTold::Yes) => WebhookState::Active,
                Some(BeTold::Paused) => WebhookState::Paused,
            };
            if let Some(changed) = self.store().change_webhook(&webhook).await? {
                self.inner.webhooks.changed.notify_one();
                return Ok(changed);
            }
        }
        Err(HostError::Changed)
    }

    /// Gives a webhook another key. For a day the one before signs its requests as well, and so do those before it.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; [`HostError::Invalid`] when it was given as many others within a day as may sign.
    pub async fn rotate_webhook_key(&self, org: &OrgName, id: WebhookId) -> Result<(Webhook, SecretString), HostError> {
        let (host, org, key) = (self.clone(), org.clone(), new_key()?);
        let kept = key.clone();
        let changed = self
            .to_the_end(async move {
                let webhook = host.webhook(&org, id).await?;
                let name = key_name(id)?;
                host.store().secret_set(&Owner::Org(org.clone()), &name, &kept).await?;
                let changed = host.take_key(webhook, &name).await;
                if changed.is_err() {
                    host.forget_key(&org, &name).await;
                }
                changed
            })
            .await?;
        Ok((changed, key))
    }

    async fn take_key(&self, mut webhook: Webhook, name: &SecretName) -> Result<Webhook, HostError> {
        let time = now();
        let settings = &mut webhook.settings;
        let (older, over): (Vec<_>, Vec<_>) = settings.keys_before().cloned().partition(|before| before.until > time);
        if older.len() >= MOST_KEYS_BEFORE {
            return Err(HostError::Invalid(format!(
                "the webhook was given {MOST_KEYS_BEFORE} other secrets within a day, and each of those before signs its requests for that \
                 long: try again later, or make another webhook and delete this one"
            )));
        }
        settings.older_keys = older;
        settings.key_before = Some(KeyBefore {
            key: std::mem::replace(&mut settings.key, name.clone()),
            until: time + KEY_BEFORE,
        });
        let changed = self.store().change_webhook(&webhook).await?.ok_or(HostError::Changed)?;
        for before in over {
            self.forget_key(&webhook.org, &before.key).await;
        }
        Ok(changed)
    }

    /// Deletes a webhook with its deliveries and its keys.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn delete_webhook(&self, org: &OrgName, id: WebhookId) -> Result<(), HostError> {
        let (host, org) = (self.clone(), org.clone());
        self.to_the_end(async move {
            let settings = host.webhook(&org, id).await?.settings;
            if !host.store().delete_webhook(&org, id).await? {
                return Err(HostError::NotFound("webhook"));
            }
            let before = settings.keys_before().map(|before| &before.key);
            for key in std::iter::once(&settings.key).chain(before) {
                host.forget_key(&org, key).await;
            }
            Ok(())
        })
        .await
    }

    /// Sends a delivery again, or all that did not arrive, and says how many.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn replay_deliveries(
        &self,
        org: &OrgName,
        id: WebhookId,
        only: Option<DeliveryId>,
    ) -> Result<u64, HostError> {
        let count = self.store().replay_deliveries(org, id, only).await?;
        self.inner.webhooks.changed.notify_one();
        Ok(count)
    }

    /// A key that nothing uses any more; one that stays is only a secret too many.
    async fn forget_key(&self, org: &OrgName, name: &SecretName) {
        if let Err(error) = self.store().secret_delete(&Owner::Org(org.clone()), name).await {
            tracing::warn!(%org, secret = %name, %error, "the key of a webhook that is not used any more can't be deleted");
        }
    }
}

/// Another each time: by the random end of an id, not by the moment at its beginning.
fn key_name(id: WebhookId) -> Result<SecretName, HostError> {
    let unique = DeliveryId::new().uuid().simple().to_string();
    let name = format!("WEBHOOK_{}_{}", &id.uuid().simple().to_string()[20..], &unique[20..]);
    SecretName::new(name).map_err(|_| HostError::Fault)
}

fn new_key() -> Result<SecretString, HostError> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *bytes).map_err(|_| HostError::Fault)?;
    Ok(format!("whsec_{}", STANDARD.encode(*bytes)).into())
}

fn check(settings: &Settings, events: &[Told]) -> Result<(), HostError> {
    if settings.title.as_ref().is_some_and(|title| title.len() > LONGEST_TITLE) {
        return Err(HostError::Invalid(format!("a title is at most {LONGEST_TITLE} bytes")));
    }
    if events.is_empty() || events.len() > 32 {
        return Err(HostError::Invalid(
            "`events` names 1 to 32 types of events, such as `turn.completed`, `turn.*` or `*`; pause a webhook that is to be told \
             nothing"
                .into(),
        ));
    }
    hook::place(&settings.url).map_err(|error| HostError::Invalid(error.to_string()))?;
    Ok(())
}
