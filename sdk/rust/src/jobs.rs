//! Work that outlasts a call: handing the call on to somebody outside, who ends it later.
//!
//! ```no_run
//! # use fumehood::{Failure, http, jobs};
//! # use std::time::Duration;
//! /// Builds the project on the build server.
//! #[fumehood::tool(open_world)]
//! fn build() -> Result<String, Failure> {
//!     let ticket = jobs::detach().within(Duration::from_secs(1800)).note("build of main").ticket()?;
//!     http::post("https://ci.example.com/builds")
//!         .json(&serde_json::json!({"callback": ticket.url(), "token": ticket.token()}))
//!         .send()?
//!         .ok()?;
//!     Ok("The build runs.".to_owned())
//! }
//! ```

use crate::Failure;
#[cfg(target_family = "wasm")]
use crate::bindings::fumehood::tool::jobs as host;
use std::{fmt, time::Duration};

/// Hands this call on; [`Detach::ticket`] does it.
///
/// Needs `[jobs] detach = true` in the manifest and in the grant.
#[must_use = "nothing is handed on before `ticket` is called"]
pub fn detach() -> Detach {
    Detach::default()
}

/// How a call is handed on.
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is handed on before `ticket` is called"]
pub struct Detach {
    within: Option<Duration>,
    note: Option<String>,
}

impl Detach {
    /// How long the host waits for somebody to end the call, within what its operator allows. Without this as long as the host does by
    /// default.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// One line for people: what is being done.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Hands the call on, and gives what ends it.
    ///
    /// From here on the call waits: start the work, and return. What the tool returns is shown to people until the result comes; no
    /// model sees it. A tool that fails after this ends its call as failed, and the ticket is worth nothing.
    ///
    /// # Errors
    /// [`Failure::Denied`] when it is not granted, another tool made the call, or no turn waits for it; [`Failure::Failed`] when the
    /// call is handed on already; [`Failure::Unavailable`] when the host could not write it down.
    pub fn ticket(self) -> Result<Ticket, Failure> {
        #[cfg(target_family = "wasm")]
        {
            let within = self
                .within
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            let ticket = host::detach(within, self.note.as_deref()).map_err(Failure::from_wit)?;
            Ok(Ticket {
                id: ticket.id,
                token: ticket.token,
                url: ticket.url,
                expires_ms: ticket.expires_ms,
            })
        }
        #[cfg(not(target_family = "wasm"))]
        {
            let Self { within: _, note: _ } = self;
            Err(Failure::denied("a call cannot be handed on outside a host"))
        }
    }
}

/// What somebody outside needs to end this call.
#[derive(Clone)]
pub struct Ticket {
    id: String,
    token: String,
    url: Option<String>,
    expires_ms: u64,
}

impl Ticket {
    /// Names the call in `POST /v1/callbacks/{id}`. Not secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The header `Fumehood-Callback-Token` of that request. Whoever has it can end this call: give it to whom the work goes, and to
    /// nobody besides.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where to send that request; absent where the host does not know how it is reached from outside.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// Until when the call can be ended, in milliseconds since 1970.
    #[must_use]
    pub const fn expires_ms(&self) -> u64 {
        self.expires_ms
    }
}

impl fmt::Debug for Ticket {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_a_host_nothing_is_handed_on() {
        let refused = detach().within(Duration::from_secs(1)).note("x").ticket().unwrap_err();
        assert!(matches!(refused, Failure::Denied(_)), "{refused:?}");
    }

    #[test]
    fn a_ticket_does_not_show_its_token() {
        let ticket = Ticket {
            id: "cbk_1".into(),
            token: "hush".into(),
            url: None,
            expires_ms: 1,
        };
        assert!(!format!("{ticket:?}").contains("hush"));
    }
}
