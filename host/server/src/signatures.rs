//! Signatures of components that are added over the API. What they look like on the wire is here; whose count is for whoever starts the
//! server to say.

/// A signature that came with a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentSignature {
    /// The signature, in DER.
    pub signature: Vec<u8>,
    /// What it is of.
    pub of: SignedBytes,
}

/// What a signature is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedBytes {
    /// The component.
    Component,
    /// An artifact of a registry that has the component.
    Artifact {
        /// What was signed: a payload that names the artifact's manifest.
        payload: Vec<u8>,
        /// The artifact's manifest, which names the component.
        manifest: Vec<u8>,
    },
}

/// Who decides whether a component is signed well enough to be added.
pub trait SignatureCheck: Send + Sync {
    /// Looks at the signature that a component came with.
    ///
    /// # Errors
    /// Why it may not be added, and what to do, in words for who sent it.
    fn check(&self, component: &[u8], signature: Option<&ComponentSignature>) -> Result<(), String>;
}
