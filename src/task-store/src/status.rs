//! What both back ends do to show a stored reply.

use bytes::Bytes;
use protocol::Reply;

use crate::{Retry, StoreError};

/// Why a task waits between two attempts, for people.
pub fn waits_for_retry(due: Retry, error: &str) -> String {
    format!("attempt {} after {} ms; the last one failed: {error}", due.attempt, due.after_ms)
}

/// Reads a kept body for [`TaskStatus::reply`](protocol::TaskStatus::reply).
///
/// # Errors
/// [`StoreError::Garbled`] if it is not a reply: only workers write bodies, and they write replies.
pub fn parse_reply(body: &Bytes) -> Result<Reply, StoreError> {
    Reply::read(body).map_err(|problem| StoreError::Garbled {
        operation: "read a task's status",
        answer: format!("a kept reply of {} bytes: {problem}", body.len()),
    })
}
