//! HTTP, blocking, through the host's one door.
//!
//! ```no_run
//! # fn example() -> Result<(), fumehood::Failure> {
//! let repository: serde_json::Value = fumehood::http::get("https://api.github.com/repos/rust-lang/rust")
//!     .header("accept", "application/vnd.github+json")
//!     .send()?
//!     .ok()?
//!     .json(1 << 20)?;
//! # Ok(())
//! # }
//! ```
//!
//! A request passes only if the manifest requests it *and* every layer of grants allows it; else it fails
//! with [`Error::Denied`]. Credentials are added by the host: write no key into a request. A header or query
//! value may hold `{{secret:NAME}}`, which the host replaces towards hosts that NAME is bound to.
//!
//! Redirects are returned as they are unless [`Request::follow_redirects`] is set.

mod error;
mod redirect;
mod request;
mod response;
mod url;

pub use error::Error;
pub use request::{Pending, Request};
pub use response::{Headers, Reader, Response};
pub use url::Url;

/// A `GET` request.
pub fn get(url: impl AsRef<str>) -> Request {
    Request::new("GET", url)
}

/// A `HEAD` request.
pub fn head(url: impl AsRef<str>) -> Request {
    Request::new("HEAD", url)
}

/// A `POST` request.
pub fn post(url: impl AsRef<str>) -> Request {
    Request::new("POST", url)
}

/// A `PUT` request.
pub fn put(url: impl AsRef<str>) -> Request {
    Request::new("PUT", url)
}

/// A `PATCH` request.
pub fn patch(url: impl AsRef<str>) -> Request {
    Request::new("PATCH", url)
}

/// A `DELETE` request.
pub fn delete(url: impl AsRef<str>) -> Request {
    Request::new("DELETE", url)
}
