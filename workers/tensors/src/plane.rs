//! One GPU's part of the fleet's data: what others use, and what its parts have in common.

pub(crate) mod asking;
mod costs;
mod duties;
mod fetching;
mod finding;
mod freeing;
mod gathering;
pub(crate) mod here;
mod keeping;
mod link;
mod port;
mod shared;
mod system;
#[cfg(test)]
mod tests;
mod told;
pub(crate) mod trial;

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use devices::{Device, DeviceBuffer};
use protocol::{
    DataCosts, DataState, Environment, GpuId, IfExists, Incarnation, KeptTensor, TensorName, TensorRecord, TensorRef, TensorShape,
    config::DataSection,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::shared::{Shared, within};
use crate::{DataError, DataMetrics, Directory, TellMoving, Tensor, TensorBounds, TensorStore};

/// How long transfers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferLimits {
    /// Over all ways and tries; it grows with the bytes.
    pub timeout: Duration,
    /// Without a byte.
    pub stall: Duration,
    /// For how long a way that failed is left out.
    pub demotion: Duration,
}

impl TransferLimits {
    /// How fast a transfer must be in all beside its time.
    const BYTES_PER_SECOND_MIN: f64 = 10e6;

    /// For a transfer of so many bytes, over all ways and tries.
    pub(crate) fn for_bytes(&self, bytes: u64) -> Duration {
        self.timeout + Duration::from_secs_f64(bytes as f64 / Self::BYTES_PER_SECOND_MIN)
    }
}

/// How a GPU keeps and moves tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct DataOptions {
    /// Where its data port listens. `None`: it has none.
    pub listen: Option<String>,
    /// What others are told, without the port.
    pub advertise: Option<String>,
    /// How much it keeps.
    pub bounds: TensorBounds,
    /// Most that the pool keeps, in MB (10^6 bytes).
    pub pool_mb: Option<u64>,
    /// How long a tensor is kept after its last use where nobody said otherwise.
    pub ttl: Duration,
    /// How long transfers may take.
    pub limits: TransferLimits,
    /// Bytes with which the ways to other GPUs of the host are tried at the start. 0: they are not.
    pub trial_bytes: u64,
}

impl DataOptions {
    /// As configured, for a GPU with so much memory that tasks may use.
    #[must_use]
    pub fn of(section: &DataSection, usable_mb: u64) -> Self {
        const MB: u64 = 1_000_000;
        Self {
            listen: section.listen.clone(),
            advertise: section.advertise.clone(),
            bounds: TensorBounds {
                gpu_bytes: section.gpu_mb.unwrap_or(usable_mb).min(usable_mb).saturating_mul(MB),
                host_bytes: section.host_mb.saturating_mul(MB),
                tensors: section.tensors_max as usize,
            },
            pool_mb: section.pool_mb,
            ttl: Duration::from_millis(section.ttl_ms),
            limits: TransferLimits {
                timeout: Duration::from_millis(section.transfer_timeout_ms),
                stall: Duration::from_millis(section.stall_timeout_ms),
                demotion: Duration::from_millis(section.demotion_ms),
            },
            trial_bytes: u64::from(section.trial_mb).saturating_mul(MB),
        }
    }
}

/// What a [`DataPlane`] is made of.
pub struct DataParts {
    /// The GPU.
    pub device: Arc<dyn Device>,
    /// Where tensors are.
    pub directory: Arc<dyn Directory>,
    /// The start of the worker.
    pub incarnation: Incarnation,
    /// Clock, randomness, jobs.
    pub environment: Environment,
    /// How it keeps and moves them.
    pub options: DataOptions,
    /// Where it counts.
    pub metrics: Arc<DataMetrics>,
}

/// What is to be kept.
#[derive(Debug, Clone)]
pub struct Keep {
    /// Its name.
    pub name: TensorName,
    /// What its numbers are.
    pub shape: TensorShape,
    /// Who makes it.
    pub owner: String,
    /// The token of the attempt that makes it, which is its version unless the name has a newer one. `None`: it is put, and its version is the time in microseconds, unless the name has a newer one.
    pub version: Option<u64>,
    /// How long it is kept after its last use. `None`: as configured.
    pub ttl: Option<Duration>,
    /// What becomes of one that has the name. An older version of the same owner is always replaced.
    pub if_exists: IfExists,
}

