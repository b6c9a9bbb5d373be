//! Whose delivery it is.

use protocol::{BodyHash, Kind, Task, TaskId, intake::Reading};

use super::InHand;

/// Whose delivery it is, as far as that could be read.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) task_id: TaskId,
    pub(crate) body_hash: BodyHash,
    pub(crate) kind: Option<Kind>,
    pub(crate) attempt: u32,
    /// When it was published, in Unix seconds, where it says so.
    pub(crate) published_s: Option<u64>,
}

impl Identity {
    /// A valid task's.
    pub(crate) fn of(task: &Task, in_hand: &InHand) -> Self {
        Self {
            task_id: task.id.clone(),
            body_hash: task.body_hash.clone(),
            kind: Some(task.kind.clone()),
            attempt: task.attempt,
            published_s: in_hand.envelope.timestamp,
        }
    }

    /// That of what may be no valid task.
    pub(crate) fn read(reading: &Reading, in_hand: &InHand) -> Self {
        match &reading.task {
            Ok(task) => Self::of(task, in_hand),
            Err(_) => Self {
                task_id: reading.task_id.clone(),
                body_hash: reading.body_hash.clone(),
                kind: in_hand.envelope.kind.as_deref().and_then(|kind| Kind::new(kind).ok()),
                attempt: in_hand.envelope.headers.attempt.unwrap_or(1),
                published_s: in_hand.envelope.timestamp,
            },
        }
    }
}
