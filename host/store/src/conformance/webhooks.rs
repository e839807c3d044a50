//! Webhooks: what each is to be told, and what comes of it.

use super::{Broken, Outcome, World, completed, ensure, ensure_eq, promises, remark};
use crate::{
    api::StoreError,
    record::PageRequest,
    webhooks::{Attempt, Delivery, DeliveryState, NewWebhook, Settings, Told, Webhook, WebhookState, Which},
};
use fumehood_core::{
    digest::Digest,
    id::WebhookId,
    name::{OrgName, SecretName},
    now,
};
use std::time::Duration;

promises! {
    "a webhook is kept as it was made, and changes only as it was seen" => kept,
    "the same idempotency key makes one webhook" => made_once,
    "an org has only so many webhooks" => bounded,
    "what a webhook is to be told is kept with the event" => queued,
    "what arrived is not sent again, unless it is replayed" => settled,
    "what did not arrive is sent again at its time" => again,
    "what was not sent counts as no attempt" => not_sent,
    "a webhook whose server is gone is told nothing more" => gone,
    "a webhook that has another address than the server that is gone is told there" => moved,
    "what is to be told goes with its session and with its webhook" => goes,
    "webhooks of another org read as absent" => foreign,
}

fn told(text: &str) -> Result<Told, Broken> {
    Told::try_from(text.to_owned()).map_err(|error| Broken(error.to_string()))
}

fn new_webhook(org: &OrgName, events: &[&str]) -> Result<NewWebhook, Broken> {
    Ok(NewWebhook {
        id: WebhookId::new(),
        org: org.clone(),
        settings: Settings {
            title: Some("ü".into()),
            url: "https://example.com/told".into(),
            key: SecretName::new("WEBHOOK_KEY").map_err(|error| Broken(error.to_string()))?,
            key_before: None,
            older_keys: Vec::new(),
        },
        events: events.iter().map(|event| told(event)).collect::<Result<_, _>>()?,
        idempotency: None,
    })
}

pub(super) async fn made(world: &World, org: &OrgName, events: &[&str]) -> Result<Webhook, Broken> {
    Ok(world.store.create_webhook(&new_webhook(org, events)?, 100).await?)
}

async fn again_seen(world: &World, webhook: &Webhook) -> Result<Webhook, Broken> {
    let kept = world.store.webhook(&webhook.org, webhook.id).await?;
    kept.ok_or_else(|| Broken("the webhook is gone".into()))
}

async fn all(world: &World, webhook: &Webhook, which: Which) -> Result<Vec<Delivery>, Broken> {
    let page = PageRequest::default();
    Ok(world
        .store
        .deliveries(&webhook.org, webhook.id, which, &page)
        .await?
        .items)
}

pub(super) async fn next(world: &World, webhook: &Webhook) -> Result<Delivery, Broken> {
    let next = world.store.next_delivery(webhook.id, now()).await?;
    next.ok_or_else(|| Broken("nothing is to be told".into()))
}

pub(super) fn attempt(delivery: Delivery, state: DeliveryState) -> Attempt {
    Attempt {
        delivery,
        state,
        status: Some(200),
        message: None,
        was_sent: true,
        gone: None,
    }
}

/// A webhook that has one turn's `turn.queued` to be told.
async fn with_one(world: &World) -> Result<(OrgName, Webhook), Broken> {
    let org = world.org().await?;
    let webhook = made(world, &org, &["turn.queued"]).await?;
    let session = world.session(&org).await?.id;
    world.turn(&org, session).await?;
    Ok((org, webhook))
}

