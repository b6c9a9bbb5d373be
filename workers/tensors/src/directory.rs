//! Where tensors are, as the table says.

use async_trait::async_trait;
use protocol::{DataPort, GpuId, Incarnation, TensorName, TensorRecord, gpu::GpuLink};

/// The directory could not be asked, or refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ask the table for tensors: {message}")]
pub struct DirectoryError {
    /// What it said.
    pub message: String,
    /// Whether a later try may succeed.
    pub is_transient: bool,
}

/// A GPU that tensors can be brought to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The GPU.
    pub gpu_id: GpuId,
    /// The start of its worker.
    pub incarnation: Incarnation,
    /// The name of its host.
    pub host: String,
    /// How to reach it.
    pub port: Option<DataPort>,
    /// Its ways to the other GPUs of its host.
    pub links: Vec<GpuLink>,
    /// The NUMA node that it is closest to, where that is known.
    pub numa_node: Option<u32>,
}

/// What a version of a tensor is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw<'a> {
    /// The name of the tensor.
    pub name: &'a TensorName,
    /// Who makes it.
    pub owner: &'a str,
    /// The token of the attempt that makes it. `None`: it is put.
    pub token: Option<u64>,
    /// The time here, in microseconds: the version of what is put, where the name has no newer one.
    pub now_us: u64,
}

impl Draw<'_> {
    /// What it is where the name has no newer one.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.token.unwrap_or(self.now_us)
    }
}

/// Where the tensors of a pool are. Only copies of living workers are found. What it says may be old: a copy that it names may be gone when it is asked for.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// All copies of these names, of every version that is there.
    ///
    /// # Errors
    /// [`DirectoryError`].
    async fn find(&self, names: &[TensorName]) -> Result<Vec<TensorRecord>, DirectoryError>;

    /// The version of a tensor that is made, above the latest of its name. An attempt that is late, since one with a newer token has drawn, is given its own token, which is older than what counts.
    ///
    /// # Errors
    /// [`DirectoryError`].
    async fn draw_version(&self, draw: &Draw<'_>) -> Result<u64, DirectoryError>;

    /// Says that this GPU has these copies. From then on they are found.
    ///
    /// # Errors
    /// [`DirectoryError`].
    async fn announce(&self, records: &[TensorRecord]) -> Result<(), DirectoryError>;

    /// Says that this GPU has these versions no more.
    ///
    /// # Errors
    /// [`DirectoryError`].
    async fn withdraw(&self, copies: &[(TensorName, u64)]) -> Result<(), DirectoryError>;

    /// The living GPUs of the pool that may be given data.
    ///
    /// # Errors
    /// [`DirectoryError`].
    async fn destinations(&self) -> Result<Vec<Destination>, DirectoryError>;

    /// What all tensors of the pool take together, in MB (10^6 bytes), by what its rows said last.
    ///
    /// # Errors
    /// [`DirectoryError`].
    async fn pool_mb(&self) -> Result<u64, DirectoryError>;
}
