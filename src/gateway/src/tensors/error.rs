//! What goes wrong with the tensors of a pool.

use std::error::Error;

use data_link::{LinkError, RefusedBecause};
use gpu_table::TableError;
use protocol::{ErrorCode, GpuId, PoolName, TensorName};

/// A tensor that could not be read, written or freed.
#[derive(Debug, thiserror::Error)]
pub enum TensorsError {
    /// The table does not say where tensors are.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No living GPU has it.
    #[error("no living GPU of the pool {pool} has the tensor {name}{}", version.map_or_else(String::new, |version| format!(" in version {version}")))]
    Missing {
        /// The pool.
        pool: PoolName,
        /// Its name.
        name: TensorName,
        /// The version that was asked for, if one was.
        version: Option<u64>,
    },
    /// The GPU that is named does not live.
    #[error("no living GPU of the pool {pool} has the id {gpu_id}")]
    UnknownGpu {
        /// The pool.
        pool: PoolName,
        /// The GPU.
        gpu_id: GpuId,
    },
    /// It is larger than the memory of the largest GPU that could be given it.
    #[error("the tensor has {bytes} bytes, and the memory of GPU {gpu_id} has {most}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The GPU.
        gpu_id: GpuId,
        /// Its memory, in bytes.
        most: u64,
    },
    /// The data port of no GPU answers.
    #[error("no GPU of the pool {pool} can be given a tensor: {reason}")]
    NoGpu {
        /// The pool.
        pool: PoolName,
        /// Why the last one cannot.
        reason: String,
    },
    /// The data port of a GPU refused, or failed.
    #[error("GPU {gpu_id}: {}", in_words(cause))]
    Port {
        /// The GPU.
        gpu_id: GpuId,
        /// Why.
        cause: LinkError,
    },
}

impl TensorsError {
    /// The word for programs, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Missing { .. } => Some(ErrorCode::TensorMissing),
            Self::Port { .. } => Some(match self.refused() {
                Some(RefusedBecause::Missing) => ErrorCode::TensorMissing,
                Some(RefusedBecause::Exists) => ErrorCode::TensorExists,
                Some(RefusedBecause::Full) => ErrorCode::TensorsFull,
                _ => ErrorCode::TransferFailed,
            }),
            Self::TooLarge { .. } => Some(ErrorCode::TensorsFull),
            Self::Table(_) | Self::UnknownGpu { .. } | Self::NoGpu { .. } => None,
        }
    }

    /// Why the other side refuses, where it does.
    #[must_use]
    pub fn refused(&self) -> Option<RefusedBecause> {
        match self {
            Self::Port { cause, .. } => cause.refused().map(|refused| refused.because),
            _ => None,
        }
    }

    /// Whether nobody is there who could have answered: another try may go well once somebody is.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        match self {
            Self::Table(error) => error.is_transient(),
            Self::Port { cause, .. } => matches!(cause, LinkError::Away { .. } | LinkError::NoAddress),
            Self::NoGpu { .. } => true,
            Self::Missing { .. } | Self::UnknownGpu { .. } | Self::TooLarge { .. } => false,
        }
    }
}

/// An error with its causes: its own words stop at what was being done.
pub(super) fn in_words(error: &LinkError) -> String {
    let mut causes = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let words = deeper.to_string();
        if causes.last() != Some(&words) {
            causes.push(words);
        }
        cause = deeper.source();
    }
    causes.join(": ")
}