async fn kept(world: &World) -> Outcome {
    let org = world.org().await?;
    let new = new_webhook(&org, &["turn.*"])?;
    let webhook = world.store.create_webhook(&new, 100).await?;
    ensure_eq!(
        (&webhook.settings, &webhook.events),
        (&new.settings, &new.events),
        "what was made"
    );
    ensure_eq!(again_seen(world, &webhook).await?, webhook, "what is kept");
    let mut changed = webhook.clone();
    changed.state = WebhookState::Paused;
    changed.settings.title = None;
    let kept = world.store.change_webhook(&changed).await?;
    ensure_eq!(
        kept.map(|kept| (kept.state, kept.settings.title)),
        Some((WebhookState::Paused, None)),
        "what was changed"
    );
    ensure_eq!(
        world.store.change_webhook(&webhook).await?,
        None,
        "a change of what was changed"
    );
    ensure!(world.store.delete_webhook(&org, webhook.id).await?, "it is not deleted");
    ensure!(
        !world.store.delete_webhook(&org, webhook.id).await?,
        "it is deleted twice"
    );
    Ok(())
}

async fn made_once(world: &World) -> Outcome {
    let org = world.org().await?;
    let new = |request: &[u8]| -> Result<NewWebhook, Broken> {
        Ok(NewWebhook {
            idempotency: Some(("a key".to_owned(), Digest::of(request))),
            ..new_webhook(&org, &["*"])?
        })
    };
    let before = world
        .store
        .repeated_webhook(&org, "a key", &Digest::of(b"a request"))
        .await?;
    ensure_eq!(before, None, "what the request led to before it came");
    let first = world.store.create_webhook(&new(b"a request")?, 1).await?;
    let known = world
        .store
        .repeated_webhook(&org, "a key", &Digest::of(b"a request"))
        .await?;
    ensure_eq!(known.as_ref(), Some(&first), "what the request led to");
    let other = world.org().await?;
    let foreign = world
        .store
        .repeated_webhook(&other, "a key", &Digest::of(b"a request"))
        .await?;
    ensure_eq!(foreign, None, "what another org's request led to");
    let another = world
        .store
        .repeated_webhook(&org, "a key", &Digest::of(b"another"))
        .await;
    ensure!(
        matches!(another, Err(StoreError::KeyReused)),
        "what another request led to: {another:?}"
    );
    let again = world.store.create_webhook(&new(b"a request")?, 1).await?;
    ensure_eq!(again, first, "the same request, where there are as many as may be");
    let reused = world.store.create_webhook(&new(b"another")?, 100).await;
    ensure!(
        matches!(reused, Err(StoreError::KeyReused)),
        "another request: {reused:?}"
    );
    ensure!(world.store.delete_webhook(&org, first.id).await?, "it is not deleted");
    let anew = world.store.create_webhook(&new(b"another")?, 100).await?;
    ensure!(anew.id != first.id, "what was deleted is there");
    Ok(())
}

async fn bounded(world: &World) -> Outcome {
    let org = world.org().await?;
    for _ in 0..2 {
        world.store.create_webhook(&new_webhook(&org, &["*"])?, 2).await?;
    }
    let refused = world.store.create_webhook(&new_webhook(&org, &["*"])?, 2).await;
    ensure!(
        matches!(refused, Err(StoreError::TooMany { limit: 2, .. })),
        "a third: {refused:?}"
    );
    let first = world
        .store
        .webhooks(&org, &PageRequest { after: None, limit: 1 })
        .await?;
    let second = world
        .store
        .webhooks(
            &org,
            &PageRequest {
                after: first.next.clone(),
                limit: 1,
            },
        )
        .await?;
    ensure!(first.items[0].id > second.items[0].id, "the newest comes first");
    Ok(())
}

