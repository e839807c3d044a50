//! `fumehood webhook …`

use crate::{
    args::{DeliveryStatus, Webhook, WebhookStatus},
    client::Client,
    out::{Out, Style, list, printable, text},
};
use reqwest::Method;
use serde_json::{Value, json};

pub(crate) async fn webhook(out: Out, client: &Client, command: &Webhook) -> anyhow::Result<()> {
    match command {
        Webhook::Create { url, event, title } => {
            let mut body = json!({"url": url, "title": title});
            if !event.is_empty() {
                body["events"] = json!(event);
            }
            let made = client.post("/v1/webhooks", &body).await?;
            out.either(&made, |made| with_secret(out, made));
        }
        Webhook::List => {
            let items = client.every("/v1/webhooks").await?;
            out.either(&json!({ "items": items }), |page| table(out, page));
        }
        Webhook::Set { id, url, event, status } => {
            let mut body = json!({});
            if let Some(url) = url {
                body["url"] = json!(url);
            }
            if !event.is_empty() {
                body["events"] = json!(event);
            }
            if let Some(status) = status {
                body["status"] = json!(match status {
                    WebhookStatus::Active => "active",
                    WebhookStatus::Paused => "paused",
                });
            }
            let request = client.request(Method::PATCH, &format!("/v1/webhooks/{id}"));
            let changed = client.send(request.json(&body)).await?;
            out.either(&changed, |changed| line(out, changed));
        }
        Webhook::Rotate { id } => {
            let rotated = client.post(&format!("/v1/webhooks/{id}/secret"), &json!({})).await?;
            out.either(&rotated, |rotated| with_secret(out, rotated));
        }
        Webhook::Deliveries { id, status, limit } => {
            let status = match status {
                None => "",
                Some(DeliveryStatus::Pending) => "&status=pending",
                Some(DeliveryStatus::Delivered) => "&status=delivered",
                Some(DeliveryStatus::Dead) => "&status=dead",
            };
            let path = format!("/v1/webhooks/{id}/deliveries?limit={limit}{status}");
            let page = client.get(&path).await?;
            out.either(&page, |page| deliveries(out, page));
        }
        Webhook::Replay { id, delivery } => {
            let path = match delivery {
                None => format!("/v1/webhooks/{id}/replay"),
                Some(delivery) => format!("/v1/webhooks/{id}/deliveries/{delivery}/replay"),
            };
            let replayed = client.post(&path, &json!({})).await?;
            out.either(&replayed, |replayed| {
                let count = replayed.get("deliveries").and_then(Value::as_u64).unwrap_or_default();
                out.line(format_args!("{count} are sent again"));
            });
        }
        Webhook::Delete { id } => {
            let gone = client.delete(&format!("/v1/webhooks/{id}")).await?;
            out.either(&gone, |_| out.line(format_args!("{id} is deleted")));
        }
    }
    Ok(())
}

fn line(out: Out, webhook: &Value) {
    let id = out.style(Style::Bold, text(webhook, "id"));
    out.line(format_args!(
        "{id} {} {}",
        text(webhook, "status"),
        printable(text(webhook, "url"))
    ));
}

/// The secret is shown once.
fn with_secret(out: Out, webhook: &Value) {
    line(out, webhook);
    out.line("Its requests are verified with this secret, which is shown once:");
    out.line(format_args!("  {}", text(webhook, "secret")));
}

fn table(out: Out, page: &Value) {
    let row = |webhook: &Value| {
        let cell = |key| printable(text(webhook, key));
        let number = |key| webhook.get(key).and_then(Value::as_u64).unwrap_or_default().to_string();
        let events = list(webhook, "events").iter().filter_map(Value::as_str);
        let events = events.collect::<Vec<_>>().join(" ");
        vec![
            cell("id"),
            cell("status"),
            number("pending"),
            printable(&events),
            cell("url"),
        ]
    };
    let rows = list(page, "items").iter().map(row).collect();
    out.table(
        &["webhook", "status", "waiting", "events", "url"],
        rows,
        "no webhooks yet",
    );
}

fn deliveries(out: Out, page: &Value) {
    let row = |delivery: &Value| {
        let cell = |key| printable(text(delivery, key));
        let attempts = delivery.get("attempts").and_then(Value::as_u64).unwrap_or_default();
        vec![
            cell("id"),
            cell("type"),
            cell("status"),
            attempts.to_string(),
            cell("next_attempt"),
            cell("message"),
        ]
    };
    let rows = list(page, "items").iter().map(row).collect();
    let heads = ["delivery", "event", "status", "attempts", "next", "what was wrong"];
    out.table(&heads, rows, "nothing was to be told yet");
}
