//! Why a command did not do what it was asked, and the exit code that says so.

use std::{fmt, process::ExitCode};

use data_link::{LinkError, RefusedBecause};
use gateway::{ObserveError, TensorsError};
use gpu_table::TableError;
use producer::{DeadLetterError, ResultsError, SubmitError, WaitError};
use service::BackendError;
use task_queue::QueueError;
use task_store::StoreError;

use crate::output::{self, Unprinted};

/// The exit code of a process that can use its GPU no more.
pub(crate) const GPU_LOST: u8 = 6;
/// The exit code that a shell gives a program that an interrupt has ended.
pub(crate) const INTERRUPTED: u8 = 130;
/// The exit code that a shell gives a program that SIGPIPE has ended, which is how others end when nobody reads what they print.
const READER_GONE: u8 = 141;

/// Why a command did not do what it was asked.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Something else went wrong, or a task did not succeed. Exit code 1.
    Failed(String),
    /// The command line or the configuration is wrong. Exit code 2.
    Usage(String),
    /// A server is away, blocked or full, or lets nobody in. Exit code 3.
    Unavailable(String),
    /// What was asked for is not there. Exit code 4.
    NotFound(String),
    /// A time limit passed. Exit code 5.
    TimeLimit(String),
    /// This process can use its GPU no more; a new one may. Exit code 6.
    GpuLost(String),
    /// Nobody reads what is printed any more. Exit code 141, and not a word.
    ReaderGone,
}

impl Fault {
    /// The same, told with what was being done.
    pub(crate) fn during(self, what: &str) -> Self {
        let told = |message: String| format!("{what}: {message}");
        match self {
            Self::Failed(message) => Self::Failed(told(message)),
            Self::Usage(message) => Self::Usage(told(message)),
            Self::Unavailable(message) => Self::Unavailable(told(message)),
            Self::NotFound(message) => Self::NotFound(told(message)),
            Self::TimeLimit(message) => Self::TimeLimit(told(message)),
            Self::GpuLost(message) => Self::GpuLost(told(message)),
            Self::ReaderGone => Self::ReaderGone,
        }
    }

    /// Prints the error line and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        ExitCode::from(self.told())
    }

    /// As [`report`](Self::report), for a process that does not end by way of `main`.
    pub(crate) fn told(&self) -> u8 {
        let code = match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unavailable(_) => 3,
            Self::NotFound(_) => 4,
            Self::TimeLimit(_) => 5,
            Self::GpuLost(_) => GPU_LOST,
            Self::ReaderGone => return READER_GONE,
        };
        output::error_line(&self.to_string());
        code
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Failed(message)
            | Self::Usage(message)
            | Self::Unavailable(message)
            | Self::NotFound(message)
            | Self::TimeLimit(message)
            | Self::GpuLost(message) => message,
            Self::ReaderGone => "nobody reads the output any more",
        })
    }
}

impl From<Unprinted> for Fault {
    fn from(unprinted: Unprinted) -> Self {
        if unprinted.is_reader_gone() { Self::ReaderGone } else { Self::Failed(unprinted.to_string()) }
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
        let is_away = error.is_transient() || matches!(error, QueueError::NotAdmitted { .. });
        if is_away { Self::Unavailable(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<TensorsError> for Fault {
    fn from(error: TensorsError) -> Self {
        let told = error.to_string();
        match (&error, error.refused()) {
            (TensorsError::Missing { .. } | TensorsError::UnknownGpu { .. }, _) | (_, Some(RefusedBecause::Missing)) => {
                Self::NotFound(told)
            }
            (TensorsError::TooLarge { .. }, _) | (_, Some(RefusedBecause::Invalid)) => Self::Usage(told),
            (TensorsError::Port { cause: LinkError::Source(_), .. }, _) => Self::Usage(told),
            (_, Some(RefusedBecause::Full)) => Self::Unavailable(told),
            (TensorsError::Table(_), _) if error.is_away() => Self::Unavailable(told),
            (_, _) if error.is_away() => Self::Unavailable(format!(
                "{told} (data.listen and data.advertise of a worker say where its port is reached; a gateway beside it can, by --url)"
            )),
            _ => Self::Failed(told),
        }
    }
}

impl From<ObserveError> for Fault {
    fn from(error: ObserveError) -> Self {
        if error.is_transient() { Self::Unavailable(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<BackendError> for Fault {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Queue(error) => error.into(),
            BackendError::Table(error) => error.into(),
            BackendError::Store(error) => error.into(),
        }
    }
}

impl From<DeadLetterError> for Fault {
    fn from(error: DeadLetterError) -> Self {
        match error {
            DeadLetterError::Queue(error) => error.into(),
            DeadLetterError::Store(error) => error.into(),
            DeadLetterError::Publish(error) if error.is_transient() => Self::Unavailable(error.to_string()),
            DeadLetterError::Publish(error) => Self::Failed(error.to_string()),
        }
    }
}

impl From<SubmitError> for Fault {
    fn from(error: SubmitError) -> Self {
        match &error {
            refused if refused.refusal().is_some() => Self::Usage(error.to_string()),
            SubmitError::OtherTask { .. } => Self::Usage(format!("{error} (--task-id)")),
            SubmitError::NoRoomInGroup { .. } => Self::Unavailable(error.to_string()),
            transient if transient.is_transient() => Self::Unavailable(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<ResultsError> for Fault {
    fn from(error: ResultsError) -> Self {
        match error {
            ResultsError::Unknown { .. } | ResultsError::Gone { .. } => Self::NotFound(error.to_string()),
            ResultsError::Store { source, .. } => source.into(),
            ResultsError::NoResults { .. } | ResultsError::Unreadable { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<WaitError> for Fault {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Submit(error) => error.into(),
            WaitError::Timeout { .. } => Self::TimeLimit(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}
