//! What to do with a redirect. Each hop is checked by the host like any request; this decides what is sent.

use super::{Error, Url};

/// The next request of a redirect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) url: Url,
    /// Send `GET` (or `HEAD`) without a body, whatever the method was.
    pub(super) drop_body: bool,
    /// The origin changed: send no header that may hold a credential.
    // THREAT[T-net-redirect]: a redirect never carries credentials to another origin.
    pub(super) drop_credentials: bool,
}

/// The next request, if the answer asks for one.
pub(super) fn hop(from: &Url, method: &str, status: u16, location: Option<&str>) -> Result<Option<Hop>, Error> {
    let (true, Some(location)) = (matches!(status, 301 | 302 | 303 | 307 | 308), location) else {
        return Ok(None);
    };
    let url = from.join(location)?;
    let drop_body = match status {
        303 => !matches!(method, "GET" | "HEAD"),
        301 | 302 => method == "POST",
        _ => false,
    };
    let drop_credentials = !from.same_origin(&url);
    Ok(Some(Hop {
        url,
        drop_body,
        drop_credentials,
    }))
}

/// Whether a header must not follow a redirect to another origin.
pub(super) fn may_hold_credentials(name: &str, value: &str) -> bool {
    ["authorization", "proxy-authorization", "cookie"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
        || value.contains("{{secret:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(method: &str, status: u16, location: &str) -> Option<Hop> {
        hop(&Url::parse("https://a/x").unwrap(), method, status, Some(location)).unwrap()
    }

    #[test]
    fn only_redirects_with_a_location_are_followed() {
        assert!(to("GET", 200, "/y").is_none());
        assert!(to("GET", 304, "/y").is_none());
        assert_eq!(hop(&Url::parse("https://a/").unwrap(), "GET", 302, None), Ok(None));
    }

    #[test]
    fn see_other_turns_a_post_into_a_get() {
        assert!(to("POST", 303, "/y").unwrap().drop_body);
        assert!(to("POST", 302, "/y").unwrap().drop_body);
        assert!(!to("POST", 307, "/y").unwrap().drop_body);
        assert!(!to("PUT", 301, "/y").unwrap().drop_body);
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        assert!(to("GET", 302, "https://b/y").unwrap().drop_credentials);
        assert!(to("GET", 302, "http://a/y").unwrap().drop_credentials);
        assert!(!to("GET", 302, "/y").unwrap().drop_credentials);
        assert!(may_hold_credentials("Authorization", "x"));
        assert!(may_hold_credentials("x-key", "{{secret:K}}"));
        assert!(!may_hold_credentials("accept", "text/html"));
    }
}
