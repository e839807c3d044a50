//! The one door out: every request to an address that a tenant chose passes [`Egress::send`].
//!
//! For each request, in this order: count it against the call's limit; parse it strictly; refuse headers that are not
//! the tool's to set, and values of secrets that it should never have had; decide by the rules of every layer; write
//! the ledger; resolve the name once and check every address; connect to a checked address and no other; check the
//! certificate by the name; put the secrets in their places; send; return the answer under its limits, values of
//! secrets replaced.
//!
//! What the door refuses, it refuses before a byte leaves, with two exceptions that come to light while bytes flow:
//! a body that is too large, and a body in which a secret's value appears (none of that value leaves).
//!
//! Choices a caller should know:
//! - **Redirects** are answers. Whoever follows one sends a new request, decided on like the first.
//! - **Compression**: `accept-encoding` is always `identity`, and an answer that is encoded all the same is refused, so
//!   that nothing comes back in a form the guard can't read.
//! - **Proxies** are not supported, and no proxy variable is read.
//! - **HTTP/1.1** only. Connections are kept per org, and never shared between orgs.
//! - **`content-length`** is removed from answers with a body whenever there is a secret to look for.
//!
//! The door knows neither sandbox nor store nor agent: what a call may do comes as an [`EgressGrant`], what it did
//! goes to a [`Ledger`].
#![forbid(unsafe_code)]

mod authorities;
mod body;
mod config;
mod connect;
mod credential;
mod decision;
mod door;
mod error;
mod grant;
mod guard;
mod headers;
mod ledger;
mod pool;
mod resolve;
mod shapes;
mod telemetry;

pub use authorities::{AuthoritiesError, certificate_authorities};
pub use config::{EgressConfig, Resolver, Wire};
pub use connect::{Dial, Duplex, SetupError};
pub use door::{Egress, empty_body};
pub use error::{Body, Direction, EgressError, RequestPart, Wait};
pub use grant::{BoundCredential, EgressGrant, EgressLimits, RequestBudget};
pub use guard::{LeakGuard, Redactor};
pub use ledger::{Ledger, LedgerError, Settlement};
pub use resolve::{Resolve, ResolveError};
pub use rustls::pki_types::CertificateDer;
