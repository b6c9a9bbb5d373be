//! What a try to bring a tensor came to.

use std::time::Duration;

use data_link::{LinkError, Refused, RefusedBecause};
use devices::{MemoryError, SharedMemoryError};

use crate::{KeepError, error::whole};

/// Why a try failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TryFailure {
    /// The copy is not there any more.
    #[error("it is not there any more")]
    Gone,
    /// The pair does not have this way.
    #[error("{0}")]
    Unsupported(String),
    /// What arrived is not what was sent.
    #[error("what arrived is not what was sent: the checksums differ")]
    Corrupted,
    /// Nothing came for too long.
    #[error("nothing came for {} ms", .0.as_millis())]
    Stalled(Duration),
    /// It went wrong; another try may go well.
    #[error("{0}")]
    Failed(String),
    /// This GPU cannot take it, whichever way it comes.
    #[error(transparent)]
    Target(KeepError),
}

impl TryFailure {
    /// The word for metrics.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Unsupported(_) => "unsupported",
            Self::Corrupted => "corrupted",
            Self::Stalled(_) => "stalled",
            Self::Failed(_) => "failed",
            Self::Target(_) => "target",
        }
    }

    /// Whether the same way may be tried again at once. What stalled once has cost its time.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(self, Self::Corrupted | Self::Failed(_))
    }
}

impl From<MemoryError> for TryFailure {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Unsupported { .. } => Self::Unsupported(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Of a write to memory that was taken already: what fails is the copy, not the room for it.
impl From<KeepError> for TryFailure {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Memory(error) => error.into(),
            error => Self::Target(error),
        }
    }
}

impl From<SharedMemoryError> for TryFailure {
    fn from(error: SharedMemoryError) -> Self {
        Self::Failed(whole(&error))
    }
}

impl From<std::io::Error> for TryFailure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Refused> for TryFailure {
    fn from(refused: Refused) -> Self {
        match refused.because {
            RefusedBecause::Missing => Self::Gone,
            RefusedBecause::Unsupported => Self::Unsupported(refused.message),
            _ => Self::Failed(refused.message),
        }
    }
}

impl From<LinkError> for TryFailure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(refused) => refused.into(),
            LinkError::NoAddress => Self::Unsupported(error.to_string()),
            LinkError::Corrupted { .. } => Self::Corrupted,
            LinkError::Stalled { limit, .. } => Self::Stalled(limit),
            error => Self::Failed(whole(&error)),
        }
    }
}
