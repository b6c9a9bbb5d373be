//! The error codes that the fleet itself gives to tasks. Executors may give others.

use std::fmt;

/// Why a task did not succeed, as a word for programs: what the fleet writes into [`TaskError::code`](crate::TaskError::code).
///
/// A code on the wire is a text, because an executor may give one of its own and a worker of another version one that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The message is no valid task, or the broker does not take it on to another queue. Nothing ran.
    InvalidTask,
    /// The payload is not what the task's kind takes. The executor said so, and trying again changes nothing.
    InvalidPayload,
    /// The worker that had the task runs no such kind.
    UnknownKind,
    /// The task asks for a GPU that the fleet never knew.
    UnknownGpu,
    /// The task's id is in use for a task with another body.
    ReusedId,
    /// The executor failed or panicked and gave no code of its own, or the retry after a failure could not be published.
    ExecutorFailed,
    /// An attempt ran longer than its limit.
    AttemptTimeout,
    /// A deadline of the task passed before it could start, or while it ran.
    Deadline,
    /// The GPU lacked the memory for the task, and no retry found more.
    OutOfMemory,
    /// Somebody cancelled the task.
    Cancelled,
    /// The task's worker crashed too often while it ran, and it is not tried again.
    Quarantined,
    /// The task ended before and its reply is not kept; only its outcome is known. The outcome may be a success.
    ReplyNotKept,
    /// The broker took the task out of its queue before its time and before a worker had it: by a limit or a policy of the operator's, or because a stranger's consumer rejected it.
    Dropped,
    /// No living GPU of the pool serves the task's kind, or none has what the task needs, and the time for which such a task is waited for is over. Nothing ran.
    Unserved,
    /// The task was published under the name of a pool that has no queue. Nothing ran.
    UnknownPool,
    /// The results of a batch are, or must be, larger together than a reply may be.
    ReplyTooLarge,
    /// The task names a tensor that no living GPU of the pool has. Nothing ran.
    TensorMissing,
    /// A tensor has the name already under which the task was to keep one, and it said that it must not be replaced.
    TensorExists,
    /// There is no room for a tensor: a quota, or the memory of the GPU and of its host.
    TensorsFull,
    /// A tensor could not be brought to the GPU, whichever way was tried.
    TransferFailed,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 20] = [
        Self::InvalidTask,
        Self::InvalidPayload,
        Self::UnknownKind,
        Self::UnknownGpu,
        Self::ReusedId,
        Self::ExecutorFailed,
        Self::AttemptTimeout,
        Self::Deadline,
        Self::OutOfMemory,
        Self::Cancelled,
        Self::Quarantined,
        Self::ReplyNotKept,
        Self::Dropped,
        Self::Unserved,
        Self::UnknownPool,
        Self::ReplyTooLarge,
        Self::TensorMissing,
        Self::TensorExists,
        Self::TensorsFull,
        Self::TransferFailed,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidTask => "invalid_task",
            Self::InvalidPayload => "invalid_payload",
            Self::UnknownKind => "unknown_kind",
            Self::UnknownGpu => "unknown_gpu",
            Self::ReusedId => "reused_id",
            Self::ExecutorFailed => "executor_failed",
            Self::AttemptTimeout => "attempt_timeout",
            Self::Deadline => "deadline",
            Self::OutOfMemory => "out_of_memory",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
            Self::ReplyNotKept => "reply_not_kept",
            Self::Dropped => "dropped",
            Self::Unserved => "unserved",
            Self::UnknownPool => "unknown_pool",
            Self::ReplyTooLarge => "reply_too_large",
            Self::TensorMissing => "tensor_missing",
            Self::TensorExists => "tensor_exists",
            Self::TensorsFull => "tensors_full",
            Self::TransferFailed => "transfer_failed",
        }
    }

    /// The code of a word on the wire; `None` for a word that is not the fleet's own.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == word)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl From<ErrorCode> for String {
    fn from(code: ErrorCode) -> Self {
        code.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskError;

    #[test]
    fn every_word_names_its_code_and_no_other() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::named(code.name()), Some(code));
        }
        assert_eq!(ErrorCode::named("flaky"), None);
    }

    #[test]
    fn the_schema_lists_every_word() {
        let schema = serde_json::to_string(&schemars::schema_for!(TaskError)).unwrap();
        let missing: Vec<_> = ErrorCode::ALL.into_iter().filter(|code| !schema.contains(&format!("`{code}`"))).collect();
        assert!(missing.is_empty(), "the text of TaskError::code does not list {missing:?}");
    }
}
