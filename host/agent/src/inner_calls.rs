//! The calls that a call has made of other tools, and what each was claimed as: by that it is noticed that a call which runs again after
//! a stop of the host makes another call than before under the key of the first.

use fumehood_core::{digest::Digest, event::EventBody, id::CallId, name::ToolName};
use std::collections::HashMap;

/// By their keys, the fingerprints of those that have begun.
#[derive(Debug, Clone, Default)]
pub(crate) struct InnerCalls(HashMap<CallId, Digest>);

impl InnerCalls {
    /// Folds one event of the journal. Under a key the first claim counts.
    pub(crate) fn apply(&mut self, body: &EventBody) {
        if let EventBody::ToolCalled { made, fingerprint, .. } = body {
            self.0.entry(*made).or_insert(*fingerprint);
        }
    }

    /// The tool of an event that claims a call under the key of another: other code, or other arguments.
    pub(crate) fn contradicted_by<'e>(&self, body: &'e EventBody) -> Option<&'e ToolName> {
        match body {
            EventBody::ToolCalled {
                made,
                fingerprint,
                tool,
                ..
            } if self.0.get(made).is_some_and(|claimed| claimed != fingerprint) => Some(tool),
            _ => None,
        }
    }
}

/// Why a call ends that runs again and would make another call than before.
pub(crate) fn differs(tool: &ToolName) -> String {
    format!(
        "the host stopped while the call ran; run again, it was ended before it called {tool}, because that would be another call than the \
         one it had made before: the component of {tool}, or what a hook makes of the arguments, was changed meanwhile. What it did until \
         then may have taken effect"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::call::ComponentRef;

    fn called(made: CallId, as_what: &[u8]) -> EventBody {
        EventBody::ToolCalled {
            call: CallId::new(),
            made,
            tool: "send".parse().unwrap(),
            component: ComponentRef {
                name: "mail".parse().unwrap(),
                digest: Digest::of(as_what),
            },
            fingerprint: Digest::of(as_what),
        }
    }

    #[test]
    fn a_call_that_is_claimed_as_another_under_its_key_contradicts_the_first_claim() {
        let (first, second) = (CallId::new(), CallId::new());
        let mut inner = InnerCalls::default();
        inner.apply(&called(first, b"1"));
        assert_eq!(inner.contradicted_by(&called(first, b"1")), None);
        assert_eq!(inner.contradicted_by(&called(second, b"2")), None, "another key");
        let other = called(first, b"2");
        assert_eq!(inner.contradicted_by(&other).unwrap().as_str(), "send");
        inner.apply(&other);
        assert!(inner.contradicted_by(&other).is_some(), "the first counts");
    }
}
