//! `wasi:keyvalue/store` over the call's [`KeyValues`](crate::ports::KeyValues).
//!
//! A session has one bucket. Whether it may be read or written is decided here, by the call's
//! authority, before the port is asked.

use crate::{
    bindings::wasi::keyvalue::store::{Error, Host, HostBucket, KeyResponse},
    call::Denial,
    ports::{KeyPage, KeyValueError},
    state::CallState,
    witness::{Interface, Outcome, Question, bytes, yes_or_no},
};
use fumehood_policy::files::KvAccess;
use wasmtime::component::Resource;

/// An open bucket: there is but one, so it holds nothing.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Bucket;

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl From<KeyValueError> for Error {
    fn from(error: KeyValueError) -> Self {
        match error {
            KeyValueError::Denied => Self::AccessDenied,
            KeyValueError::Other(message) => Self::Other(message),
        }
    }
}

impl CallState {
    /// Whether the bucket may be accessed that far. `wasi:keyvalue` has no words for a refusal, so they go into the report.
    fn may(&self, wanted: KvAccess) -> Result<(), String> {
        self.authority.may_use_key_values(wanted).map_err(|refusal| {
            self.log.deny(Denial::new(refusal.message.clone()));
            refusal.message
        })
    }

    /// For who explains the call.
    fn asked_key_values(&self, words: impl FnOnce() -> String) -> Question {
        Question::new(self.ports.witness.as_ref(), Interface::KeyValues, || {
            (words(), Some(format!("[kv] access = \"{}\"", self.authority.kv)))
        })
    }

    /// The question, if the bucket may be accessed that far; else it has its answer.
    fn allows(
        &self,
        bucket: &Resource<Bucket>,
        wanted: KvAccess,
        question: Question,
    ) -> wasmtime::Result<Option<Question>> {
        self.table.get(bucket)?;
        Ok(match self.may(wanted) {
            Ok(()) => Some(question),
            Err(refusal) => {
                question.answer(|| Outcome::Denied(refusal));
                None
            }
        })
    }
}

/// The port's answer as the guest gets it; `words` says it to who explains the call.
fn answered<T>(
    question: Question,
    answer: Result<T, KeyValueError>,
    words: impl FnOnce(&T) -> String,
) -> Result<T, Error> {
    question.answer(|| match &answer {
        Ok(answer) => Outcome::Done(words(answer)),
        Err(KeyValueError::Denied) => Outcome::Denied(KeyValueError::Denied.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    });
    answer.map_err(Into::into)
}

/// Nothing more is to be said of it.
fn done((): &()) -> String {
    "done".to_owned()
}

impl Host for CallState {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        let question = self.asked_key_values(|| format!("open the bucket {identifier:?}"));
        if let Err(refusal) = self.may(KvAccess::Read) {
            question.answer(|| Outcome::Denied(refusal));
            return Ok(Err(Error::AccessDenied));
        }
        match identifier.as_str() {
            "" | "default" => {
                let bucket = self.table.push(Bucket)?;
                question.answer(|| Outcome::Done("done".to_owned()));
                Ok(Ok(bucket))
            }
            _ => {
                question.answer(|| Outcome::Failed("there is none of that name: only \"default\"".to_owned()));
                Ok(Err(Error::NoSuchStore))
            }
        }
    }
}

impl HostBucket for CallState {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let question = self.asked_key_values(|| format!("get {key:?}"));
        let words = |value: &Option<Vec<u8>>| match value {
            Some(value) => bytes(value.len()),
            None => "it has no value".to_owned(),
        };
        let Some(question) = self.allows(&bucket, KvAccess::Read, question)? else {
            return Ok(Err(Error::AccessDenied));
        };
        let answer = self.ports.key_values.get(&key).await;
        Ok(answered(question, answer, words))
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let question = self.asked_key_values(|| format!("set {key:?} to {}", bytes(value.len())));
        let Some(question) = self.allows(&bucket, KvAccess::ReadWrite, question)? else {
            return Ok(Err(Error::AccessDenied));
        };
        let answer = self.ports.key_values.set(&key, value).await;
        Ok(answered(question, answer, done))
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let question = self.asked_key_values(|| format!("delete {key:?}"));
        let Some(question) = self.allows(&bucket, KvAccess::ReadWrite, question)? else {
            return Ok(Err(Error::AccessDenied));
        };
        let answer = self.ports.key_values.delete(&key).await;
        Ok(answered(question, answer, done))
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let question = self.asked_key_values(|| format!("whether there is {key:?}"));
        let words = |exists: &bool| yes_or_no(*exists).to_owned();
        let Some(question) = self.allows(&bucket, KvAccess::Read, question)? else {
            return Ok(Err(Error::AccessDenied));
        };
        let answer = self.ports.key_values.exists(&key).await;
        Ok(answered(question, answer, words))
    }

    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        let question = self.asked_key_values(|| match cursor {
            Some(cursor) => format!("list keys from {cursor}"),
            None => "list keys".to_owned(),
        });
        let words = |page: &KeyPage| match page.keys.len() {
            1 => "1 key".to_owned(),
            keys => format!("{keys} keys"),
        };
        let Some(question) = self.allows(&bucket, KvAccess::Read, question)? else {
            return Ok(Err(Error::AccessDenied));
        };
        let page = self.ports.key_values.list(cursor).await;
        let page = answered(question, page, words);
        Ok(page.map(|page| KeyResponse {
            keys: page.keys,
            cursor: page.cursor,
        }))
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}
