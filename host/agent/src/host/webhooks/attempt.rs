//! One attempt to tell a webhook: a signed request through the door, and what comes of it.

use super::super::{Host, HostError};
use crate::{
    retry::Jitter,
    signed::{self, Message},
};
use bytes::Bytes;
use fumehood_core::{
    event::{Event, EventBody},
    id::{CallId, WebhookId},
    ledger::EgressScope,
    name::{ComponentName, OrgName, SecretName, ToolName},
    now,
};
use fumehood_egress::{Body, EgressGrant, EgressLimits, RequestBudget};
use fumehood_policy::hook;
use fumehood_store::webhooks::{Attempt, Delivery, DeliveryState, Webhook};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How long an endpoint may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest event that is told as a whole; of a larger one the endpoint reads the rest itself.
const LARGEST: usize = 1 << 20;
/// What stands around it.
const ENVELOPE: usize = 64 << 10;
/// What is read of an answer; nothing is done with it.
const ANSWER: u64 = 64 << 10;
/// How long after an attempt that failed the next is made. After the last the delivery is dead: more than three days.
const AFTER: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(5 * 60 * 60),
    Duration::from_secs(10 * 60 * 60),
    Duration::from_secs(14 * 60 * 60),
    Duration::from_secs(20 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
];
/// The longest wait that an endpoint may ask for.
const LONGEST_HINT: Duration = Duration::from_secs(24 * 60 * 60);

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Arrived(u16),
    Gone(u16),
    /// It was not sent: the org has sent as much as it may for now.
    Limited {
        message: String,
        /// When it may again.
        after: Duration,
    },
    Failed {
        status: Option<u16>,
        message: String,
        /// How long the endpoint asks to be left alone.
        hint: Option<Duration>,
    },
}

impl Answer {
    fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            status: None,
            message: message.into(),
            hint: None,
        }
    }

    fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let code = status.as_u16();
        if status.is_success() {
            return Self::Arrived(code);
        }
        if status == StatusCode::GONE {
            return Self::Gone(code);
        }
        let seconds = headers
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Self::Failed {
            status: Some(code),
            message: match status.is_redirection() {
                true => format!("it answered with the status {code}; nothing follows a redirect"),
                false => format!("it answered with the status {code}"),
            },
            hint: seconds.map(Duration::from_secs),
        }
    }

    /// What it means for a delivery that was to be sent to a URL.
    fn settles(self, delivery: Delivery, url: &str, jitter: Jitter) -> Attempt {
        let was_sent = !matches!(self, Self::Limited { .. });
        let gone = matches!(self, Self::Gone(_)).then(|| url.to_owned());
        let (state, status, message) = match self {
            Self::Arrived(status) => (DeliveryState::Delivered, Some(status), None),
            Self::Gone(status) => (
                DeliveryState::Dead,
                Some(status),
                Some("it answered that it is gone".to_owned()),
            ),
            Self::Limited { message, after } => {
                let after = jitter.times(AFTER[0]).max(after.min(LONGEST_HINT));
                (DeliveryState::Pending(now() + after), None, Some(message))
            }
            Self::Failed { status, message, hint } => {
                let wait = wait(delivery.attempts, hint, jitter);
                let state = wait.map_or(DeliveryState::Dead, |wait| DeliveryState::Pending(now() + wait));
                (state, status, Some(message))
            }
        };
        Attempt {
            delivery,
            state,
            status,
            message,
            was_sent,
            gone,
        }
    }
}

/// How long after an attempt, which so many came before, the next is made.
fn wait(before: u32, hint: Option<Duration>, jitter: Jitter) -> Option<Duration> {
    let wait = AFTER.get(usize::try_from(before).ok()?)?;
    Some(jitter.times(*wait).max(hint.unwrap_or_default().min(LONGEST_HINT)))
}

impl Host {
    /// Tells a webhook the next that it is to be told, if that is due.
    pub(super) async fn tell_next(&self, org: &OrgName, id: WebhookId) -> Result<(), HostError> {
        let Some(webhook) = self.store().webhook(org, id).await? else {
            return Ok(());
        };
        let Some(delivery) = self.store().next_delivery(id, now()).await? else {
            return Ok(());
        };
        let place = (delivery.session, delivery.seq.saturating_sub(1));
        let event = self.store().events(org, place.0, place.1, 1).await?;
        let answer = match event.into_iter().next() {
            Some(event) => self.tell(&webhook, &event).await?,
            // The session has gone, and its deliveries with it.
            None => return Ok(()),
        };
        self.store()
            .settle_delivery(&answer.settles(delivery, &webhook.settings.url, Jitter::random()))
            .await?;
        Ok(())
    }

