//! What can go wrong on the way to a data port.

use std::{io, time::Duration};

use crate::{Refused, RefusedBecause};

/// A use of a data port that failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side is there and refuses.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// Nobody can be reached there.
    #[error("reach the data port at {address}")]
    Away {
        /// Where it should be.
        address: String,
        /// Why it is not.
        source: io::Error,
    },
    /// The data port has no address that this process can use.
    #[error("the data port has no address for other processes; set data.listen at its worker")]
    NoAddress,
    /// The other side did not say or take anything for too long.
    #[error("{address} carried nothing for {} ms", .limit.as_millis())]
    Stalled {
        /// Who.
        address: String,
        /// For how long.
        limit: Duration,
    },
    /// A piece did not come whole, however often it was asked for.
    #[error("the piece at byte {at} from {address} did not come whole in {tries} tries; its checksum differs")]
    Corrupted {
        /// From where.
        address: String,
        /// Where the piece begins.
        at: u64,
        /// How often it came.
        tries: u32,
    },
    /// The connection was lost.
    #[error("the connection with {address} was lost")]
    Broken {
        /// With whom.
        address: String,
        /// How.
        source: io::Error,
    },
    /// What the other side says is not of this protocol, or not what was asked for.
    #[error("{address} does not keep to the protocol of data ports: {what}")]
    Garbled {
        /// Who.
        address: String,
        /// What is wrong.
        what: String,
    },
    /// What was to be written could not be had, or is not as long as its shape says.
    #[error("have the bytes that are to be written")]
    Source(#[source] io::Error),
    /// The port cannot be opened.
    #[error("listen at {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
}

impl LinkError {
    /// Whether another try may go well, without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.because == RefusedBecause::Failed,
            Self::Away { .. } | Self::Stalled { .. } | Self::Corrupted { .. } | Self::Broken { .. } => true,
            Self::NoAddress | Self::Garbled { .. } | Self::Source(_) | Self::Listen { .. } => false,
        }
    }

    /// The refusal, where it is one.
    #[must_use]
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            _ => None,
        }
    }
}
