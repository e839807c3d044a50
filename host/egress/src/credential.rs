//! Where secrets enter a request: credentials that are injected, placeholders that are replaced.
//!
//! Planned before anything is resolved, so that the ledger names the secrets; carried out on a copy of the request
//! only once the connection stands, so that a value exists in no request that might not be sent.

use crate::{
    error::EgressError,
    grant::{BoundCredential, EgressGrant},
    headers,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::name::SecretName;
use fumehood_policy::{
    credential::Injection,
    network::{Scheme, Target},
};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

/// What stands unencoded in a query value.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The shortest value that is injected: of a shorter one the guard doesn't find each encoding.
const MIN_VALUE: usize = 8;

/// The secrets a request will carry.
#[derive(Debug)]
pub(crate) struct Plan<'g> {
    /// Bound to the target's host.
    bound: Vec<&'g BoundCredential>,
    /// Of `bound`, those to inject; the others only stand ready for placeholders.
    inject: Vec<&'g BoundCredential>,
    /// All names, each once.
    secrets: Vec<SecretName>,
}

impl<'g> Plan<'g> {
    /// Which secrets the request will carry.
    ///
    /// A place that a credential fills is the host's, so a request that fills it itself is refused, unless with the
    /// placeholder of that very secret: then the tool chose the format, and nothing is injected there.
    ///
    /// # Errors
    /// When a placeholder names a secret that isn't bound to the host, or a place is taken.
    pub(crate) fn make(grant: &'g EgressGrant, target: &Target, headers: &HeaderMap) -> Result<Self, EgressError> {
        // THREAT[T-sec-exfiltration]: only what is bound to this host exists for this request.
        let is_bound = |bound: &&BoundCredential| bound.credential.applies_to(target.host());
        let bound: Vec<_> = grant.credentials.iter().filter(is_bound).collect();
        let mut plan = Self {
            bound,
            inject: Vec::new(),
            secrets: Vec::new(),
        };
        let texts = headers
            .values()
            .map(HeaderValue::as_bytes)
            .chain(target.query().map(str::as_bytes));
        for name in texts.flat_map(placeholders) {
            let credential = plan.named(name).ok_or_else(|| EgressError::UnboundSecret {
                secret: name.chars().take(64).collect(),
                host: target.host().to_string(),
            })?;
            plan.add_secret(grant, credential)?;
        }
        for credential in plan.bound.clone() {
            if !is_placed(credential, target, headers)? {
                plan.add_secret(grant, credential)?;
                plan.inject.push(credential);
            }
        }
        Ok(plan)
    }

    /// The names of the secrets, each once.
    pub(crate) fn secrets(&self) -> &[SecretName] {
        &self.secrets
    }

    /// Whether the secrets may cross this connection; `listed`: to a loopback address that the operator listed.
    ///
    /// # Errors
    /// When there are any, and they would cross a network in the clear, the operator's own included.
    // THREAT[T-net-plaintext-secret]
    pub(crate) fn check_transport(&self, scheme: Scheme, listed: bool) -> Result<(), EgressError> {
        match (self.secrets.first(), scheme) {
            (Some(secret), Scheme::Http) if !listed => Err(EgressError::PlainHttpSecret { secret: secret.clone() }),
            _ => Ok(()),
        }
    }

    /// Puts the values into the headers and returns path and query with theirs.
    ///
    /// # Errors
    /// When a value can't stand in a header.
    pub(crate) fn carry_out(&self, target: &Target, headers: &mut HeaderMap) -> Result<Zeroizing<String>, EgressError> {
        for value in headers.values_mut() {
            if let Some((credential, text)) = self.replaced(value.as_bytes(), |secret| secret.to_owned()) {
                *value = header_value(credential, &text)?;
            }
        }
        let mut path_and_query = Zeroizing::new(target.path_and_query());
        if let Some(query) = target.query() {
            let encode = |secret: &str| utf8_percent_encode(secret, UNRESERVED).to_string();
            if let Some((_, text)) = self.replaced(query.as_bytes(), encode) {
                path_and_query = Zeroizing::new(format!("{}?{}", target.path(), &*text));
            }
        }
        for credential in &self.inject {
            let value = value_of(credential);
            match &credential.credential.inject {
                Injection::Header { name, format } => {
                    let text = Zeroizing::new(format.fill(value));
                    headers.insert(header_name(name)?, header_value(credential, &text)?);
                }
                Injection::BasicUser(user) => {
                    let pair = Zeroizing::new(format!("{user}:{value}"));
                    let mut text = Zeroizing::new(String::with_capacity(8 + pair.len() * 4 / 3 + 4));
                    text.push_str("Basic ");
                    STANDARD.encode_string(pair.as_bytes(), &mut text);
                    headers.insert(AUTHORIZATION, header_value(credential, &text)?);
                }
                Injection::Query(name) => {
                    let separator = if path_and_query.contains('?') { '&' } else { '?' };
                    let value = utf8_percent_encode(value, UNRESERVED);
                    path_and_query = Zeroizing::new(format!("{}{separator}{name}={value}", &*path_and_query));
                }
            }
        }
        Ok(path_and_query)
    }

