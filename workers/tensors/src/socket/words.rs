//! What is said at the socket that speaks of memory.

use std::{fmt, ops::Range, path::PathBuf};

use data_link::Refused;
use protocol::{Checksum, TensorName, TensorRecord};
use serde::{Deserialize, Serialize};

use super::memory_address_of;
use crate::transfer::TryFailure;

/// The first thing that is said: what is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The handle of a buffer, and that the buffer stays until the connection ends.
    Peer(WantedTensor),
    /// That the ring which comes with this is filled.
    Staged(WantedTensor, Ring),
}

impl Request {
    pub(crate) const fn wanted(&self) -> &WantedTensor {
        match self {
            Self::Peer(wanted) | Self::Staged(wanted, _) => wanted,
        }
    }
}

/// A tensor that is wanted.
#[derive(Serialize, Deserialize)]
pub(crate) struct WantedTensor {
    /// That of the data port.
    pub(crate) key: String,
    pub(crate) name: TensorName,
    pub(crate) version: u64,
}

impl fmt::Debug for WantedTensor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is a secret.
        formatter.debug_struct("WantedTensor").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

/// A tensor that is wanted, and where.
pub(crate) struct Wanted {
    pub(crate) socket: PathBuf,
    pub(crate) tensor: WantedTensor,
}

impl Wanted {
    /// The one that a record is of.
    ///
    /// # Errors
    /// [`TryFailure::Unsupported`]: it has no socket.
    pub(crate) fn new(record: &TensorRecord) -> Result<Self, TryFailure> {
        let port = record.port.as_ref().and_then(|port| Some((port.socket.as_deref()?, port.key.clone())));
        let Some((socket, key)) = port else { return Err(TryFailure::Unsupported("it has no socket".to_owned())) };
        Ok(Self { socket: memory_address_of(socket), tensor: WantedTensor { key, name: record.name.clone(), version: record.version } })
    }
}

/// How shared memory is used: as a ring of chunks. Each has one piece of the tensor at a time, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ring {
    /// A multiple of eight.
    pub(crate) chunk_bytes: u64,
    /// At least one.
    pub(crate) chunks: u64,
}

impl Ring {
    /// The largest that is taken from another process.
    const BYTES_MAX: u64 = 1 << 30;

    /// Whether it can be used as it is.
    pub(crate) fn is_sound(self) -> bool {
        let bytes = self.chunk_bytes.checked_mul(self.chunks);
        self.chunk_bytes.is_multiple_of(8) && bytes.is_some_and(|bytes| (1..=Self::BYTES_MAX).contains(&bytes))
    }

    /// Bytes of a sound ring.
    pub(crate) const fn bytes(self) -> usize {
        (self.chunk_bytes * self.chunks) as usize
    }

    /// The piece of a whole of so many bytes that a chunk has.
    pub(crate) const fn piece_of(self, chunk: u64, bytes: u64) -> Range<u64> {
        let start = chunk * self.chunk_bytes;
        let end = start + self.chunk_bytes;
        start..if end < bytes { end } else { bytes }
    }

    /// Where a piece lies that has so many bytes, at most those of a chunk.
    pub(crate) const fn place_of(self, piece: u64, bytes: u64) -> Range<usize> {
        let start = (piece % self.chunks * self.chunk_bytes) as usize;
        start..start + bytes as usize
    }
}

/// What the side says that has the tensor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The buffer's handle. What follows is the sum, or that there is none.
    Exported { handle: Vec<u8> },
    /// The sum over all of the exported buffer that its GPU has.
    Summed { checksum: Checksum },
    /// A piece lies in its chunk, and this is the sum that its GPU has of it.
    Filled { chunk: u64, checksum: Checksum },
    /// It does not do it, or does not go on.
    Refused(Refused),
}

impl Answer {
    /// That this was not to be said now.
    pub(crate) fn unexpected(&self) -> TryFailure {
        TryFailure::Failed(format!("the other side says what was not asked for: {self:?}"))
    }
}

/// What the side says that takes pieces.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Taken {
    /// The oldest one is taken: its chunk is free.
    Well,
    /// This one, the oldest, came corrupted: it is to come again, and those after it.
    AgainFrom(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_in_no_log() {
        let wanted = WantedTensor { key: "secret".to_owned(), name: TensorName::new("x").unwrap(), version: 7 };
        let shown = format!("{:?}", Request::Peer(wanted));
        assert!(shown.contains('7') && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn pieces_take_turns_in_the_chunks_of_a_ring() {
        let ring = Ring { chunk_bytes: 16, chunks: 3 };
        assert_eq!(ring.place_of(0, 16), 0..16);
        assert_eq!(ring.place_of(2, 5), 32..37);
        assert_eq!(ring.place_of(3, 16), 0..16);
        assert!(ring.is_sound());
        for (chunk_bytes, chunks) in [(0, 3), (16, 0), (12, 3), (u64::MAX - 7, 2), (1 << 30, 2)] {
            assert!(!Ring { chunk_bytes, chunks }.is_sound(), "{chunk_bytes} x {chunks}");
        }
    }
}
