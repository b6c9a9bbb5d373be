//! The memory of a GPU that outlives the work which filled it.

use std::{any::Any, fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{Checksum, GpuId};

use crate::SharedMemory;

/// Bytes in the memory of a GPU. They are given back when the last clone is dropped.
#[derive(Clone)]
pub struct DeviceBuffer {
    gpu_id: GpuId,
    bytes: u64,
    memory: Arc<dyn Any + Send + Sync>,
}

impl DeviceBuffer {
    /// For devices: `memory` is what the device itself made, and gives it back when it is dropped.
    #[must_use]
    pub fn new(gpu_id: GpuId, bytes: u64, memory: Arc<dyn Any + Send + Sync>) -> Self {
        Self { gpu_id, bytes, memory }
    }

    /// The GPU whose memory it is.
    #[must_use]
    pub const fn gpu_id(&self) -> &GpuId {
        &self.gpu_id
    }

    /// Its length.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What the device made. `None`: another kind of device made it.
    #[must_use]
    pub fn memory<T: 'static>(&self) -> Option<&T> {
        self.memory.downcast_ref()
    }
}

impl fmt::Debug for DeviceBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DeviceBuffer").field("gpu_id", &self.gpu_id).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A part of memory that processes of a host share.
#[derive(Debug, Clone)]
pub struct SharedPart {
    /// The memory.
    pub memory: Arc<SharedMemory>,
    /// The bytes of it that are meant.
    pub range: Range<usize>,
}

/// Bytes in the host's memory that go to a GPU.
#[derive(Debug, Clone)]
pub enum HostBytes {
    /// This process's own.
    Own(Bytes),
    /// In memory that processes share. They must not be written until the copy is over.
    Shared(SharedPart),
}

impl HostBytes {
    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(part) => part.range.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What another process of the host needs to read a buffer's memory directly. It means nothing in the process that made it, and nothing once that process has let go of the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHandle(pub Vec<u8>);

/// Why something could not be done with a GPU's memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// There is not enough of it.
    #[error("the GPU has {free_bytes} bytes free, and {wanted_bytes} are wanted")]
    Full {
        /// What was asked for.
        wanted_bytes: u64,
        /// What was free.
        free_bytes: u64,
    },
    /// The GPU cannot do this at all: it has no way to that other GPU, or none between processes.
    #[error("cannot {operation}: {reason}")]
    Unsupported {
        /// What was asked for.
        operation: &'static str,
        /// Why not.
        reason: String,
    },
    /// It went wrong; another try, or another way, may go well.
    #[error("{operation}: {reason}")]
    Failed {
        /// What was asked for.
        operation: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// What was asked for lies outside of the buffer, or the buffer is another GPU's.
    #[error("{operation}: bytes {at} to {end} of a buffer of {bytes} on GPU {gpu_id}")]
    Outside {
        /// What was asked for.
        operation: &'static str,
        /// The first byte.
        at: u64,
        /// The byte after the last one.
        end: u64,
        /// How many the buffer has.
        bytes: u64,
        /// Whose it is.
        gpu_id: GpuId,
    },
}

/// The memory of one GPU, for data that stays there between tasks.
///
/// A buffer is filled by whoever allocated it, and from then on only read. Each operation is over when its future is: what it read or wrote may be used by any other from then on, on any stream. Dropping a
/// future does not stop the copy, whose memory stays until it is through. Copies of one buffer's different parts may go on at the same time.
#[async_trait]
pub trait DeviceMemory: Send + Sync + 'static {
    /// Takes memory. What is in it is not said.
    ///
    /// # Errors
    /// [`MemoryError::Full`]; [`MemoryError::Failed`] where the driver refuses.
    async fn allocate(&self, bytes: u64) -> Result<DeviceBuffer, MemoryError>;

    /// Copies from the host to the GPU.
    ///
    /// # Errors
    /// [`MemoryError`].
    async fn write(&self, to: &DeviceBuffer, at: u64, from: HostBytes) -> Result<(), MemoryError>;

    /// Copies from the GPU to the host.
    ///
    /// # Errors
    /// [`MemoryError`].
    async fn read(&self, from: &DeviceBuffer, at: u64, bytes: usize) -> Result<Bytes, MemoryError>;

    /// Copies from the GPU to memory that processes share. Nobody may read or write that part meanwhile.
    ///
    /// # Errors
    /// [`MemoryError`].
    async fn read_to(&self, from: &DeviceBuffer, at: u64, to: SharedPart) -> Result<(), MemoryError>;

    /// Copies so many bytes to this GPU's memory from its own, or from that of another GPU: one of this process's, or one that was [opened](Self::open).
    ///
    /// # Errors
    /// [`MemoryError::Unsupported`] where there is no way from that GPU to this one; [`MemoryError`] else.
    async fn copy(&self, from: (&DeviceBuffer, u64), to: (&DeviceBuffer, u64), bytes: u64) -> Result<(), MemoryError>;

    /// The sum over a part of the memory, computed by the GPU itself; the part begins at a multiple of eight bytes.
    ///
    /// # Errors
    /// [`MemoryError`].
    async fn checksum(&self, of: &DeviceBuffer, part: Range<u64>) -> Result<Checksum, MemoryError>;

    /// What other processes of the host need to read the buffer.
    ///
    /// # Errors
    /// [`MemoryError::Unsupported`] where processes cannot; [`MemoryError`] else.
    fn export(&self, buffer: &DeviceBuffer) -> Result<PeerHandle, MemoryError>;

    /// The memory behind a handle of another process, to copy from; `gpu_id` and `bytes` are those of the buffer that was exported. It must be dropped before that process lets go of the buffer.
    ///
    /// # Errors
    /// [`MemoryError::Unsupported`] where there is no way from that GPU to this one; [`MemoryError`] else.
    async fn open(&self, handle: &PeerHandle, gpu_id: &GpuId, bytes: u64) -> Result<DeviceBuffer, MemoryError>;

    /// The bytes that buffers hold now.
    fn resident_bytes(&self) -> u64;
}
