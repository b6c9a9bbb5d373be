//! What can go wrong between a producer and the fleet. How a task ended is a [`protocol::Reply`], never an error.

use protocol::{GroupName, Outcome, Refusal, TaskId};
use task_queue::{PublishError, QueueError};
use task_store::{GroupBound, StoreError};

/// A task that was not submitted, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The task is none that a worker would take. The caller's fault; a retry changes nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A queue could not be declared or consumed: the pool's, or this producer's reply queue. Nothing was submitted.
    #[error("{operation}: {source}")]
    Prepare {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: QueueError,
    },
    /// The same, without an answer of the broker in time.
    #[error("{operation}: no answer of the broker within {after_s} s")]
    PrepareTimeout {
        /// What was tried.
        operation: &'static str,
        /// How long was waited.
        after_s: u64,
    },
    /// The store could not note the task as waiting. Nothing was submitted.
    #[error("note task {task_id} as waiting: {source}")]
    Note {
        /// The task.
        task_id: TaskId,
        /// Why.
        source: StoreError,
    },
    /// The id belongs to a task with another body or of another kind. Nothing was submitted; a retry changes nothing.
    #[error(
        "submit task {task_id}: the id belongs to another task, with another body or kind; give each its own, or send what was sent first"
    )]
    OtherTask {
        /// The id.
        task_id: TaskId,
    },
    /// The task's group has no room for it. Nothing was submitted; a retry changes nothing before a group is forgotten.
    #[error("submit task {task_id}: group {group}: {bound}")]
    NoRoomInGroup {
        /// The task.
        task_id: TaskId,
        /// The group.
        group: GroupName,
        /// The bound that keeps it out.
        bound: GroupBound,
    },
    /// The broker did not confirm the task. Only after [`PublishError::Timeout`] and [`PublishError::Disconnected`] it may have it all the
    /// same; submitting again under the same id is harmless.
    #[error("submit task {task_id}: {source}")]
    Publish {
        /// The task.
        task_id: TaskId,
        /// Why.
        source: PublishError,
    },
    /// The caller's limit passed before the broker confirmed. It may have the task all the same; submitting again under the same id is harmless.
    #[error("submit task {task_id}: not confirmed within {after_ms} ms; the broker may have it")]
    NotConfirmed {
        /// The task.
        task_id: TaskId,
        /// The limit.
        after_ms: u64,
    },
    /// This producer waits for as many tasks as it may. Nothing was submitted.
    #[error("wait for one more task: {bound} are waited for already")]
    TooManyWaiting {
        /// The bound.
        bound: usize,
    },
    /// The queue was closed by this process. Nothing was submitted.
    #[error("submit a task: the queue is closed")]
    Closed,
}

impl SubmitError {
    /// What is wrong with the task and where, if the task is at fault.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The fleet is full: the pool's queue, or this producer's bound on waiting. Retry later.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::TooManyWaiting { .. } | Self::Publish { source: PublishError::Full { .. }, .. })
    }

    /// The broker or the store is away or blocks publishers. Retry later.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        match self {
            Self::Prepare { source, .. } => source.is_transient(),
            Self::Note { source, .. } => source.is_transient(),
            Self::Publish { source, .. } => source.is_transient() && !self.is_full(),
            Self::PrepareTimeout { .. } | Self::NotConfirmed { .. } | Self::Closed => true,
            Self::Refused(_) | Self::OtherTask { .. } | Self::NoRoomInGroup { .. } | Self::TooManyWaiting { .. } => false,
        }
    }

    /// Whether a later retry can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.is_full() || self.is_unavailable()
    }

    /// The task, where it got as far as having an id.
    #[must_use]
    pub const fn task_id(&self) -> Option<&TaskId> {
        match self {
            Self::Note { task_id, .. }
            | Self::OtherTask { task_id }
            | Self::NoRoomInGroup { task_id, .. }
            | Self::Publish { task_id, .. }
            | Self::NotConfirmed { task_id, .. } => Some(task_id),
            _ => None,
        }
    }
}

/// A reply that did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The task was not submitted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// No reply within the caller's limit. The task goes on: its status is under its id.
    #[error("wait for task {task_id}: no reply within {after_ms} ms")]
    Timeout {
        /// The task.
        task_id: TaskId,
        /// The limit.
        after_ms: u64,
    },
    /// The task ended, its reply was lost with the reply queue, and the store no longer keeps the body.
    #[error("wait for task {task_id}: it {}, and its reply is no longer kept", outcome.name())]
    ReplyGone {
        /// The task.
        task_id: TaskId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A reply came that no version of this program writes.
    #[error("wait for task {task_id}: its reply cannot be read: {reason}")]
    Unreadable {
        /// The task.
        task_id: TaskId,
        /// Why.
        reason: String,
    },
    /// The queue was closed by this process meanwhile. The task goes on.
    #[error("wait for task {task_id}: the queue is closed")]
    Closed {
        /// The task.
        task_id: TaskId,
    },
}

impl WaitError {
    /// Why it was not submitted, if it was not.
    #[must_use]
    pub const fn submit(&self) -> Option<&SubmitError> {
        match self {
            Self::Submit(error) => Some(error),
            _ => None,
        }
    }

    /// The limit passed. The task goes on.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }

    /// The task, where it got as far as having an id.
    #[must_use]
    pub const fn task_id(&self) -> Option<&TaskId> {
        match self {
            Self::Submit(error) => error.task_id(),
            Self::Timeout { task_id, .. }
            | Self::ReplyGone { task_id, .. }
            | Self::Unreadable { task_id, .. }
            | Self::Closed { task_id } => Some(task_id),
        }
    }
}

/// An operation on dead letters that failed. Letters that were in hand are back at their places, unless the broker is away: then they are once this process's connection has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// They could not be looked at, taken, given back or deleted.
    #[error("handle the dead letters: {0}")]
    Queue(#[from] QueueError),
    /// One could not be published as a task again.
    #[error("requeue a dead letter: {0}")]
    Publish(#[from] PublishError),
    /// The store could not open its task again.
    #[error("requeue a dead letter: {0}")]
    Store(#[from] StoreError),
}

impl DeadLetterError {
    /// Whether a later retry can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Queue(error) => error.is_transient(),
            Self::Publish(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
        }
    }
}