async fn queued(world: &World) -> Outcome {
    let org = world.org().await?;
    let turns = made(world, &org, &["turn.*"]).await?;
    let sessions = made(world, &org, &["session.created"]).await?;
    let mut paused = made(world, &org, &["*"]).await?;
    paused.state = WebhookState::Paused;
    world.store.change_webhook(&paused).await?;
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?;
    world
        .store
        .append(&org, session, &[remark("said"), completed(turn.id)])
        .await?;
    let events = world.store.events(&org, session, 0, 10).await?;
    let of = |deliveries: Vec<Delivery>| {
        deliveries
            .into_iter()
            .rev()
            .map(|one| (one.event, one.seq, one.kind))
            .collect::<Vec<_>>()
    };
    let expected: Vec<_> = events
        .iter()
        .filter(|event| event.body.type_name().starts_with("turn."))
        .map(|event| {
            (
                event.id,
                event.seq.unwrap_or_default(),
                event.body.type_name().to_owned(),
            )
        })
        .collect();
    ensure_eq!(
        of(all(world, &turns, Which::Pending).await?),
        expected,
        "what one that is told of turns is told"
    );
    let kinds: Vec<_> = all(world, &sessions, Which::All)
        .await?
        .into_iter()
        .map(|one| one.kind)
        .collect();
    ensure_eq!(kinds, ["session.created"], "what one that is told of sessions is told");
    ensure_eq!(
        all(world, &paused, Which::All).await?,
        [],
        "what one is told that is paused"
    );
    ensure_eq!(again_seen(world, &turns).await?.pending, 2, "how many wait");
    let waiting = world.store.webhooks_to_tell().await?;
    let waiting: Vec<_> = waiting.iter().filter(|one| one.org == org).map(|one| one.id).collect();
    ensure_eq!(waiting.len(), 2, "those for which something waits");
    Ok(())
}

async fn settled(world: &World) -> Outcome {
    let (org, webhook) = with_one(world).await?;
    let delivery = next(world, &webhook).await?;
    let arrived = attempt(delivery.clone(), DeliveryState::Delivered);
    ensure!(world.store.settle_delivery(&arrived).await?, "the first");
    ensure!(!world.store.settle_delivery(&arrived).await?, "once more");
    ensure_eq!(
        world.store.next_delivery(webhook.id, now()).await?,
        None,
        "what is left"
    );
    ensure_eq!(again_seen(world, &webhook).await?.pending, 0, "how many wait");
    let there = all(world, &webhook, Which::Delivered).await?;
    ensure_eq!(
        there.first().map(|one| (one.attempts, one.status)),
        Some((1, Some(200))),
        "what arrived"
    );
    let replayed = world
        .store
        .replay_deliveries(&org, webhook.id, Some(delivery.id))
        .await?;
    ensure_eq!(replayed, 1, "what is replayed");
    ensure_eq!(next(world, &webhook).await?.event, delivery.event, "the same event");
    ensure_eq!(again_seen(world, &webhook).await?.pending, 1, "how many wait then");
    Ok(())
}

async fn again(world: &World) -> Outcome {
    let (org, webhook) = with_one(world).await?;
    let delivery = next(world, &webhook).await?;
    let later = now() + Duration::from_secs(3600);
    let failed = attempt(delivery.clone(), DeliveryState::Pending(later));
    ensure!(world.store.settle_delivery(&failed).await?, "an attempt that failed");
    ensure_eq!(
        world.store.next_delivery(webhook.id, now()).await?,
        None,
        "before its time"
    );
    let then = world.store.next_delivery(webhook.id, later).await?;
    let then = then.ok_or_else(|| Broken("it is not sent again".into()))?;
    ensure_eq!((then.id, then.attempts), (delivery.id, 1), "at its time");
    let dead = attempt(then, DeliveryState::Dead);
    ensure!(world.store.settle_delivery(&dead).await?, "the last attempt");
    ensure_eq!(
        world.store.next_delivery(webhook.id, later).await?,
        None,
        "what is dead"
    );
    ensure_eq!(
        world.store.replay_deliveries(&org, webhook.id, None).await?,
        1,
        "what is replayed"
    );
    ensure_eq!(next(world, &webhook).await?.attempts, 0, "how often it was sent since");
    Ok(())
}

async fn not_sent(world: &World) -> Outcome {
    let (_, webhook) = with_one(world).await?;
    let later = now() + Duration::from_secs(3600);
    for _ in 0..2 {
        let delivery = world.store.next_delivery(webhook.id, later).await?;
        let delivery = delivery.ok_or_else(|| Broken("it is not sent later".into()))?;
        ensure_eq!(delivery.attempts, 0, "how often it was sent");
        let mut limited = attempt(delivery, DeliveryState::Pending(later));
        limited.was_sent = false;
        ensure!(world.store.settle_delivery(&limited).await?, "one that was not sent");
    }
    ensure_eq!(
        world.store.next_delivery(webhook.id, now()).await?,
        None,
        "before its time"
    );
    Ok(())
}

