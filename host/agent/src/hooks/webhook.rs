//! Hooks over HTTP: a signed request (Standard Webhooks) through the one door out.

use super::{Answer, Asker, Failure, MOST_SHOWN, Question};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
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
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The shortest key that Standard Webhooks allows, in bytes.
const SHORTEST_KEY: usize = 24;
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
    let signature = signature(key, value, &question.id, timestamp, &body)?;
    let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    Request::post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", &question.id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature)
        .body(body)
        .map_err(|_| Failure::new(HookFailureKind::Unavailable, "its `url` can't be requested"))
}

/// `v1` of Standard Webhooks: HMAC-SHA256 over id, time and body, so that none of them can be exchanged.
fn signature(
    name: &SecretName,
    value: &SecretString,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> Result<String, Failure> {
    let key = key(name, value)?;
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(body);
    Ok(format!("v1,{}", STANDARD.encode(context.sign().as_ref())))
}

/// `whsec_` and base64, or the value's own bytes.
fn key(name: &SecretName, value: &SecretString) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let value = value.expose_secret().trim();
    let key = match value.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| {
            let message = format!("the secret {name} begins with `whsec_`, and what follows is not base64");
            Failure::new(HookFailureKind::Unavailable, message)
        })?,
        None => value.as_bytes().to_vec(),
    };
    let key = Zeroizing::new(key);
    if key.len() < SHORTEST_KEY {
        let message = format!("the secret {name} is too short to sign with: use at least {SHORTEST_KEY} random bytes");
        return Err(Failure::new(HookFailureKind::Unavailable, message));
    }
    Ok(key)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(key: &str, id: &str, timestamp: i64, body: &str) -> Result<String, Failure> {
        let name = SecretName::new("HOOK_KEY").unwrap();
        signature(&name, &key.into(), id, timestamp, body.as_bytes())
    }

    #[test]
    fn a_signature_is_the_one_that_standard_webhooks_publishes() {
        // The example of the specification's own libraries.
        let published = signed(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(published.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_key_may_be_the_bytes_of_the_value() {
        let encoded = format!("whsec_{}", STANDARD.encode("a key of twenty-four bytes"));
        let of = |key: &str| signed(key, "hook_1", 1, "{}").unwrap();
        assert_eq!(of("a key of twenty-four bytes"), of(&encoded));
        assert_ne!(of("another key of some length"), of(&encoded));
    }

    #[test]
    fn a_key_that_is_too_short_or_not_what_it_claims_is_refused_without_showing_it() {
        for key in ["hunter2-hunter2", "whsec_aGk=", "whsec_not/base64!hunter2"] {
            let failure = signed(key, "hook_1", 1, "{}").unwrap_err();
            assert_eq!(failure.kind, HookFailureKind::Unavailable);
            assert!(!failure.message.contains("hunter2"), "{}", failure.message);
        }
    }
}
