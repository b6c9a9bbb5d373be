//! The tensors of a pool, for processes that are no workers: the table says where they are, and their bytes go through the data ports of the GPUs that have them, past broker and Redis.
//!
//! A copy may go at any time, with the worker that has it. A reading goes on with another copy where one fails; a writing that fails leaves nothing behind.

mod copies;
mod destination;

use std::{sync::Arc, time::Duration};

use data_link::{Client, ClientLimits, LinkError};
use futures::{StreamExt, stream};
use gpu_table::GpuTable;
use protocol::{GpuId, PoolName, TensorName, TensorRecord, TensorView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TensorsError;

pub use self::{copies::FoundTensor, destination::Destination};

/// How long a port may let one wait, and how large the pieces are: few of them are in hand at once.
const LIMITS: ClientLimits = ClientLimits { timeout: Duration::from_secs(5), stall: Duration::from_secs(5), piece_bytes: PIECE_BYTES };
/// The length of a piece that travels to or from a port.
const PIECE_BYTES: usize = 1 << 20;
/// How many ports are asked at once to let a tensor go.
const FREES_AT_ONCE: usize = 16;

/// The tensors of one pool. Cheap to make and to clone.
#[derive(Clone)]
pub struct PoolTensors {
    table: Arc<dyn GpuTable>,
    pool: PoolName,
}

/// Some of the tensors of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorPage {
    /// The tensors, by name: of each the latest version.
    pub tensors: Vec<TensorView>,
    /// The last of these names, where more follow: give it as `after`.
    pub next: Option<TensorName>,
}

/// A tensor that was let go of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FreedTensor {
    /// Its name.
    pub tensor: TensorName,
    /// The GPUs that had a copy.
    pub gpus: Vec<GpuId>,
}

impl PoolTensors {
    /// Most tensors of one page.
    pub const LISTED_MAX: usize = 1_000;
    /// The most that a reading or a writing has in hand, in bytes: two pieces on their way, and one on either side.
    pub const IN_HAND_BYTES: usize = 4 * PIECE_BYTES;

    /// Those of this pool. Does no I/O.
    #[must_use]
    pub fn new(table: Arc<dyn GpuTable>, pool: PoolName) -> Self {
        Self { table, pool }
    }

    /// At most `limit` tensors whose names come after `after`. `now_ms` is Unix time in ms.
    ///
    /// # Errors
    /// [`TensorsError::Table`].
    pub async fn page(&self, after: Option<&TensorName>, limit: usize, now_ms: u64) -> Result<TensorPage, TensorsError> {
        // One more tells whether more follow.
        let records = self.table.tensors(&self.pool, after, limit.saturating_add(1)).await?;
        let mut tensors = TensorView::of(records, now_ms);
        let goes_on = tensors.len() > limit;
        tensors.truncate(limit);
        let next = tensors.last().filter(|_| goes_on).map(|view| view.name.clone());
        Ok(TensorPage { tensors, next })
    }

    /// A tensor with its copies; `version` `None`: the latest.
    ///
    /// # Errors
    /// [`TensorsError::Missing`], [`TensorsError::Table`].
    pub async fn find(&self, name: &TensorName, version: Option<u64>) -> Result<FoundTensor, TensorsError> {
        let records = self.records(name, version).await?;
        FoundTensor::of(records).ok_or_else(|| self.missing(name, version))
    }

    /// The GPU that a tensor of so many bytes is to be written to: the one that is named; else of those that may be given tasks the one with the most free memory whose data port answers.
    ///
    /// # Errors
    /// [`TensorsError::UnknownGpu`], [`TensorsError::TooLarge`], [`TensorsError::NoGpu`], [`TensorsError::Table`].
    pub async fn destination(&self, bytes: u64, gpu_id: Option<&GpuId>) -> Result<Destination, TensorsError> {
        let rows = self.table.rows(&self.pool).await?;
        Destination::choose(&self.pool, rows, bytes, gpu_id).await
    }

    /// Frees every copy of a tensor: of all versions, or of the one that is named. Where one cannot be reached, the others are freed all the same; asking again is harmless.
    ///
    /// # Errors
    /// [`TensorsError::Missing`] where there is none, [`TensorsError::Port`], [`TensorsError::Table`].
    pub async fn free(&self, name: &TensorName, version: Option<u64>) -> Result<FreedTensor, TensorsError> {
        let records = self.records(name, version).await?;
        let freeing = stream::iter(records).map(free).buffer_unordered(FREES_AT_ONCE);
        let freed: Vec<Result<Option<GpuId>, TensorsError>> = freeing.collect().await;
        let freed = freed.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut gpus: Vec<GpuId> = freed.into_iter().flatten().collect();
        gpus.sort();
        gpus.dedup();
        if gpus.is_empty() { Err(self.missing(name, version)) } else { Ok(FreedTensor { tensor: name.clone(), gpus }) }
    }

    /// The copies of a tensor, of this version or of all.
    async fn records(&self, name: &TensorName, version: Option<u64>) -> Result<Vec<TensorRecord>, TensorsError> {
        let records = self.table.find_tensors(&self.pool, std::slice::from_ref(name)).await?;
        Ok(records.into_iter().filter(|record| version.is_none_or(|version| record.version == version)).collect())
    }

    fn missing(&self, name: &TensorName, version: Option<u64>) -> TensorsError {
        TensorsError::Missing { pool: self.pool.clone(), name: name.clone(), version }
    }
}

impl std::fmt::Debug for PoolTensors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PoolTensors").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// Lets one copy go; the GPU, if it was still there.
async fn free(record: TensorRecord) -> Result<Option<GpuId>, TensorsError> {
    let freed = async {
        let client = connect(&record).await?;
        client.free(&record.name, Some(record.version)).await
    };
    let was_there = freed.await.map_err(|cause| TensorsError::Port { gpu_id: record.gpu_id.clone(), cause })?;
    Ok(was_there.then_some(record.gpu_id))
}

/// A client of the port that has a copy.
async fn connect(record: &TensorRecord) -> Result<Client, LinkError> {
    Client::connect(record.port.as_ref().ok_or(LinkError::NoAddress)?, LIMITS).await
}