/// What a tensor is filled with.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes of the host.
    Host(Bytes),
    /// Memory of this GPU, which becomes the tensor's.
    Gpu(DeviceBuffer),
}

/// What came of a copy to one GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct CopiedTo {
    /// The GPU.
    pub gpu_id: GpuId,
    /// Where it read from and how long it took, or why it has none.
    pub outcome: Result<Copied, String>,
}

/// A copy that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Copied {
    /// The GPU that it was read from.
    pub from: GpuId,
    /// How long it took.
    pub took: Duration,
}

/// One GPU's part of the fleet's data: its tensors, its ways to other GPUs, its data port.
pub struct DataPlane {
    pub(crate) shared: Arc<Shared>,
}

impl DataPlane {
    /// Opens the data port and starts its duties (they end with [`stop`](Self::stop)). The ways between it and the other GPUs of its host are tried in the background once the table knows its row; others when the first tensor comes from there. From now on other data planes of this process reach it
    /// directly, by its incarnation. A port that cannot be opened is logged as an error, and there is none.
    pub async fn start(parts: DataParts) -> Arc<Self> {
        let plane = Self::open(parts).await;
        here::enter(&plane.shared);
        plane
    }

    /// As [`start`](Self::start), but the other planes of the process take it for one of another process.
    pub(crate) async fn open(parts: DataParts) -> Arc<Self> {
        let shared = Shared::new(parts);
        port::open(&shared).await;
        shared.spawn("data duties", duties::run(Arc::clone(&shared)));
        if shared.options.trial_bytes > 0 {
            shared.spawn("trial of ways", trial::run(Arc::clone(&shared)));
        }
        Arc::new(Self { shared })
    }

    /// What it keeps.
    pub fn store(&self) -> &Arc<TensorStore> {
        &self.shared.store
    }

    /// What the row of the GPU says of its data.
    pub fn state(&self) -> DataState {
        self.shared.state()
    }

    /// The copies of the tensors that references mean: of a name without a version, those of the latest. Asks the table once.
    ///
    /// # Errors
    /// [`DataError::Missing`] for the first that is nowhere; [`DataError::Directory`].
    pub async fn find(&self, references: &[TensorRef]) -> Result<Vec<TensorRecord>, DataError> {
        self.shared.find(references).await
    }

    /// What it would cost to bring these copies to each GPU that has one; `None` where it costs nothing anywhere. Goes by the bandwidths that were measured, and by what is usual where none was.
    pub fn costs(&self, copies: &[TensorRecord]) -> Option<DataCosts> {
        self.shared.costs(copies)
    }

