//! Using secrets without holding them.
//!
//! Nothing here returns a secret's value. For requests, the host adds credentials by itself
//! (`[[credential]]` in the manifest) or in place of `{{secret:NAME}}` in a header or query value; for
//! signatures there is [`sign`].

use crate::Failure;
#[cfg(target_family = "wasm")]
use crate::bindings::fumehood::tool::secrets as host;

/// How to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// HMAC with SHA-256: 32 bytes.
    HmacSha256,
    /// HMAC with SHA-512: 64 bytes.
    HmacSha512,
    /// Ed25519: 64 bytes.
    Ed25519,
}

/// Whether this call could use the secret at all: it is set, and a use of it is granted.
pub fn available(name: impl AsRef<str>) -> bool {
    #[cfg(target_family = "wasm")]
    return host::available(name.as_ref());
    #[cfg(not(target_family = "wasm"))]
    {
        let _ = name.as_ref();
        false
    }
}

/// Signs a message, at most 1 MiB, with a secret that `[secrets] sign` grants.
///
/// # Errors
/// [`Failure::Denied`] when it is not granted, [`Failure::NotFound`] when it is granted but not set,
/// [`Failure::InvalidArguments`] when the secret is no key for the algorithm.
pub fn sign(name: impl AsRef<str>, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, Failure> {
    #[cfg(target_family = "wasm")]
    {
        let algorithm = match algorithm {
            Algorithm::HmacSha256 => host::Algorithm::HmacSha256,
            Algorithm::HmacSha512 => host::Algorithm::HmacSha512,
            Algorithm::Ed25519 => host::Algorithm::Ed25519,
        };
        host::sign(name.as_ref(), algorithm, message).map_err(Failure::from_wit)
    }
    #[cfg(not(target_family = "wasm"))]
    {
        let _ = (name.as_ref(), algorithm, message);
        Err(Failure::denied("no secret can be used outside a host"))
    }
}
