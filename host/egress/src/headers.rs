//! Headers at the door: which a tool may set, which it may see.

use crate::{
    error::{EgressError, RequestPart},
    guard::LeakGuard,
};
use fumehood_policy::network::Target;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use std::borrow::Cow;

/// The most a tool's headers may take, in bytes of names and values.
const MAX_REQUEST_HEADERS: usize = 32 * 1024;

/// Headers about one connection rather than the request; the host speaks for the connection.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Headers by which some servers replace the method, the path or the host that a rule was applied to.
const OVERRIDES: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "forwarded",
];

/// A header's name as servers read it that hand it on in an environment variable.
pub(crate) fn as_read(name: &HeaderName) -> Cow<'_, str> {
    let name = name.as_str();
    if name.contains('_') {
        Cow::Owned(name.replace('_', "-"))
    } else {
        Cow::Borrowed(name)
    }
}

/// Takes the headers of a tool's request, without those that the host sets itself, and what `content-length` declared.
///
/// # Errors
/// On a header that is not the tool's to set, or that two servers could read differently.
// THREAT[T-net-header-smuggling]: nothing that frames, routes or upgrades a request comes from the tool.
pub(crate) fn check(headers: &HeaderMap, target: &Target, guard: &LeakGuard) -> Result<Option<u64>, EgressError> {
    let mut bytes = 0;
    for (name, value) in headers {
        bytes += name.as_str().len() + value.len();
        let refuse = |reason| {
            Err(EgressError::ForbiddenHeader {
                name: name.to_string(),
                reason,
            })
        };
        if bytes > MAX_REQUEST_HEADERS {
            return refuse("all headers together are larger than 32 KiB");
        }
        if value
            .as_bytes()
            .iter()
            .any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f)
        {
            return refuse("its value has a control character");
        }
        let read = as_read(name);
        if HOP_BY_HOP.contains(&&*read) || read.starts_with("proxy-") {
            return refuse("it is about the connection, which is the host's");
        }
        // THREAT[T-net-rule-bypass]: what a rule allowed is what the server is asked for.
        if OVERRIDES.contains(&&*read) || read.starts_with("x-forwarded-") {
            return refuse("some servers take method, path or host from it instead of from the request");
        }
        if read == "expect" {
            return refuse("the host does not wait for 100-continue");
        }
        if read == HOST.as_str() && !names_target(value, target) {
            return refuse("it must be the URL's own host");
        }
        if let Some(secret) = guard
            .find(value.as_bytes())
            .or_else(|| guard.find_in_name(name.as_str()))
        {
            return Err(EgressError::LeakBlocked {
                secret: secret.clone(),
                part: RequestPart::Headers,
            });
        }
    }
    declared_length(headers)
}

/// Takes out what the host sets itself.
pub(crate) fn strip_request(headers: &mut HeaderMap) {
    headers.remove(HOST);
    headers.remove(CONTENT_LENGTH);
    // What comes back must be readable for the guard.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

fn names_target(value: &HeaderValue, target: &Target) -> bool {
    let written = value.as_bytes();
    written.eq_ignore_ascii_case(target.authority().as_bytes())
        || written.eq_ignore_ascii_case(format!("{}:{}", target.host(), target.port()).as_bytes())
}

fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, EgressError> {
    let refuse = |reason| EgressError::ForbiddenHeader {
        name: CONTENT_LENGTH.to_string(),
        reason,
    };
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refuse("it stands there more than once"));
    }
    let digits = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok());
    length.map(Some).ok_or_else(|| refuse("it is not a number"))
}

/// Checks and cleans the head of an answer.
///
/// # Errors
/// When the body is encoded in a way that hides it from the guard.
pub(crate) fn take_response(headers: &mut HeaderMap, guard: &LeakGuard, has_body: bool) -> Result<(), EgressError> {
    if has_body {
        refuse_encodings(headers, &CONTENT_ENCODING, "identity")?;
        refuse_encodings(headers, &TRANSFER_ENCODING, "chunked")?;
    }
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    remove_connection_headers(headers);
    if has_body && !guard.is_empty() {
        // What is replaced in the body has another length.
        headers.remove(CONTENT_LENGTH);
    }
    redact(headers, guard);
    Ok(())
}

/// Takes out of the trailers of an answer what is not the tool's to see.
pub(crate) fn take_trailers(trailers: &mut HeaderMap, guard: &LeakGuard) {
    remove_connection_headers(trailers);
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, HOST] {
        trailers.remove(name);
    }
    redact(trailers, guard);
}

fn remove_connection_headers(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    for name in ["proxy-authenticate", "proxy-authentication-info"] {
        headers.remove(name);
    }
}

// THREAT[T-net-encoded-answer]: what the guard can't read, nobody gets.
fn refuse_encodings(headers: &HeaderMap, name: &HeaderName, harmless: &str) -> Result<(), EgressError> {
    for value in headers.get_all(name) {
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut codings = text.split(',').map(str::trim);
        // What it is called is the server's text, and not repeated: it may be an echo.
        if codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(harmless)) {
            return Err(EgressError::EncodedResponse);
        }
    }
    Ok(())
}

/// Replaces the values of secrets; a header whose very name holds one is taken out.
// THREAT[T-sec-guest-sees-value]
fn redact(headers: &mut HeaderMap, guard: &LeakGuard) {
    if guard.is_empty() {
        return;
    }
    let telling: Vec<HeaderName> = headers
        .keys()
        .filter(|name| guard.find_in_name(name.as_str()).is_some())
        .cloned()
        .collect();
    for name in telling {
        headers.remove(name);
    }
    for value in headers.values_mut() {
        if let Cow::Owned(redacted) = guard.redact(value.as_bytes()) {
            *value = HeaderValue::from_bytes(&redacted).unwrap_or_else(|_| HeaderValue::from_static("[secret]"));
        }
    }
}
