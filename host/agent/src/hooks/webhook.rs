//! Hooks over HTTP: a signed request (Standard Webhooks) through the one door out.

use super::{Answer, Asker, Failure, MOST_SHOWN, Question};
use crate::signed::{Message, signature};
use bytes::Bytes;
use fumehood_core::{
    Time,
    call::CallError,
    hook::{HookFailureKind, HookMode},
    id::CallId,
    ledger::EgressScope,
    name::{ComponentName, SecretName, ToolName},
    now,
};
use fumehood_egress::{Body, EgressError, EgressGrant, EgressLimits, RequestBudget};
use fumehood_policy::network::NetworkRule;
use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use secrecy::SecretString;
use serde_json::json;
use std::sync::Arc;

/// What the request says around what it is about.
const ENVELOPE: usize = 64 << 10;

impl Asker {
    /// Asks over HTTP.
    pub(super) async fn ask_webhook(
        &self,
        question: &Question<'_>,
        url: &str,
        key: &SecretName,
        place: &NetworkRule,
    ) -> Result<Answer, Failure> {
        let org = &question.whose.org;
        let unreadable = |_| Failure::new(HookFailureKind::Unavailable, "the host can't read the secrets in use");
        // THREAT[T-hook-forgery]: the org's key, and never one that a session has set in its place.
        let secrets = self.caller.secrets().of(org, None).await.map_err(unreadable)?;
        let value = secrets.value(key).map_err(unusable)?.ok_or_else(|| not_set(key))?;
        let in_session = self.caller.secrets().of(org, Some(question.whose.session)).await;
        let in_session = in_session.map_err(unreadable)?;
        let body = body(question, now());
        let (request, refused) = (|| self::request(question, url, key, value, body.clone()), Failure::from);
        let grant = EgressGrant {
            scope: scope(question)?,
            // THREAT[T-hook-narrowed]: what a client narrows silences no hook.
            // THREAT[T-hook-ssrf]: this place and no other, under the host-wide list; its addresses are checked like any tool's.
            policy: Arc::new(self.caller.policy().only(place.clone())),
            credentials: Arc::from([]),
            guard: in_session.guard().clone(),
            limits: EgressLimits {
                body_in: MOST_SHOWN as u64,
                body_out: (MOST_SHOWN + ENVELOPE) as u64,
                requests: Arc::new(RequestBudget::new(1)),
            },
        };
        let egress = self.caller.egress();
        if let Err(limited) = self.caller.limits().egress_request(org).await {
            egress
                .refuse(&grant, request()?, limited.limit(), limited.to_string())
                .await;
            return Err(Failure::new(HookFailureKind::Limited, limited.to_string()));
        }
        let response = egress.send(&grant, request()?).await.map_err(refused)?;
        let status = response.status();
        // A redirect is no answer either: nothing follows it.
        if !status.is_success() {
            let message = format!("it answered with the status {}", status.as_u16());
            return Err(Failure::new(HookFailureKind::Unreachable, message));
        }
        let answer = response.into_body().collect().await.map_err(Failure::from)?.to_bytes();
        match question.hook.mode {
            HookMode::Observe => Ok(Answer::Allow),
            HookMode::Guard => Answer::read(&answer),
        }
    }
}

fn scope(question: &Question<'_>) -> Result<EgressScope, Failure> {
    let name = question.hook.name.as_str();
    let unnamed = |_| Failure::new(HookFailureKind::Unavailable, "its name fits no entry of the ledger");
    Ok(EgressScope {
        org: question.whose.org.clone(),
        session: Some(question.whose.session),
        turn: question.whose.turn,
        call: CallId::new(),
        tool: ToolName::new(name.replace('-', "_")).map_err(unnamed)?,
        component: ComponentName::new(name).map_err(unnamed)?,
    })
}

fn body(question: &Question<'_>, time: Time) -> Bytes {
    let Question {
        whose, hook, occasion, ..
    } = question;
    let body = json!({
        "type": format!("hook.{}", occasion.point),
        "timestamp": time,
        "data": {
            "hook": hook.name,
            "mode": hook.mode,
            "org": whose.org,
            "agent": question.agent(),
            "session": whose.session,
            "turn": whose.turn,
            "call": occasion.call,
            "about": occasion.about,
        },
    });
    Bytes::from(body.to_string())
}

fn request(
    question: &Question<'_>,
    url: &str,
    key: &SecretName,
    value: &SecretString,
    body: Bytes,
) -> Result<Request<Body>, Failure> {
    let timestamp = now().timestamp();
    let message = Message {
        id: &question.id,
        timestamp,
        body: &body,
    };
    let signature = signature(key, value, message)
        .map_err(|error| Failure::new(HookFailureKind::Unavailable, error.to_string()))?;
    let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    Request::post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", &question.id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature)
        .body(body)
        .map_err(|_| Failure::new(HookFailureKind::Unavailable, "its `url` can't be requested"))
}

fn not_set(key: &SecretName) -> Failure {
    let message =
        format!("the secret {key} that signs its requests is not set; set it with `fumehood secret set {key}`");
    Failure::new(HookFailureKind::Unavailable, message)
}

fn unusable(error: CallError) -> Failure {
    Failure::new(HookFailureKind::Unavailable, error.message)
}

impl From<EgressError> for Failure {
    fn from(error: EgressError) -> Self {
        let kind = match &error {
            EgressError::Timeout { .. } => HookFailureKind::Timeout,
            EgressError::BodyTooLarge { .. } => HookFailureKind::InvalidAnswer,
            _ => HookFailureKind::Unreachable,
        };
        Self::new(kind, error.to_string())
    }
}
