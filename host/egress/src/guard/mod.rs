//! The leak guard: finds the values of secrets in what passes, and replaces them by `[secret:NAME]`.
//!
//! It searches for each value as it is and in the encodings an echo usually has: base64 (both alphabets, any
//! alignment), hexadecimal, percent-encoded, JSON- and HTML-escaped, reversed; of a value of several lines also each
//! line.
//!
//! What it promises: none of these forms passes, wherever a stream is cut into chunks. What it doesn't: a server that
//! *wants* to hand a value over can encrypt it, split it over several answers or compress it (the door refuses
//! compressed answers). The guard stops the echo, the log line and the careless error text; who may be sent a secret
//! at all is decided by the hosts it is bound to.
//!
//! Values should be long and random: one that is an ordinary word is replaced, and blocked, wherever that word
//! stands. One of fewer than four bytes is not searched for (it would turn up by chance everywhere). An encoded form is
//! searched for from six bytes on; the door injects no value that is too short for its encodings to be found. Of a long form
//! each piece is found on its own.
//!
//! Values are held in memory that is wiped on drop.

mod forms;
mod matcher;

use bytes::{Bytes, BytesMut};
use forms::Form;
use fumehood_core::name::SecretName;
use matcher::{Found, Matcher};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
};
use zeroize::Zeroizing;

/// Finds the values of a set of secrets. Cloning shares it. Making one costs microseconds per secret, so
/// keep it as long as the set of secrets stays the same.
#[derive(Clone, Default)]
pub struct LeakGuard {
    /// Absent when there is nothing to find.
    search: Option<Arc<Search>>,
}

struct Search {
    matcher: Matcher,
    /// By number of the form: which secret it gives away.
    owners: Vec<usize>,
    /// Each secret's name and what stands in the place of its value.
    secrets: Vec<(SecretName, Box<[u8]>)>,
    /// The forms that can stand in the name of a header, in lower case, and their owners. Made when a name is searched.
    in_names: OnceLock<(Matcher, Vec<usize>)>,
}

impl LeakGuard {
    /// A guard for these secrets. Where two have the same value, the first gives the name.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = (SecretName, &'a SecretString)>) -> Self {
        let mut patterns: Vec<(Form, usize)> = Vec::new();
        let mut names = Vec::new();
        for (name, value) in secrets {
            let index = names.len();
            patterns.extend(forms::of(value.expose_secret()).into_iter().map(|form| (form, index)));
            let mark = format!("[secret:{name}]").into_bytes().into_boxed_slice();
            names.push((name, mark));
        }
        patterns.sort_by(|a, b| a.0.as_str().cmp(&b.0));
        patterns.dedup_by(|a, b| a.0 == b.0);
        if patterns.is_empty() {
            return Self::default();
        }
        let (sorted, owners) = patterns.into_iter().unzip();
        let matcher = Matcher::new(sorted);
        Self {
            search: Some(Arc::new(Search {
                matcher,
                owners,
                secrets: names,
                in_names: OnceLock::new(),
            })),
        }
    }

    /// Whether there is nothing to find.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.search.is_none()
    }

    /// How many bytes of memory it takes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.search.as_deref().map_or(0, |search| {
            let in_names = search.matcher.forms().iter().filter(|form| can_be_name(form));
            search.matcher.size() + in_names.map(|form| form.len() + size_of::<Form>()).sum::<usize>()
        })
    }

    /// The secret whose value, in any form, occurs first in `bytes`.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<&SecretName> {
        let search = self.search.as_deref()?;
        let found = search.matcher.find(bytes, 0, bytes.len())?;
        Some(&search.owner(found).0)
    }

    /// The secret whose value occurs in a header's name, where letters have lost their case.
    #[must_use]
    pub fn find_in_name(&self, name: &str) -> Option<&SecretName> {
        let search = self.search.as_deref()?;
        let (matcher, owners) = search.in_names.get_or_init(|| search.lower_case());
        let lower = Zeroizing::new(name.to_ascii_lowercase());
        let found = matcher.find(lower.as_bytes(), 0, lower.len())?;
        Some(&search.secrets[owners[found.number]].0)
    }

    /// `text` with every value replaced by `[secret:NAME]`; borrowed when there is none.
    #[must_use]
    pub fn redact_str<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.redact(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // Patterns and replacements are whole characters, so what remains is text.
            Cow::Owned(bytes) => Cow::Owned(
                String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
            ),
        }
    }

    /// `bytes` with every value replaced by `[secret:NAME]`; borrowed when there is none.
    #[must_use]
    pub fn redact<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(search) = self.search.as_deref() else {
            return Cow::Borrowed(bytes);
        };
        match Passed::default().pass(search, bytes, bytes.len()) {
            None => Cow::Borrowed(bytes),
            Some(clean) => {
                crate::telemetry::leak_redacted();
                Cow::Owned(clean)
            }
        }
    }

    /// The same, in place of `bytes`: without a copy when there is nothing to replace.
    #[must_use]
    pub fn redact_vec(&self, bytes: Vec<u8>) -> Vec<u8> {
        match self.redact(&bytes) {
            Cow::Owned(clean) => clean,
            Cow::Borrowed(_) => bytes,
        }
    }

    /// A redactor for one stream.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        Redactor {
            guard: self.clone(),
            held: Bytes::new(),
            passed: Passed::default(),
        }
    }
}