    async fn tell(&self, webhook: &Webhook, event: &Event) -> Result<Answer, HostError> {
        let org = &webhook.org;
        let secrets = self.caller().secrets().of(org, None).await?;
        let time = now();
        let before = webhook.settings.keys_before().filter(|before| before.until > time);
        let mut keys = Vec::new();
        for name in std::iter::once(&webhook.settings.key).chain(before.map(|before| &before.key)) {
            match secrets.value(name) {
                Ok(Some(value)) => keys.push((name, value)),
                Ok(None) => return Ok(not_set(name)),
                Err(error) => return Ok(Answer::failed(error.message)),
            }
        }
        let body = body(event);
        let id = event.id.to_string();
        let timestamp = now().timestamp();
        let message = Message {
            id: &id,
            timestamp,
            body: &body,
        };
        let signatures = keys.iter().map(|(name, value)| signed::signature(name, value, message));
        let signatures = match signatures.collect::<Result<Vec<_>, _>>() {
            Ok(signatures) => signatures.join(" "),
            Err(error) => return Ok(Answer::failed(error.to_string())),
        };
        let request = || {
            let body = Full::new(body.clone()).map_err(|never| match never {}).boxed_unsync();
            Request::post(&webhook.settings.url)
                .header(header::CONTENT_TYPE, "application/json")
                .header("webhook-id", &id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", &signatures)
                .body(body)
        };
        let Ok(place) = hook::place(&webhook.settings.url) else {
            return Ok(Answer::failed("its `url` can't be requested"));
        };
        let grant = EgressGrant {
            scope: scope(event)?,
            // THREAT[T-webhook-ssrf]: this place and no other, under the host-wide list; its addresses are checked like any tool's.
            policy: Arc::new(self.caller().policy().only(place)),
            credentials: Arc::from([]),
            guard: secrets.guard().clone(),
            limits: EgressLimits {
                body_in: ANSWER,
                body_out: (LARGEST + ENVELOPE) as u64,
                requests: Arc::new(RequestBudget::new(1)),
            },
        };
        Ok(self.send_to_webhook(&grant, request).await)
    }

    /// Sends it, in the org's limits and in the time that an endpoint has.
    async fn send_to_webhook(&self, grant: &EgressGrant, request: impl Fn() -> http::Result<Request<Body>>) -> Answer {
        let (Ok(first), Ok(refused)) = (request(), request()) else {
            return Answer::failed("its `url` can't be requested");
        };
        let egress = self.caller().egress();
        if let Err(limited) = self.caller().limits().egress_request(&grant.scope.org).await {
            egress
                .refuse(grant, refused, limited.limit(), limited.to_string())
                .await;
            return Answer::Limited {
                message: limited.to_string(),
                after: limited.retry_after(),
            };
        }
        // THREAT[T-webhook-stall]: an endpoint that does not answer is left, and its connection closed.
        match tokio::time::timeout(PATIENCE, egress.send(grant, first)).await {
            Ok(Ok(response)) => Answer::of(response.status(), response.headers()),
            Ok(Err(error)) => Answer::failed(grant.guard.redact_str(&error.to_string())),
            Err(_) => Answer::failed(format!("it did not answer within {} s", PATIENCE.as_secs())),
        }
    }
}

fn not_set(key: &SecretName) -> Answer {
    Answer::failed(format!(
        "the secret {key} that signs its requests is gone; give the webhook another with `POST /v1/webhooks/…/secret`"
    ))
}

/// What a webhook is not told of a job: what a model asked for, what the tool may do, and what it said.
// THREAT[T-webhook-content]: whoever has the URL sees what happens, not what is in the conversation.
const NOT_TOLD: [&str; 4] = ["arguments", "authority", "output", "error"];

/// What it is told: the event, as a client reads it, without what models and tools say in a job.
fn body(event: &Event) -> Bytes {
    let mut told = json!(event);
    let of_a_job = matches!(
        event.body,
        EventBody::JobQueued { .. } | EventBody::JobStarted { .. } | EventBody::JobCompleted { .. }
    );
    if of_a_job && let Some(data) = told.get_mut("data").and_then(Value::as_object_mut) {
        data.retain(|name, _| !NOT_TOLD.contains(&name.as_str()));
    }
    if told.to_string().len() > LARGEST
        && let Some(told) = told.as_object_mut()
    {
        told.insert("data".to_owned(), json!({}));
        told.insert("truncated".to_owned(), Value::Bool(true));
    }
    let body = json!({
        "type": event.body.type_name(),
        "timestamp": event.time,
        "data": told,
    });
    Bytes::from(body.to_string())
}

fn scope(event: &Event) -> Result<EgressScope, HostError> {
    Ok(EgressScope {
        org: event.org.clone(),
        session: Some(event.session),
        turn: event.turn,
        call: CallId::new(),
        tool: ToolName::new("webhook").map_err(|_| HostError::Fault)?,
        component: ComponentName::new("webhook").map_err(|_| HostError::Fault)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{
        call::{CallError, CallErrorCode, CallResult, ComponentRef, Metering, Output},
        content::Content,
        digest::Digest,
        event::Source,
        id::{EventId, JobId, SessionId},
        tool::Effect,
    };

    #[test]
    fn of_a_job_an_endpoint_is_told_where_it_is_and_neither_what_it_is_called_with_nor_what_it_says() {
        let (job, call) = (JobId::new(), CallId::new());
        let tool = ToolName::new("build").unwrap();
        let said = json!({"text": "a secret plan"});
        let queued = EventBody::JobQueued {
            job,
            call,
            tool: tool.clone(),
            component: ComponentRef {
                name: ComponentName::new("builder").unwrap(),
                digest: Digest::of(b"code"),
            },
            effect: Effect::Pure,
            fingerprint: Digest::of(b"call"),
            arguments: said.as_object().unwrap().clone(),
            agent: "assistant".parse().unwrap(),
            approved: false,
        };
        let started = EventBody::JobStarted {
            job,
            call,
            attempt: 1,
            authority: Some(said),
        };
        let completed =
            |result: CallResult| EventBody::job_completed(job, call, tool.clone(), result, Metering::default());
        let output = Output {
            content: vec![Content::text("a secret plan")],
            ..Output::default()
        };
        let failed = CallError::new(CallErrorCode::Failed, "a secret plan");
        for (body_of, told) in [
            (queued, json!("build")),
            (started, json!(null)),
            (completed(Ok(output)), json!("build")),
            (completed(Err(failed)), json!("build")),
        ] {
            let event = Event {
                id: EventId::new(),
                seq: Some(1),
                time: now(),
                org: OrgName::default_org(),
                session: SessionId::new(),
                turn: None,
                source: Source::Host,
                body: body_of,
            };
            let sent = body(&event);
            let sent: Value = serde_json::from_slice(&sent).unwrap();
            assert_eq!(sent["type"], event.body.type_name());
            assert_eq!(sent["data"]["data"]["job"], job.to_string());
            assert_eq!(sent["data"]["data"]["tool"], told);
            assert!(!sent.to_string().contains("secret plan"), "{sent}");
        }
    }

    #[test]
    fn an_endpoint_is_tried_again_for_more_than_three_days() {
        let evenly = Jitter::of(10_000);
        let waits: Vec<_> = (0..).map_while(|before| wait(before, None, evenly)).collect();
        assert_eq!(waits, AFTER);
        let days = waits.iter().sum::<Duration>().as_secs() / 86_400;
        assert!((3..=4).contains(&days), "{days}");
    }

    #[test]
    fn an_endpoint_that_asks_to_be_left_alone_is_for_a_day_at_most() {
        let evenly = Jitter::of(10_000);
        for (hint, expected) in [(1, 5), (60, 60), (10 * 86_400, 86_400)] {
            let wait = wait(0, Some(Duration::from_secs(hint)), evenly);
            assert_eq!(wait, Some(Duration::from_secs(expected)));
        }
    }

    #[test]
    fn only_success_arrives_and_a_redirect_is_not_followed() {
        let of = |status: u16| Answer::of(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
        for status in [200, 202, 204] {
            assert_eq!(of(status), Answer::Arrived(status));
        }
        assert_eq!(of(410), Answer::Gone(410));
        for status in [301, 307, 400, 404, 429, 500, 503] {
            assert!(matches!(of(status), Answer::Failed { status: Some(_), .. }), "{status}");
        }
    }
}
