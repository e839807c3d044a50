//! The little that a client needs of URLs. The host parses again, strictly.

use super::Error;
use std::fmt;

/// An absolute `http` or `https` URL in its parts, without fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    secure: bool,
    authority: String,
    path_and_query: String,
}

impl Url {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another scheme, a missing host, user information, white space or control characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Err(Error::Invalid(format!(
                "`{}` is not a usable URL: {why}",
                shorten(text)
            )))
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return invalid("it holds white space or control characters: percent-encode them");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return invalid("it must start with https:// or http://");
        };
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return invalid("only https and http work"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path_and_query) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return invalid("it names no host");
        }
        if authority.contains('@') {
            return invalid("user information before the host is not allowed");
        }
        if path_and_query.starts_with('\\') {
            return invalid("it holds a backslash after the host");
        }
        let path_and_query = match path_and_query.as_bytes().first() {
            None => "/".to_owned(),
            Some(b'?') => format!("/{path_and_query}"),
            Some(_) => path_and_query.to_owned(),
        };
        Ok(Self {
            secure,
            authority: authority.to_ascii_lowercase(),
            path_and_query,
        })
    }

    /// Whether the scheme is `https`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Host and, if written, port.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path, and the query if there is one.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// Whether two URLs have scheme, host and port in common.
    #[must_use]
    pub fn same_origin(&self, other: &Self) -> bool {
        let port = |url: &Self| if url.secure { ":443" } else { ":80" };
        let bare = |url: &Self| {
            url.authority
                .strip_suffix(port(url))
                .unwrap_or(&url.authority)
                .to_owned()
        };
        self.secure == other.secure && bare(self) == bare(other)
    }

    /// What a reference, such as a `Location` header, means in a document at this URL.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for [`Url::parse`].
    pub fn join(&self, reference: &str) -> Result<Self, Error> {
        let reference = reference.split('#').next().unwrap_or_default();
        let scheme = if self.secure { "https" } else { "http" };
        let has_scheme = reference.split_once(':').is_some_and(|(before, _)| {
            before.starts_with(|c: char| c.is_ascii_alphabetic())
                && before
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        });
        if has_scheme {
            return Self::parse(reference);
        }
        if reference.starts_with("//") {
            return Self::parse(&format!("{scheme}:{reference}"));
        }
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        let joined = if reference.is_empty() {
            self.path_and_query.clone()
        } else if reference.starts_with('?') {
            format!("{path}{reference}")
        } else if reference.starts_with('/') {
            without_dots(reference)
        } else {
            let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
            without_dots(&format!("{folder}{reference}"))
        };
        Self::parse(&format!("{scheme}://{}{joined}", self.authority))
    }

    pub(super) fn push_query(&mut self, name: &str, value: &str) {
        self.path_and_query
            .push(if self.path_and_query.contains('?') { '&' } else { '?' });
        encode(name, &mut self.path_and_query);
        self.path_and_query.push('=');
        encode(value, &mut self.path_and_query);
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path_and_query)
    }
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(120).flat_map(char::escape_debug).collect();
    if text.chars().count() > 120 {
        short.push('…');
    }
    short
}

/// Removes `.` and `..` segments (RFC 3986, 5.2.4).
fn without_dots(path_and_query: &str) -> String {
    let (path, query) = path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// Percent-encodes a query name or value. A secret's placeholder stays readable for the host.
fn encode(text: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = text;
    while !rest.is_empty() {
        let (plain, placeholder) = match rest.find("{{secret:") {
            Some(start) => match rest[start..].find("}}") {
                Some(length) => (&rest[..start], &rest[start..start + length + 2]),
                None => (rest, ""),
            },
            None => (rest, ""),
        };
        for byte in plain.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                into.push(char::from(byte));
            } else {
                into.push('%');
                into.push(char::from(HEX[usize::from(byte >> 4)]));
                into.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
        into.push_str(placeholder);
        rest = &rest[plain.len() + placeholder.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_url_is_taken_apart() {
        let it = url("HTTPS://Example.com:8443/a/b?c=d#e");
        assert!(it.is_secure());
        assert_eq!(it.authority(), "example.com:8443");
        assert_eq!(it.path_and_query(), "/a/b?c=d");
        assert_eq!(url("http://h").to_string(), "http://h/");
        assert_eq!(url("http://h?x").to_string(), "http://h/?x");
    }

    #[test]
    fn what_is_no_usable_url_is_refused() {
        for bad in [
            "",
            "example.com",
            "ftp://h/",
            "https:///p",
            "https://u@h/",
            "https://h/a b",
            "https://h/\r\nx: y",
            "https://h\\@evil/",
        ] {
            assert!(matches!(Url::parse(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn references_are_resolved_as_the_standard_says() {
        let base = url("http://a/b/c/d?q");
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("", "http://a/b/c/d?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../../g", "http://a/g"),
            ("https://x/y#z", "https://x/y"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), expected, "{reference}");
        }
        assert!(base.join("ftp://x/").is_err());
        assert!(base.join("javascript:alert(1)").is_err());
    }

    #[test]
    fn origins_compare_with_default_ports() {
        assert!(url("https://a/x").same_origin(&url("https://A:443/y")));
        assert!(!url("https://a/").same_origin(&url("http://a/")));
        assert!(!url("https://a/").same_origin(&url("https://a:444/")));
    }

    #[test]
    fn query_values_are_encoded_and_placeholders_are_not() {
        let mut it = url("https://h/p");
        it.push_query("q", "a b&c=é");
        it.push_query("key", "x{{secret:API_KEY}}y");
        assert_eq!(it.path_and_query(), "/p?q=a%20b%26c%3D%C3%A9&key=x{{secret:API_KEY}}y");
    }
}
