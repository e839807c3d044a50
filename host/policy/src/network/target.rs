//! A request's target, strictly parsed. What is checked is what is sent.

use super::host::{Host, ParseHostError};
use crate::text_serde::shown;
use std::fmt;

/// The longest URL taken, in bytes.
const MAX_URL: usize = 16 * 1024;

/// The scheme of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `https`
    Https,
    /// `http`
    Http,
}

impl Scheme {
    /// As a URL writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    /// 443 or 80.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request method: upper case, 1 to 32 letters, digits, dashes and underscores; never `CONNECT` or `TRACE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(Box<str>);

impl Method {
    /// Takes a method in any case.
    ///
    /// # Errors
    /// When the text is not a method, or one that may not leave.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if text.is_empty() || text.len() > 32 || !text.bytes().all(token) {
            return Err(TargetError::Method(shown(text)));
        }
        let upper = text.to_ascii_uppercase();
        // THREAT[T-sec-exfiltration]: CONNECT would open a tunnel behind the check, and a TRACE answer
        // repeats the request's headers, the injected credential among them.
        if matches!(&*upper, "CONNECT" | "TRACE" | "TRACK") {
            return Err(TargetError::ForbiddenMethod(upper));
        }
        Ok(Self(upper.into()))
    }

    /// In upper case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a request has no target that could be checked. It is refused before any list is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not a method.
    #[error("`{0}` is not an HTTP method")]
    Method(String),
    /// A method that may not leave.
    #[error("the method {0} may not be sent: it opens a tunnel or repeats the request's secrets")]
    ForbiddenMethod(String),
    /// Longer than 16 KiB.
    #[error("the URL is longer than {MAX_URL} bytes")]
    TooLong,
    /// Neither `http://` nor `https://`, or not exactly two slashes.
    #[error("the URL must start with `https://` or `http://` and a host")]
    Scheme,
    /// White space, a control character or a backslash, which parsers read differently.
    #[error("the URL has white space, a control character or a backslash; percent-encode it")]
    Character,
    /// A user name or password before the host.
    #[error("the URL has a user name or password before the host; a grant's credential is the way to authenticate")]
    Userinfo,
    /// A host that is not one.
    #[error(transparent)]
    Host(#[from] ParseHostError),
    /// Not 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// A `%` without two hexadecimal digits, or an encoded control character.
    #[error("the path has a `%` that is not followed by two hexadecimal digits, or an encoded control character")]
    PathEncoding,
    /// `..` written so that only some servers see it.
    #[error(
        "the path hides a `.` or `..` segment behind an encoded slash, a `;` or a second encoding; \
         write the path it means"
    )]
    HiddenDotSegment,
}

/// A request that could leave: method, scheme, host, port, path and query, each in one normal form.
///
/// Build the request that is sent from [`Target::to_url`] and [`Target::method`], nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    method: Method,
    scheme: Scheme,
    host: Host,
    port: u16,
    path: Box<str>,
    query: Option<Box<str>>,
}

impl Target {
    /// Parses a request's method and absolute URL. A fragment is dropped: it is never sent.
    ///
    /// Names become lower-case ASCII without a trailing dot; dot segments are resolved, encoded ones too;
    /// percent-encoded letters, digits, `-._~` are decoded once, other encodings stay, in upper case. An
    /// encoded slash or backslash stays encoded and is no separator.
    ///
    /// # Errors
    /// When the URL has a form that two parsers could read differently, or that may not leave at all.
    pub fn parse(method: &str, url: &str) -> Result<Self, TargetError> {
        let method = Method::parse(method)?;
        // THREAT[T-net-rule-bypass]: refuse what parsers disagree on before the parser sees it: it would
        // mend such a URL silently, and the next program may mend it differently.
        if url.len() > MAX_URL {
            return Err(TargetError::TooLong);
        }
        if url
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '\\' || c == '\u{feff}')
        {
            return Err(TargetError::Character);
        }
        let (scheme, rest) = split_scheme(url).ok_or(TargetError::Scheme)?;
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        if authority.is_empty() {
            return Err(TargetError::Scheme);
        }
        let (host, port) = parse_authority(authority, scheme)?;
        let tail = &rest[authority.len()..];
        let tail = &tail[..tail.find('#').unwrap_or(tail.len())];
        let (path, query) = match tail.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (tail, None),
        };
        Ok(Self {
            method,
            scheme,
            host,
            port,
            path: normal_path(path)?.into(),
            query: query.map(|q| normal_query(q).into()),
        })
    }

    /// In upper case.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// The scheme.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port, the scheme's own if none was written; never 0.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The normalised path; starts with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query without its `?`, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// How many bytes of query there are; what the ledger keeps of it.
    #[must_use]
    pub fn query_bytes(&self) -> u64 {
        self.query.as_ref().map_or(0, |q| q.len() as u64)
    }

    /// Host and port as the `Host` header has them: the scheme's own port is left out.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Path and query, as the request line has them.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_string(),
        }
    }

    /// The URL to send.
    #[must_use]
    pub fn to_url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority(), self.path_and_query())
    }

    /// Scheme, host and port, as a rule would name them.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority())
    }
}

