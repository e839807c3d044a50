//! The decision on one request, before anything leaves: pure, and recorded whichever way it goes.

use crate::{
    credential::Plan,
    error::{EgressError, RequestPart},
    grant::EgressGrant,
    headers,
    shapes::Shapes,
};
use fumehood_core::{
    id::LedgerId,
    ledger::{EgressOutcome, LedgerEntry, ShapePlace},
    now,
};
use fumehood_policy::network::{Target, Verdict};
use http::request::Parts;
use percent_encoding::percent_decode_str;

/// How much of a text that broke off before it was parsed goes into the ledger, in characters.
const SHOWN: usize = 64;

/// A request that may leave.
#[derive(Debug)]
pub(crate) struct Allowed<'g> {
    pub(crate) target: Target,
    /// What `content-length` declared.
    pub(crate) declared: Option<u64>,
    pub(crate) plan: Plan<'g>,
    /// The rule that let it through, and its layer.
    pub(crate) rule: String,
}

/// A request that may not leave.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: EgressError,
    /// Absent when the URL is not one.
    target: Option<Target>,
    rule: String,
}

/// Decides on one request.
pub(crate) fn decide<'g>(grant: &'g EgressGrant, head: &Parts) -> Result<Allowed<'g>, Box<Refused>> {
    let url = head.uri.to_string();
    let refused = |error: EgressError, target: Option<&Target>, rule: &str| {
        Box::new(Refused {
            error,
            target: target.cloned(),
            rule: rule.to_owned(),
        })
    };
    // THREAT[T-net-rule-bypass]: what is matched is what is sent; the tool's own spelling ends here.
    let target = Target::parse(head.method.as_str(), &url);
    // THREAT[T-sec-log]: before a refusal repeats the beginning of either, which the guard could not find in it.
    leak_in_line(grant, head.method.as_str(), &url, target.as_ref().ok())
        .map_err(|error| refused(error, target.as_ref().ok(), "leak guard"))?;
    let target = target.map_err(|error| {
        refused(
            EgressError::InvalidUrl {
                reason: error.to_string(),
            },
            None,
            "url",
        )
    })?;
    let declared = headers::check(&head.headers, &target, &grant.guard).map_err(|error| {
        let rule = if matches!(error, EgressError::LeakBlocked { .. }) {
            "leak guard"
        } else {
            "headers"
        };
        refused(error, Some(&target), rule)
    })?;
    let rule = match grant.policy.decide(&target) {
        Verdict::Allowed { rule } => rule,
        Verdict::Denied(denial) => {
            let rule = denial.ledger_rule();
            return Err(refused(
                EgressError::Denied { reason: denial.message },
                Some(&target),
                &rule,
            ));
        }
    };
    match Plan::make(grant, &target, &head.headers) {
        Ok(plan) => Ok(Allowed {
            target,
            declared,
            plan,
            rule,
        }),
        Err(error) => Err(refused(error, Some(&target), "credential")),
    }
}

/// The refusal of a request that a limit outside the door says no to.
pub(crate) fn by_limit(head: &Parts, limit: &str, reason: String) -> Refused {
    Refused {
        error: EgressError::Denied { reason },
        target: Target::parse(head.method.as_str(), &head.uri.to_string()).ok(),
        rule: format!("limit: {limit}"),
    }
}

/// The refusal of a request beyond the call's limit.
pub(crate) fn beyond_limit(grant: &EgressGrant, head: &Parts) -> Refused {
    let limit = grant.limits.requests.limit();
    Refused {
        error: EgressError::RequestLimit { limit },
        target: Target::parse(head.method.as_str(), &head.uri.to_string()).ok(),
        rule: format!("limit: http_requests = {limit}"),
    }
}

// THREAT[T-sec-exfiltration]: a value that reached the tool by another way must not leave by this one.
fn leak_in_line(grant: &EgressGrant, method: &str, url: &str, target: Option<&Target>) -> Result<(), EgressError> {
    let decoded: Vec<u8> = percent_decode_str(url).collect();
    let path = target.map(Target::path).unwrap_or_default();
    let texts = [url.as_bytes(), &decoded, path.as_bytes(), method.as_bytes()];
    match texts.into_iter().find_map(|text| grant.guard.find(text)) {
        Some(secret) => Err(EgressError::LeakBlocked {
            secret: secret.clone(),
            part: RequestPart::Url,
        }),
        None => Ok(()),
    }
}

impl Allowed<'_> {
    /// The entry to write before anything leaves.
    pub(crate) fn entry(&self, grant: &EgressGrant, shapes: &Shapes) -> LedgerEntry {
        let mut entry = entry(grant, Some(&self.target), EgressOutcome::Started);
        entry.rule.clone_from(&self.rule);
        entry.secrets = self.plan.secrets().to_vec();
        entry.shapes = shapes.seen();
        entry
    }
}

impl Refused {
    /// The entry that records the refusal.
    // THREAT[T-sec-log]: a refused request may hold a value in its URL; the ledger must not.
    pub(crate) fn entry(&self, grant: &EgressGrant, head: &Parts) -> LedgerEntry {
        let redacted = |text: &str| grant.guard.redact_str(text).into_owned();
        let reason = redacted(&self.error.to_string());
        let mut entry = entry(grant, self.target.as_ref(), EgressOutcome::Denied { reason });
        if self.target.is_none() {
            // Redacted first: half a value is no value that could be found.
            entry.method = redacted(head.method.as_str()).chars().take(SHOWN).collect();
        }
        entry.host = redacted(&entry.host);
        entry.path = redacted(&entry.path);
        entry.rule = redacted(&self.rule);
        entry.shapes = shapes_in(head).seen();
        entry
    }
}

/// What looks like a key in what the tool wrote of a request, its body aside.
pub(crate) fn shapes_in(head: &Parts) -> Shapes {
    let shapes = Shapes::default();
    shapes.note(ShapePlace::RequestUrl, head.uri.to_string().as_bytes());
    for value in head.headers.values() {
        shapes.note(ShapePlace::RequestHeaders, value.as_bytes());
    }
    shapes
}

fn entry(grant: &EgressGrant, target: Option<&Target>, outcome: EgressOutcome) -> LedgerEntry {
    let text = |part: fn(&Target) -> String| target.map(part).unwrap_or_default();
    LedgerEntry {
        id: LedgerId::new(),
        time: now(),
        scope: grant.scope.clone(),
        method: text(|t| t.method().to_owned()),
        scheme: text(|t| t.scheme().to_string()),
        host: text(|t| t.host().to_string()),
        port: target.map_or(0, Target::port),
        path: text(|t| t.path().to_owned()),
        query_bytes: target.map_or(0, Target::query_bytes),
        rule: String::new(),
        address: None,
        secrets: Vec::new(),
        outcome,
        bytes_sent: 0,
        bytes_received: 0,
        duration_ms: 0,
        shapes: Vec::new(),
    }
}
