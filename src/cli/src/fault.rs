//! Why a command did not do what it was asked, and the exit code that says so.

use std::process::ExitCode;

use gpu_table::TableError;
use producer::{SubmitError, WaitError};
use task_queue::QueueError;
use task_store::StoreError;

use crate::output;

/// The exit code of a process that can use its GPU no more.
pub(crate) const GPU_LOST: u8 = 6;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Something else went wrong, or a task did not succeed. Exit code 1.
    Failed(String),
    /// The command line or the configuration is wrong. Exit code 2.
    Usage(String),
    /// A server is away, blocked or full. Exit code 3.
    Unavailable(String),
    /// What was asked for is not there. Exit code 4.
    NotFound(String),
    /// A time limit passed. Exit code 5.
    TimeLimit(String),
    /// This process can use its GPU no more; a new one may. Exit code 6.
    GpuLost(String),
}

impl Fault {
    /// Prints the error line and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        ExitCode::from(self.told())
    }

    /// As [`report`](Self::report), for a process that does not end by way of `main`.
    pub(crate) fn told(&self) -> u8 {
        let (code, message) = match self {
            Self::Failed(message) => (1, message),
            Self::Usage(message) => (2, message),
            Self::Unavailable(message) => (3, message),
            Self::NotFound(message) => (4, message),
            Self::TimeLimit(message) => (5, message),
            Self::GpuLost(message) => (GPU_LOST, message),
        };
        output::error_line(message);
        code
    }
}

impl From<TableError> for Fault {
    fn from(error: TableError) -> Self {
        if error.is_transient() { Self::Unavailable(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        if error.is_transient() { Self::Unavailable(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<QueueError> for Fault {
    fn from(error: QueueError) -> Self {
        if error.is_transient() { Self::Unavailable(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<SubmitError> for Fault {
    fn from(error: SubmitError) -> Self {
        match &error {
            refused if refused.refusal().is_some() => Self::Usage(error.to_string()),
            SubmitError::OtherTask { .. } => Self::Usage(format!("{error} (--task-id)")),
            transient if transient.is_transient() => Self::Unavailable(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<WaitError> for Fault {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Submit(error) => error.into(),
            WaitError::Timeout { .. } => Self::TimeLimit(format!("{error}; it goes on: ask with `gpufleet status`")),
            other => Self::Failed(other.to_string()),
        }
    }
}