async fn moved(world: &World) -> Outcome {
    let (_, webhook) = with_one(world).await?;
    let mut gone = attempt(next(world, &webhook).await?, DeliveryState::Dead);
    gone.gone = Some(webhook.settings.url.clone());
    let mut changed = webhook.clone();
    changed.settings.url = "https://example.com/elsewhere".into();
    ensure!(
        world.store.change_webhook(&changed).await?.is_some(),
        "it has not moved"
    );
    ensure!(
        world.store.settle_delivery(&gone).await?,
        "the attempt at the address before"
    );
    let kept = again_seen(world, &webhook).await?;
    ensure_eq!((kept.state, kept.pending), (WebhookState::Active, 1), "the webhook");
    ensure_eq!(
        next(world, &webhook).await?.id,
        gone.delivery.id,
        "what it is told there"
    );
    Ok(())
}

async fn gone(world: &World) -> Outcome {
    let (org, webhook) = with_one(world).await?;
    let session = world.session(&org).await?.id;
    world.turn(&org, session).await?;
    let mut gone = attempt(next(world, &webhook).await?, DeliveryState::Dead);
    gone.gone = Some(webhook.settings.url.clone());
    world.store.settle_delivery(&gone).await?;
    let kept = again_seen(world, &webhook).await?;
    ensure_eq!((kept.state, kept.pending), (WebhookState::Disabled, 0), "the webhook");
    ensure_eq!(
        all(world, &webhook, Which::Dead).await?.len(),
        2,
        "what is dead with it"
    );
    let session = world.session(&org).await?.id;
    world.turn(&org, session).await?;
    ensure_eq!(all(world, &webhook, Which::Pending).await?, [], "what it is told then");
    Ok(())
}

async fn goes(world: &World) -> Outcome {
    let (org, webhook) = with_one(world).await?;
    let session = next(world, &webhook).await?.session;
    ensure!(
        world.store.delete_session(&org, session).await?,
        "the session is not deleted"
    );
    ensure_eq!(
        all(world, &webhook, Which::All).await?,
        [],
        "what went with its session"
    );
    ensure_eq!(again_seen(world, &webhook).await?.pending, 0, "how many wait");
    let session = world.session(&org).await?.id;
    world.turn(&org, session).await?;
    ensure!(
        world.store.delete_webhook(&org, webhook.id).await?,
        "the webhook is not deleted"
    );
    ensure_eq!(
        world.store.next_delivery(webhook.id, now()).await?,
        None,
        "what went with it"
    );
    Ok(())
}

async fn foreign(world: &World) -> Outcome {
    let (_, webhook) = with_one(world).await?;
    let other = world.org().await?;
    ensure_eq!(world.store.webhook(&other, webhook.id).await?, None, "reading");
    ensure_eq!(
        world.store.webhooks(&other, &PageRequest::default()).await?.items,
        [],
        "listing"
    );
    ensure!(!world.store.delete_webhook(&other, webhook.id).await?, "deleting");
    let page = PageRequest::default();
    let told = world.store.deliveries(&other, webhook.id, Which::All, &page).await;
    ensure!(matches!(told, Err(StoreError::Gone { .. })), "its deliveries: {told:?}");
    let replayed = world.store.replay_deliveries(&other, webhook.id, None).await;
    ensure!(
        matches!(replayed, Err(StoreError::Gone { .. })),
        "replaying: {replayed:?}"
    );
    let session = world.session(&other).await?.id;
    world.turn(&other, session).await?;
    ensure_eq!(
        all(world, &webhook, Which::All).await?.len(),
        1,
        "what happens elsewhere is told to nobody else"
    );
    Ok(())
}
