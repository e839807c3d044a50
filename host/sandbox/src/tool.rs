//! The interfaces of our own that a guest may import: `progress`, `secrets`, `peers`, `jobs`.

use crate::{
    bindings::fumehood::tool::{
        jobs, peers, progress,
        secrets::{self, Algorithm},
        types::{Failure, Output},
    },
    call::Denial,
    meter::Unmetered,
    output,
    ports::{SignAlgorithm, SignError, Ticket},
    state::CallState,
};
use fumehood_core::{
    call::{Arguments, CallErrorCode},
    name::{SecretName, ToolName},
};
use std::time::Duration;

/// A message to sign; larger ones are to be hashed by the guest.
const MAX_SIGNED_MESSAGE: usize = 1 << 20;

/// Characters of a note; what is longer is cut.
const LONGEST_NOTE: usize = 500;

/// Arguments for another tool, as text. As JSON they may take the host thirty times as much.
const MAX_ARGUMENTS: usize = 1 << 20;

impl crate::bindings::fumehood::tool::types::Host for CallState {}

impl progress::Host for CallState {
    fn report(&mut self, message: String, fraction: Option<f32>) -> wasmtime::Result<()> {
        let fraction = fraction
            .filter(|fraction| !fraction.is_nan())
            .map(|fraction| fraction.clamp(0.0, 1.0));
        Ok(self.log.progress(&message, fraction)?)
    }

    fn emit(&mut self, channel: String, chunk: String) -> wasmtime::Result<()> {
        let valid = (1..=32).contains(&channel.len())
            && channel
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        Ok(self.log.emit(if valid { &channel } else { "output" }, &chunk)?)
    }
}

impl CallState {
    /// A refusal by authority: for the guest, and for the report.
    fn denied(&self, message: String) -> Failure {
        self.log.deny(Denial::new(message.clone()));
        Failure::Denied(message)
    }
}

impl secrets::Host for CallState {
    async fn available(&mut self, name: String) -> wasmtime::Result<bool> {
        Ok(match SecretName::new(&name) {
            Ok(name) => self.ports.signer.available(&name).await,
            Err(_) => false,
        })
    }

    async fn sign(
        &mut self,
        name: String,
        algorithm: Algorithm,
        message: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, Failure>> {
        let name = match SecretName::new(&name) {
            Ok(name) => name,
            Err(error) => return Ok(Err(Failure::InvalidArguments(error.to_string()))),
        };
        if let Err(refusal) = self.authority.may_sign(&name) {
            return Ok(Err(self.denied(refusal.message)));
        }
        if message.len() > MAX_SIGNED_MESSAGE {
            return Ok(Err(Failure::InvalidArguments(
                "the message to sign is larger than 1 MiB; sign its hash".to_owned(),
            )));
        }
        let algorithm = match algorithm {
            Algorithm::HmacSha256 => SignAlgorithm::HmacSha256,
            Algorithm::HmacSha512 => SignAlgorithm::HmacSha512,
            Algorithm::Ed25519 => SignAlgorithm::Ed25519,
        };
        Ok(match self.ports.signer.sign(&name, algorithm, &message).await {
            Ok(signature) => Ok(signature),
            Err(SignError::Denied(message)) => Err(self.denied(message)),
            Err(SignError::NotFound(message)) => Err(Failure::NotFound(message)),
            Err(SignError::Unsuitable(message)) => Err(Failure::InvalidArguments(message)),
            Err(SignError::Failed(message)) => Err(Failure::Failed(message)),
        })
    }
}

impl peers::Host for CallState {
    async fn call(&mut self, tool: String, arguments: String) -> wasmtime::Result<Result<Output, Failure>> {
        let tool = match ToolName::new(&tool) {
            Ok(tool) => tool,
            Err(error) => return Ok(Err(Failure::NotFound(error.to_string()))),
        };
        // Which tools exactly is the port's to decide: it knows which component a name belongs to.
        if let Some(refusal) = self.authority.calls_nothing(&tool) {
            return Ok(Err(self.denied(refusal.message)));
        }
        if let Err(error) = self.ports.peers.may_call(&tool) {
            return Ok(Err(output::failure_to_guest(error)));
        }
        // THREAT[T-box-host-memory]: what is read here becomes many small values.
        if arguments.len() > MAX_ARGUMENTS {
            return Ok(Err(Failure::InvalidArguments(format!(
                "the arguments for {tool} are larger than 1 MiB; pass large data in a file"
            ))));
        }
        let arguments: Arguments = match serde_json::from_str(&arguments) {
            Ok(arguments) => arguments,
            Err(error) => {
                return Ok(Err(Failure::InvalidArguments(format!(
                    "the arguments for {tool} are not a JSON object: {error}"
                ))));
            }
        };
        // What the other tool computes is on its own account.
        let called = Unmetered {
            clock: self.meter.clock(),
            other: Box::pin(self.ports.peers.call(&tool, arguments)),
        };
        Ok(match called.await {
            Ok(result) => Ok(output::to_guest(result)),
            Err(error) => Err(output::failure_to_guest(error)),
        })
    }
}

impl jobs::Host for CallState {
    async fn detach(
        &mut self,
        within_ms: Option<u64>,
        note: Option<String>,
    ) -> wasmtime::Result<Result<jobs::Ticket, Failure>> {
        if let Err(refusal) = self.authority.may_detach() {
            return Ok(Err(self.denied(refusal.message)));
        }
        let within = within_ms.map(Duration::from_millis);
        let note = note.map(|note| {
            let line = note.chars().map(|c| if c.is_control() { ' ' } else { c });
            line.take(LONGEST_NOTE).collect::<String>().trim().to_owned()
        });
        let detached = self
            .ports
            .jobs
            .detach(within, note.filter(|note| !note.is_empty()))
            .await;
        Ok(match detached {
            Ok(Ticket {
                id,
                token,
                url,
                expires_ms,
            }) => Ok(jobs::Ticket {
                id,
                token,
                url,
                expires_ms,
            }),
            Err(error) if error.code == CallErrorCode::Denied => Err(self.denied(error.message)),
            Err(error) => Err(output::failure_to_guest(error)),
        })
    }
}
