//! Between column values and types. What does not decode was damaged or written by a newer version.

use crate::api::{Result, StoreError};
use fumehood_core::{Time, digest::Digest, turn::TurnStatus};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt {
        reason: format!("{what} is not of a form this version knows"),
    }
}

/// JSON text of something that always has one.
pub(super) fn to_json<T: Serialize>(value: &T, what: &str) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Invalid {
        reason: format!("{what} has no JSON form: {error}"),
    })
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt(what))
}

/// A name that was valid when it was written.
pub(super) fn name<T: TryFrom<String>>(text: String, what: &str) -> Result<T> {
    T::try_from(text).map_err(|_| corrupt(what))
}

pub(super) fn uuid(bytes: &[u8], what: &str) -> Result<Uuid> {
    Uuid::from_slice(bytes).map_err(|_| corrupt(what))
}

pub(super) fn digest(bytes: &[u8], what: &str) -> Result<Digest> {
    format!("sha256:{}", hex::encode(bytes))
        .parse()
        .map_err(|_| corrupt(what))
}

pub(super) fn to_nanos(time: Time) -> Result<i64> {
    time.timestamp_nanos_opt().ok_or_else(|| StoreError::Invalid {
        reason: "a time beyond the year 2262".into(),
    })
}

pub(super) const fn from_nanos(nanos: i64) -> Time {
    Time::from_timestamp_nanos(nanos)
}

/// A place in a journal; they count from 1.
pub(super) fn seq(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| corrupt("a place in the journal"))
}

/// Something that is counted.
pub(super) fn count(value: i64, what: &str) -> Result<u64> {
    u64::try_from(value).map_err(|_| corrupt(what))
}

pub(super) fn from_count(count: u64) -> Result<i64> {
    i64::try_from(count).map_err(|_| StoreError::Invalid {
        reason: "a number beyond what is counted".into(),
    })
}

pub(super) const fn status_text(status: TurnStatus) -> &'static str {
    match status {
        TurnStatus::Queued => "queued",
        TurnStatus::Running => "running",
        TurnStatus::AwaitingApproval => "awaiting_approval",
        TurnStatus::AwaitingResults => "awaiting_results",
        TurnStatus::Completed => "completed",
        TurnStatus::Failed => "failed",
        TurnStatus::Cancelled => "cancelled",
    }
}

pub(super) fn status(text: &str) -> Result<TurnStatus> {
    Ok(match text {
        "queued" => TurnStatus::Queued,
        "running" => TurnStatus::Running,
        "awaiting_approval" => TurnStatus::AwaitingApproval,
        "awaiting_results" => TurnStatus::AwaitingResults,
        "completed" => TurnStatus::Completed,
        "failed" => TurnStatus::Failed,
        "cancelled" => TurnStatus::Cancelled,
        _ => return Err(corrupt("a turn's status")),
    })
}
