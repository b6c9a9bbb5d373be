//! What goes wrong with tensors.

use protocol::{ErrorCode, GpuId, TensorName};

use crate::{DirectoryError, KeepError};

/// Why a tensor is not there, or could not be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// No living GPU has it.
    #[error("no living GPU of the pool has the tensor {name}{}", version.map_or(String::new(), |version| format!(" in version {version}")))]
    Missing {
        /// Its name.
        name: TensorName,
        /// The version that was asked for, if one was.
        version: Option<u64>,
    },
    /// It could not be brought here, whichever way was tried.
    #[error("bring the tensor {name} to GPU {to}: {reason}")]
    Transfer {
        /// Its name.
        name: TensorName,
        /// Where to.
        to: GpuId,
        /// What each way and try came to.
        reason: String,
    },
    /// It could not be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The table does not say where tensors are.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A GPU that is named is not there, or takes no data.
    #[error("GPU {gpu_id} takes no tensors: {reason}")]
    NoDestination {
        /// The GPU.
        gpu_id: GpuId,
        /// Why.
        reason: String,
    },
    /// Whoever asked does not wait any more.
    #[error("cancelled")]
    Cancelled,
    /// What was asked for makes no sense, whatever is there.
    #[error("{problem}")]
    Invalid {
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl DataError {
    /// The word for programs.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } => ErrorCode::TensorMissing,
            Self::Transfer { .. } | Self::Directory(_) | Self::NoDestination { .. } => ErrorCode::TransferFailed,
            Self::Keep(KeepError::Exists { .. }) => ErrorCode::TensorExists,
            Self::Keep(KeepError::Full { .. } | KeepError::TooMany { .. }) => ErrorCode::TensorsFull,
            Self::Keep(KeepError::Memory(_)) => ErrorCode::ExecutorFailed,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::Invalid { .. } => ErrorCode::InvalidPayload,
        }
    }

    /// Whether another try may succeed.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Cancelled | Self::Invalid { .. } | Self::NoDestination { .. } => false,
            Self::Transfer { .. } => true,
            Self::Keep(error) => error.is_transient(),
            Self::Directory(error) => error.is_transient,
        }
    }
}

/// An error with what lies behind it, for people.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