/// Whether a form can stand in the name of a header, and is long enough not to be a word of an ordinary one.
fn can_be_name(form: &str) -> bool {
    const SHORTEST: usize = 8;
    form.len() >= SHORTEST
        && form
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

impl fmt::Debug for LeakGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .search
            .iter()
            .flat_map(|search| search.secrets.iter().map(|(name, _)| name));
        f.debug_set().entries(names).finish()
    }
}

impl Search {
    fn lower_case(&self) -> (Matcher, Vec<usize>) {
        let forms = self.matcher.forms().iter().zip(&self.owners);
        let mut lower: Vec<(Form, usize)> = forms
            .filter(|(form, _)| can_be_name(form))
            .map(|(form, owner)| (Zeroizing::new(form.to_ascii_lowercase()), *owner))
            .collect();
        lower.sort_by(|a, b| a.0.as_str().cmp(&b.0));
        lower.dedup_by(|a, b| a.0 == b.0);
        let (sorted, owners) = lower.into_iter().unzip();
        (Matcher::new(sorted), owners)
    }

    fn owner(&self, found: Found) -> &(SecretName, Box<[u8]>) {
        &self.secrets[self.owners[found.number]]
    }
}

/// What has become of a text so far.
#[derive(Default)]
struct Passed {
    /// How many of the bytes to come are part of what was replaced already.
    covered: usize,
    /// Whose mark was last, if nothing passed since: what is left of a value, in pieces or overlapping, gets none of its own.
    last: Option<usize>,
    /// Whose value was found first.
    first: Option<usize>,
}

impl Passed {
    /// What may pass of the first `until` bytes; nothing if they may as they are.
    ///
    /// Every byte that any text found covers is left out, so that nothing remains of texts that overlap.
    fn pass(&mut self, search: &Search, text: &[u8], until: usize) -> Option<Vec<u8>> {
        let mut out = (self.covered > 0).then(Vec::new);
        let mut done = self.covered;
        let mut from = 0;
        while let Some(found) = search.matcher.find(text, from, until) {
            from = found.start + 1;
            if found.end <= done {
                continue;
            }
            let out = out.get_or_insert_with(|| Vec::with_capacity(text.len()));
            if found.start > done {
                out.extend_from_slice(&text[done..found.start]);
                self.last = None;
            }
            let owner = search.owners[found.number];
            if self.last.replace(owner) != Some(owner) {
                out.extend_from_slice(&search.secrets[owner].1);
            }
            self.first.get_or_insert(owner);
            done = found.end;
        }
        if done < until {
            self.last = None;
            out.as_mut()
                .into_iter()
                .for_each(|out| out.extend_from_slice(&text[done..until]));
        }
        self.covered = done.saturating_sub(until);
        out
    }
}

/// Redacts a stream, chunk by chunk, as if it were one text.
///
/// It holds back only bytes that could be the beginning of a value, fewer than the longest form has, so a
/// stream of events is not delayed.
pub struct Redactor {
    guard: LeakGuard,
    held: Bytes,
    passed: Passed,
}

impl Redactor {
    /// Takes the next chunk and returns what may pass now; possibly nothing. A chunk without a value is passed on
    /// without a copy.
    #[must_use]
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        let Some(search) = self.guard.search.clone() else {
            return chunk;
        };
        let text = self.with_held(chunk);
        let open = search.matcher.open_end(&text);
        self.pass(&search, &text, open)
    }

    /// Ends the stream and returns what was held back.
    #[must_use]
    pub fn finish(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.held);
        match self.guard.search.clone() {
            Some(search) if !text.is_empty() => {
                let end = text.len();
                self.pass(&search, &text, end)
            }
            _ => text,
        }
    }

    /// The first secret that was found so far.
    #[must_use]
    pub fn found(&self) -> Option<&SecretName> {
        let search = self.guard.search.as_deref()?;
        self.passed.first.map(|owner| &search.secrets[owner].0)
    }

    pub(crate) const fn guard(&self) -> &LeakGuard {
        &self.guard
    }

    fn with_held(&mut self, chunk: Bytes) -> Bytes {
        if self.held.is_empty() {
            return chunk;
        }
        let mut text = BytesMut::with_capacity(self.held.len() + chunk.len());
        text.extend_from_slice(&self.held);
        text.extend_from_slice(&chunk);
        text.freeze()
    }

    /// Passes what is decided of `text`, and holds the rest. From `open` on, bytes to come could still make a value,
    /// or a longer one; what begins before is final.
    fn pass(&mut self, search: &Search, text: &Bytes, open: usize) -> Bytes {
        let clean = self.passed.pass(search, text, open);
        self.held = text.slice(open..);
        clean.map_or_else(|| text.slice(..open), Bytes::from)
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is held may be the beginning of a value.
        let held = self.held.len();
        f.debug_struct("Redactor")
            .field("guard", &self.guard)
            .field("held_bytes", &held)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
