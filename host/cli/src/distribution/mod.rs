//! Where components come from and where they go: files, https, and OCI registries.
//!
//! What is fetched is whole, of the size that is allowed and of the digest that was promised before anybody else sees it; nothing is written
//! until then. All of this is the operator's own traffic: what tools may reach does not count for it, nor do tools cause any of it.
//!
//! What a component may do is decided elsewhere, and whether it can run is for the sandbox to say.

mod artifact;
mod bundle;
mod cache;
mod credentials;
mod differences;
mod endorsement;
mod fetch;
mod http;
mod keys;
mod lock;
mod locked;
mod newer;
mod pem;
mod push;
mod reference;
mod registry;
mod signature;
mod source;
mod tls;
mod trust;

pub(crate) use cache::{Cache, Kept};
pub(crate) use credentials::VARIABLE as CREDENTIALS_VARIABLE;
pub(crate) use differences::{ToolDifference, between};
pub(crate) use endorsement::{Endorsement, Uploads};
pub(crate) use fetch::{Fetched, Outside, alone, place_from};
pub(crate) use http::PlainHttp;
pub(crate) use keys::{PrivateKey, PublicKey};
pub(crate) use lock::{Candidate, Entry, Lock, LockFile, Replacing};
pub(crate) use locked::locked;
pub(crate) use push::{Overwrite, Release, push};
pub(crate) use reference::Reference;
pub(crate) use source::Source;
pub(crate) use trust::{Place, Policy, Signed, Trust, TrustedKey, beside};
