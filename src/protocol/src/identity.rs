//! The identity of a task whose producer sets no `message_id`, and the hash that finds a reused one.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Envelope, InvalidId, TaskId};

/// The first 128 bits of the SHA-256 of a message's body, in hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct BodyHash(String);

impl BodyHash {
    /// The hash of `body`.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(hexadecimal(&Sha256::digest(body)[..16]))
    }

    /// That of a slice's body, which says as well whose slice it is. An id may be used for another batch once the store has forgotten the first one, and no slice of that one may
    /// run for the other.
    #[must_use]
    pub fn of_slice(batch: &Self, body: &[u8]) -> Self {
        Self(format!("{}/{}", batch.0, Self::of(body).0))
    }

    /// Whether it can be that of a slice of the batch whose body has this hash. Any can that does not say whose it is.
    #[must_use]
    pub fn may_be_of(&self, batch: &Self) -> bool {
        self.0.split_once('/').is_none_or(|(of, _)| of == batch.0)
    }

    /// Takes what [`BodyHash::of`] gave, from a message that anybody may have written; `None`: it is none.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let is_hash = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hash.then(|| Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes what [`BodyHash::as_str`] gave.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BodyHash({})", self.0)
    }
}

/// How a message is identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskIdentity {
    /// By its `message_id`, or by what makes a copy of the same publish recognisable.
    Stable(TaskId),
    /// By nothing: the message carries no `message_id`, no `reply_to` with `correlation_id`, no `timestamp`. A fresh id is needed, and
    /// a second copy will be a second task.
    Fresh,
}

/// Identifies a message: `message_id`; else `reply_to` + `correlation_id` + body; else `timestamp` + body; else [`TaskIdentity::Fresh`].
///
/// # Errors
/// [`InvalidId`] if there is a `message_id` that breaks the rule.
pub fn identify(envelope: &Envelope, body_hash: &BodyHash) -> Result<TaskIdentity, InvalidId> {
    if let Some(id) = envelope.message_id.as_deref().filter(|id| !id.is_empty()) {
        return TaskId::new(id).map(TaskIdentity::Stable);
    }
    match (&envelope.reply_to, &envelope.correlation_id, envelope.timestamp) {
        (Some(reply_to), Some(correlation_id), _) => derived(&[reply_to, correlation_id, body_hash.as_str()]),
        (_, _, Some(timestamp)) => derived(&[&timestamp.to_string(), body_hash.as_str()]),
        _ => Ok(TaskIdentity::Fresh),
    }
}

/// The identity of a task whose client names the request instead of the task (HTTP's `Idempotency-Key`): the same key gives the same id, on every gateway.
#[must_use]
pub fn identify_by_key(key: &str) -> TaskId {
    TaskId::new(format!("idem-{}", hexadecimal(&Sha256::digest(key.as_bytes())[..16]))).expect("hexadecimal digits keep the rule")
}

/// The identity under which the items of a slice are a task of their own, for a dead letter of it: nobody but the fleet gives a slice's, and the letter must be of use once it is
/// requeued. Every letter of a slice has the same.
#[must_use]
pub fn identify_letter(slice: &TaskId) -> TaskId {
    let digest = hexadecimal(&Sha256::digest(slice.as_str().as_bytes())[..16]);
    TaskId::new(format!("slice-{digest}")).expect("hexadecimal digits keep the rule")
}

fn derived(parts: &[&str]) -> Result<TaskIdentity, InvalidId> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    TaskId::new(format!("derived-{}", hexadecimal(&hash.finalize()[..16]))).map(TaskIdentity::Stable)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(envelope: &Envelope) -> TaskIdentity {
        identify(envelope, &BodyHash::of(b"{}")).expect("valid")
    }

    #[test]
    fn a_message_without_an_id_is_recognised_by_reply_queue_correlation_and_body() {
        let envelope = |correlation: &str| Envelope {
            reply_to: Some("answers".into()),
            correlation_id: Some(correlation.into()),
            ..Envelope::default()
        };
        assert_eq!(id_of(&envelope("1")), id_of(&envelope("1")));
        assert_ne!(id_of(&envelope("1")), id_of(&envelope("2")));
        assert_ne!(id_of(&envelope("1")), identify(&envelope("1"), &BodyHash::of(b"[]")).expect("valid"));
        let shifted = Envelope { reply_to: Some("answers1".into()), correlation_id: Some(String::new()), ..Envelope::default() };
        assert_ne!(id_of(&envelope("1")), id_of(&shifted));
    }

    #[test]
    fn a_key_is_always_the_same_id_and_no_other_keys() {
        assert_eq!(identify_by_key("order-17").as_str(), "idem-72a90ea3da8b5dd01bde2f27314e02e2");
        assert_ne!(identify_by_key("order-17"), identify_by_key("order-18"));
    }

    #[test]
    fn the_letter_of_a_slice_has_an_id_that_a_producer_may_give() {
        let batch = TaskId::new("order-17").expect("valid");
        let letter = |from| identify_letter(&batch.of_slice(crate::Slice::new(from, 32).expect("a slice")));
        assert_eq!((letter(16).slice(), TaskId::new(letter(16).as_str())), (None, Ok(letter(16))));
        assert_ne!(letter(16), letter(17));
    }

    #[test]
    fn the_hash_of_a_slice_says_whose_it_is() {
        let (batch, other) = (BodyHash::of(b"[1,2]"), BodyHash::of(b"[1,3]"));
        let slice = BodyHash::of_slice(&batch, b"[1]");
        assert!(slice.may_be_of(&batch) && !slice.may_be_of(&other));
        assert_ne!(slice, BodyHash::of_slice(&other, b"[1]"));
        assert!(BodyHash::of(b"[1]").may_be_of(&batch), "it does not say");
        assert_eq!(BodyHash::read(batch.as_str()), Some(batch.clone()));
        let upper = batch.as_str().to_uppercase();
        for wrong in ["", "7", slice.as_str(), upper.as_str(), &batch.as_str()[1..]] {
            assert_eq!(BodyHash::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn with_nothing_to_recognise_it_by_the_identity_is_fresh() {
        assert_eq!(id_of(&Envelope::default()), TaskIdentity::Fresh);
        let stamped = Envelope { timestamp: Some(1), ..Envelope::default() };
        assert!(matches!(id_of(&stamped), TaskIdentity::Stable(_)));
    }
}
