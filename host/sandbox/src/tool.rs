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
    stdio::Report,
    witness::{Interface, Outcome, Question, bytes, yes_or_no},
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
        let question = Question::new(self.ports.witness.as_ref(), Interface::Progress, || {
            let share = fraction.map_or_else(String::new, |fraction| format!(" ({:.0} %)", fraction * 100.0));
            (format!("report {message:?}{share}"), None)
        });
        let report = self.log.progress(&message, fraction)?;
        question.answer(|| match report {
            Report::Passed => Outcome::Done("passed on".to_owned()),
            Report::Dropped(rate) => Outcome::Denied(format!("dropped: more than {rate}")),
        });
        Ok(())
    }

    fn emit(&mut self, channel: String, chunk: String) -> wasmtime::Result<()> {
        let valid = (1..=32).contains(&channel.len())
            && channel
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let channel = if valid { &*channel } else { "output" };
        let question = Question::new(self.ports.witness.as_ref(), Interface::Progress, || {
            (format!("emit {} on {channel}", bytes(chunk.len())), None)
        });
        self.log.emit(channel, &chunk)?;
        question.answer(|| Outcome::Done("passed on".to_owned()));
        Ok(())
    }
}

impl CallState {
    /// A refusal by authority: for the guest, and for the report.
    fn denied(&self, message: String) -> Failure {
        self.log.deny(Denial::new(message.clone()));
        Failure::Denied(message)
    }

    /// For who explains the call; `rule` is what allows it.
    fn asked(&self, interface: Interface, words: impl FnOnce() -> String, rule: Option<&str>) -> Question {
        Question::new(self.ports.witness.as_ref(), interface, || {
            (words(), rule.map(str::to_owned))
        })
    }
}

impl secrets::Host for CallState {
    async fn available(&mut self, name: String) -> wasmtime::Result<bool> {
        let question = self.asked(Interface::Secrets, || format!("whether there is {name:?}"), None);
        let available = match SecretName::new(&name) {
            Ok(name) => self.ports.signer.available(&name).await,
            Err(_) => false,
        };
        question.answer(|| Outcome::Done(yes_or_no(available).to_owned()));
        Ok(available)
    }

    async fn sign(
        &mut self,
        name: String,
        algorithm: Algorithm,
        message: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, Failure>> {
        let words = || format!("sign {} with {name:?}", bytes(message.len()));
        let question = self.asked(Interface::Secrets, words, Some("[secrets] sign"));
        let signed = self.signed(&name, algorithm, message).await;
        question.answer(|| outcome(&signed, |_| "signed".to_owned()));
        Ok(signed)
    }
}

impl CallState {
    async fn signed(&mut self, name: &str, algorithm: Algorithm, message: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let name = SecretName::new(name).map_err(|error| Failure::InvalidArguments(error.to_string()))?;
        if let Err(refusal) = self.authority.may_sign(&name) {
            return Err(self.denied(refusal.message));
        }
        if message.len() > MAX_SIGNED_MESSAGE {
            let message = "the message to sign is larger than 1 MiB; sign its hash";
            return Err(Failure::InvalidArguments(message.to_owned()));
        }
        let algorithm = match algorithm {
            Algorithm::HmacSha256 => SignAlgorithm::HmacSha256,
            Algorithm::HmacSha512 => SignAlgorithm::HmacSha512,
            Algorithm::Ed25519 => SignAlgorithm::Ed25519,
        };
        let signed = self.ports.signer.sign(&name, algorithm, &message).await;
        signed.map_err(|error| match error {
            SignError::Denied(message) => self.denied(message),
            SignError::NotFound(message) => Failure::NotFound(message),
            SignError::Unsuitable(message) => Failure::InvalidArguments(message),
            SignError::Failed(message) => Failure::Failed(message),
        })
    }
}

impl peers::Host for CallState {
    async fn call(&mut self, tool: String, arguments: String) -> wasmtime::Result<Result<Output, Failure>> {
        let words = || format!("call {tool:?} with {arguments}");
        let question = self.asked(Interface::Peers, words, Some("[tools] call"));
        let called = self.called(&tool, &arguments).await;
        let words = |output: &Output| match output.is_error {
            true => "it says that it failed".to_owned(),
            false => "done".to_owned(),
        };
        question.answer(|| outcome(&called, words));
        Ok(called)
    }
}

impl CallState {
    async fn called(&mut self, tool: &str, arguments: &str) -> Result<Output, Failure> {
        let tool = ToolName::new(tool).map_err(|error| Failure::NotFound(error.to_string()))?;
        // Which tools exactly is the port's to decide: it knows which component a name belongs to.
        if let Some(refusal) = self.authority.calls_nothing(&tool) {
            return Err(self.denied(refusal.message));
        }
        if let Err(error) = self.ports.peers.may_call(&tool) {
            return Err(output::failure_to_guest(error));
        }
        // THREAT[T-box-host-memory]: what is read here becomes many small values.
        if arguments.len() > MAX_ARGUMENTS {
            return Err(Failure::InvalidArguments(format!(
                "the arguments for {tool} are larger than 1 MiB; pass large data in a file"
            )));
        }
        let arguments: Arguments = serde_json::from_str(arguments).map_err(|error| {
            Failure::InvalidArguments(format!("the arguments for {tool} are not a JSON object: {error}"))
        })?;
        // What the other tool computes is on its own account.
        let called = Unmetered {
            clock: self.meter.clock(),
            other: Box::pin(self.ports.peers.call(&tool, arguments)),
        };
        match called.await {
            Ok(result) => Ok(output::to_guest(result)),
            Err(error) => Err(output::failure_to_guest(error)),
        }
    }
}

impl jobs::Host for CallState {
    async fn detach(
        &mut self,
        within_ms: Option<u64>,
        note: Option<String>,
    ) -> wasmtime::Result<Result<jobs::Ticket, Failure>> {
        let question = self.asked(
            Interface::Jobs,
            || "hand the call on".to_owned(),
            Some("[jobs] detach = true"),
        );
        let detached = self.detached(within_ms, note).await;
        question.answer(|| outcome(&detached, |_| "handed on".to_owned()));
        Ok(detached)
    }
}

impl CallState {
    async fn detached(&mut self, within_ms: Option<u64>, note: Option<String>) -> Result<jobs::Ticket, Failure> {
        if let Err(refusal) = self.authority.may_detach() {
            return Err(self.denied(refusal.message));
        }
        let within = within_ms.map(Duration::from_millis);
        let note = note.map(|note| {
            let line = note.chars().map(|c| if c.is_control() { ' ' } else { c });
            line.take(LONGEST_NOTE).collect::<String>().trim().to_owned()
        });
        let note = note.filter(|note| !note.is_empty());
        match self.ports.jobs.detach(within, note).await {
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
        }
    }
}

/// What became of something that was asked, for who explains the call.
fn outcome<T>(result: &Result<T, Failure>, words: impl FnOnce(&T) -> String) -> Outcome {
    match result {
        Ok(value) => Outcome::Done(words(value)),
        Err(Failure::Denied(message)) => Outcome::Denied(message.clone()),
        Err(Failure::InvalidArguments(message) | Failure::NotFound(message) | Failure::Failed(message)) => {
            Outcome::Failed(message.clone())
        }
        Err(Failure::Unavailable(retry)) => Outcome::Failed(retry.message.clone()),
    }
}