    /// A tensor, on this GPU: as it lies here, brought back from the host's memory, or brought from another GPU, the shortest way that works. `copies` is what [`find`](Self::find) gave. Those who want the same one
    /// at the same time share one transfer.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn fetch(
        &self,
        reference: &TensorRef,
        copies: &[TensorRecord],
        cancel: &CancellationToken,
    ) -> Result<Arc<Tensor>, DataError> {
        self.shared.fetch(reference, copies, cancel, None).await
    }

    /// As [`fetch`](Self::fetch); while it is on its way from another GPU, `tell` hears about twice a second how far it is.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn fetch_telling(
        &self,
        reference: &TensorRef,
        copies: &[TensorRecord],
        cancel: &CancellationToken,
        tell: TellMoving<'_>,
    ) -> Result<Arc<Tensor>, DataError> {
        self.shared.fetch(reference, copies, cancel, Some(tell)).await
    }

    /// Keeps a tensor here, and announces it: when this returns, everybody finds it.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn keep(&self, keep: Keep, content: Content) -> Result<KeptTensor, DataError> {
        self.shared.keep(keep, content).await
    }

    /// Bytes of a tensor that is here.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn read(&self, tensor: &Tensor, range: Range<u64>) -> Result<Bytes, DataError> {
        // Where the range has more bytes than memory has places, it lies outside of any tensor, and is refused.
        let bytes = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let limit = self.shared.options.limits.for_bytes(bytes as u64);
        Ok(within(limit, async { Ok(self.shared.memory()?.read(tensor.buffer(), range.start, bytes).await?) }).await?)
    }

    /// Frees all copies of a tensor (of its latest version, or of the one that is named), wherever they are; the GPUs that had one. What is in use goes when it no longer is, and is not found any more at once.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn free(&self, reference: &TensorRef) -> Result<Vec<GpuId>, DataError> {
        self.shared.free(reference).await
    }

    /// Copies a tensor to other GPUs: whoever has it and is free sends it to the nearest that lacks it, so that no link carries it twice. One that is slow or dead holds up nobody: who was to read from it reads
    /// from another copy. `to` empty: to every GPU of the pool that takes data.
    ///
    /// # Errors
    /// [`DataError`], where it is nowhere or a GPU that is named is none of the pool's; what fails for a GPU is its outcome.
    pub async fn copy_to(&self, reference: &TensorRef, to: &[GpuId], cancel: &CancellationToken) -> Result<Vec<CopiedTo>, DataError> {
        self.shared.copy_to(reference, to, cancel, None).await
    }

    /// As [`copy_to`](Self::copy_to); `tell` hears about twice a second how many of the bytes of all copies have come. What GPUs of other processes are at is known when they have it.
    ///
    /// # Errors
    /// Those of [`copy_to`](Self::copy_to).
    pub async fn copy_to_telling(
        &self,
        reference: &TensorRef,
        to: &[GpuId],
        cancel: &CancellationToken,
        tell: TellMoving<'_>,
    ) -> Result<Vec<CopiedTo>, DataError> {
        self.shared.copy_to(reference, to, cancel, Some(tell)).await
    }

    /// Joins tensors along their first dimension, in order, into one that is kept here.
    ///
    /// # Errors
    /// [`DataError`]; [`DataError::Invalid`] where their types or their other dimensions differ.
    pub async fn gather(&self, parts: &[TensorRef], keep: Keep, cancel: &CancellationToken) -> Result<KeptTensor, DataError> {
        self.shared.gather(parts, keep, cancel, None).await
    }

    /// As [`gather`](Self::gather); `tell` hears about twice a second how many of the bytes of all parts have come.
    ///
    /// # Errors
    /// Those of [`gather`](Self::gather).
    pub async fn gather_telling(
        &self,
        parts: &[TensorRef],
        keep: Keep,
        cancel: &CancellationToken,
        tell: TellMoving<'_>,
    ) -> Result<KeptTensor, DataError> {
        self.shared.gather(parts, keep, cancel, Some(tell)).await
    }

    /// Lets tensors that nobody uses go to the host's memory, or away, until so many bytes of the GPU are free of them. Whether any went.
    pub async fn make_room(&self, bytes: u64) -> bool {
        let went = self.shared.store.make_room(bytes).await;
        self.shared.tell_gone();
        went
    }

    /// As [`make_room`](Self::make_room), for so many bytes that found only `free_bytes` free. Where all that may go would not be enough, nothing goes.
    pub async fn make_room_for(&self, wanted_bytes: u64, free_bytes: u64) -> bool {
        let went = self.shared.store.make_room_for(wanted_bytes, free_bytes).await;
        self.shared.tell_gone();
        went
    }

    /// Tells the table of everything that is here, again.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn announce_all(&self) -> Result<(), DataError> {
        self.shared.announce_all().await
    }

    /// Closes the port, ends what goes on, and is reached by nobody any more.
    pub async fn stop(&self) {
        here::leave(&self.shared);
        self.shared.stop().await;
    }
}

impl Drop for DataPlane {
    /// Who forgets to stop it leaves nothing behind either.
    fn drop(&mut self) {
        here::leave(&self.shared);
        self.shared.ended.cancel();
    }
}