/// The scheme and what follows its `://`, which is not a further slash.
pub(super) fn split_scheme(url: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = if scheme.eq_ignore_ascii_case("https") {
        Scheme::Https
    } else if scheme.eq_ignore_ascii_case("http") {
        Scheme::Http
    } else {
        return None;
    };
    (!rest.starts_with('/')).then_some((scheme, rest))
}

/// Host and the text after the colon that follows it, if there is a colon.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_host = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[after_host..].rfind(':') {
        Some(colon) => (
            &authority[..after_host + colon],
            Some(&authority[after_host + colon + 1..]),
        ),
        None => (authority, None),
    }
}

/// 1 to 65535 in decimal digits.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn parse_authority(authority: &str, scheme: Scheme) -> Result<(Host, u16), TargetError> {
    if authority.contains('@') {
        return Err(TargetError::Userinfo);
    }
    if !authority.starts_with('[') && authority.matches(':').count() > 1 {
        return Err(ParseHostError::BareIpv6.into());
    }
    let (host, port) = split_port(authority);
    let port = match port {
        Some(port) => parse_port(port).ok_or(TargetError::Port)?,
        None => scheme.default_port(),
    };
    Ok((host.parse()?, port))
}

/// The normal form of a path: absolute, no dot segments, unreserved characters decoded, other encodings in
/// upper case.
///
/// # Errors
/// On encodings and segments that servers read differently.
pub(super) fn normal_path(path: &str) -> Result<String, TargetError> {
    let mut kept: Vec<String> = Vec::new();
    let mut ends_in_slash = true;
    for raw in path.split('/').skip(1) {
        let segment = normal_segment(raw)?;
        ends_in_slash = true;
        match &*segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => {
                ends_in_slash = false;
                kept.push(segment);
            }
        }
    }
    let mut normal = String::with_capacity(path.len() + 1);
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_in_slash {
        normal.push('/');
    }
    Ok(normal)
}

fn normal_segment(raw: &str) -> Result<String, TargetError> {
    let mut out = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
                    return Err(TargetError::PathEncoding);
                };
                let decoded = u8::try_from(high * 16 + low).map_err(|_| TargetError::PathEncoding)?;
                match decoded {
                    0..=0x1f | 0x7f => return Err(TargetError::PathEncoding),
                    b if is_unreserved(b) => out.push(char::from(b)),
                    b => push_encoded(&mut out, b),
                }
            }
            b if is_path_byte(b) => out.push(char::from(b)),
            b => push_encoded(&mut out, b),
        }
    }
    // THREAT[T-net-rule-bypass]: some servers decode `%2F`, cut a segment at `;`, or decode what a proxy decoded
    // before, and only then resolve dot segments; behind such a server `/v1/..%2Fadmin` is `/admin`.
    if out.contains(['%', ';']) {
        let once: Vec<u8> = decoded(out.as_bytes()).collect();
        let twice: Vec<u8> = decoded(&once).collect();
        if has_dot_segment(&once) || has_dot_segment(&twice) {
            return Err(TargetError::HiddenDotSegment);
        }
    }
    Ok(out)
}

/// Whether a server that splits at every slash, and cuts at `;`, would see `.` or `..`.
fn has_dot_segment(decoded: &[u8]) -> bool {
    decoded
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|part| matches!(part.split(|byte| *byte == b';').next(), Some(b"." | b"..")))
}

/// The bytes that a text with percent-encodings means. What is no encoding stands for itself.
pub(super) fn decoded(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = text.iter().copied();
    std::iter::from_fn(move || {
        let byte = rest.next()?;
        if byte != b'%' {
            return Some(byte);
        }
        let mut ahead = rest.clone();
        let mut digit = || ahead.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Some(byte);
        };
        rest = ahead;
        u8::try_from(high * 16 + low).ok()
    })
}

const fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// What stands in a path unencoded: RFC 3986 `pchar`.
const fn is_path_byte(b: u8) -> bool {
    is_unreserved(b)
        || matches!(
            b,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

fn push_encoded(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// A query is not compared with anything; only what may not stand in a request line is encoded. Braces stay:
/// a placeholder for a secret must be found again.
fn normal_query(query: &str) -> String {
    let mut out = String::with_capacity(query.len());
    for byte in query.bytes() {
        match byte {
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'Z' | b'[' | b']' | b'_' | b'a'..=b'{' | b'}' | b'~' => {
                out.push(char::from(byte));
            }
            _ => push_encoded(&mut out, byte),
        }
    }
    out
}