    fn named(&self, name: &str) -> Option<&'g BoundCredential> {
        self.bound
            .iter()
            .copied()
            .find(|bound| bound.credential.secret.as_str() == name)
    }

    // THREAT[T-sec-guest-sees-value]: what the guard can't find in an answer is not sent.
    fn add_secret(&mut self, grant: &EgressGrant, credential: &BoundCredential) -> Result<(), EgressError> {
        let secret = &credential.credential.secret;
        if self.secrets.contains(secret) {
            return Ok(());
        }
        let value = value_of(credential);
        if value.len() < MIN_VALUE || grant.guard.find(value.as_bytes()).is_none() {
            return Err(EgressError::UnguardedSecret { secret: secret.clone() });
        }
        self.secrets.push(secret.clone());
        Ok(())
    }

    /// `text` with its placeholders replaced, and the last credential used; nothing if there are none.
    fn replaced(
        &self,
        text: &[u8],
        encode: impl Fn(&str) -> String,
    ) -> Option<(&'g BoundCredential, Zeroizing<String>)> {
        let mut out = Zeroizing::new(Vec::new());
        let (mut from, mut last) = (0, None);
        while let Some((start, end, name)) = next_placeholder(text, from) {
            let credential = self.named(name)?;
            out.extend_from_slice(&text[from..start]);
            out.extend_from_slice(Zeroizing::new(encode(value_of(credential))).as_bytes());
            (from, last) = (end, Some(credential));
        }
        let last = last?;
        out.extend_from_slice(&text[from..]);
        let text = String::from_utf8_lossy(&out).into_owned();
        Some((last, Zeroizing::new(text)))
    }
}

/// The value without the white space around it.
fn value_of(credential: &BoundCredential) -> &str {
    credential.value.expose_secret().trim()
}

/// Whether the request already fills the credential's place with its placeholder.
fn is_placed(credential: &BoundCredential, target: &Target, own_headers: &HeaderMap) -> Result<bool, EgressError> {
    let secret = credential.credential.secret.as_str();
    let holds = |text: &[u8]| placeholders(text).any(|name| name == secret);
    let name = match &credential.credential.inject {
        Injection::Header { name, .. } => header_name(name)?,
        Injection::BasicUser(_) => AUTHORIZATION,
        Injection::Query(name) => {
            // Some servers also split at `;`.
            let parameters = target.query().unwrap_or_default().split(['&', ';']);
            let pairs = parameters.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let mut own = pairs.filter(|(written, _)| percent_decode_str(written).eq(name.bytes()));
            let Some((_, first)) = own.next() else { return Ok(false) };
            if holds(first.as_bytes()) && own.all(|(_, text)| holds(text.as_bytes())) {
                return Ok(true);
            }
            return Err(EgressError::ForbiddenParameter { name: name.clone() });
        }
    };
    let place = headers::as_read(&name);
    let mut own = own_headers
        .iter()
        .filter(|(written, _)| headers::as_read(written) == place)
        .peekable();
    if own.peek().is_none() {
        return Ok(false);
    }
    if own.all(|(_, value)| holds(value.as_bytes())) {
        return Ok(true);
    }
    Err(EgressError::ForbiddenHeader {
        name: name.to_string(),
        reason: "the host sets it from a credential",
    })
}

fn header_name(name: &str) -> Result<HeaderName, EgressError> {
    name.parse().map_err(|_| EgressError::ForbiddenHeader {
        name: name.chars().take(64).collect(),
        reason: "a credential names it and it is not a header name",
    })
}

fn header_value(credential: &BoundCredential, text: &str) -> Result<HeaderValue, EgressError> {
    let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| EgressError::UnusableSecret {
        secret: credential.credential.secret.clone(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The names in the placeholders of a text.
fn placeholders(text: &[u8]) -> impl Iterator<Item = &str> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let (_, end, name) = next_placeholder(text, from)?;
        from = end;
        Some(name)
    })
}

/// The next `{{secret:NAME}}` at or after `from`: its start, its end, its name. A URL library may have
/// percent-encoded braces and colon.
fn next_placeholder(text: &[u8], from: usize) -> Option<(usize, usize, &str)> {
    (from..text.len()).find_map(|start| {
        let mut rest = &text[start..];
        for part in [&["{", "%7B"][..], &["{", "%7B"], &["secret"], &[":", "%3A"]] {
            rest = part.iter().find_map(|form| strip(rest, form))?;
        }
        let length = rest
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
            .count();
        let (name, mut rest) = rest.split_at(length);
        for _ in 0..2 {
            rest = ["}", "%7D"].iter().find_map(|form| strip(rest, form))?;
        }
        Some((start, text.len() - rest.len(), std::str::from_utf8(name).ok()?))
    })
}

fn strip<'t>(text: &'t [u8], form: &str) -> Option<&'t [u8]> {
    let (head, rest) = text.split_at_checked(form.len())?;
    head.eq_ignore_ascii_case(form.as_bytes()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_plain_and_percent_encoded() {
        let text = b"a={{secret:ONE}}&b=%7B%7bsecret%3aTWO%7D%7d&c={{secret:}}&d={{secret:X}";
        assert_eq!(placeholders(text).collect::<Vec<_>>(), ["ONE", "TWO", ""]);
    }

    #[test]
    fn a_secret_crosses_the_clear_only_to_a_listed_loopback_address() {
        let plan = |secrets: &[&str]| Plan {
            bound: Vec::new(),
            inject: Vec::new(),
            secrets: secrets.iter().map(|name| SecretName::new(name).unwrap()).collect(),
        };
        for (secrets, scheme, listed, passes) in [
            (&["A"][..], Scheme::Http, false, false),
            (&["A"], Scheme::Http, true, true),
            (&["A"], Scheme::Https, false, true),
            (&[], Scheme::Http, false, true),
        ] {
            let checked = plan(secrets).check_transport(scheme, listed);
            assert_eq!(checked.is_ok(), passes, "{secrets:?} {scheme:?} {listed}: {checked:?}");
        }
    }

    #[test]
    fn text_that_only_looks_like_a_placeholder_stays() {
        for text in [
            "{secret:A}",
            "{{secret A}}",
            "{{ secret:A }}",
            "{{secret:A-B}}",
            "%7B",
            "{{",
            "",
        ] {
            assert_eq!(placeholders(text.as_bytes()).count(), 0, "{text}");
        }
    }
}
