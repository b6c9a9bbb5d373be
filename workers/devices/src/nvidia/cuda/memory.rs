//! Memory of the GPU that stays between tasks: the [`DeviceMemory`] of an NVIDIA GPU.
//!
//! Each piece comes from `cuMemAlloc` and not from the pool of which buffers are made: only for such memory does CUDA give handles that other processes can open (CUDA IPC). What is given back is given back by a
//! thread of its own, for `cuMemFree` waits for all that the GPU runs.
//!
//! Each operation is a piece of work on a lane of its own, which waits for its end: what it read or wrote may be used on any other lane from then on.

mod freeing;
mod operands;
mod peers;
mod pinned;
mod registered;
mod resident;
mod staged;
mod sum;
mod transfers;

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use cudarc::driver::sys::CUdeviceptr;
use protocol::{Checksum, GpuId};

use self::{freeing::Freeing, pinned::Stages, resident::Resident, sum::Sum};
use super::{Cuda, CudaError, Lane};
use crate::{DeviceBuffer, DeviceMemory, HostBytes, MemoryError, PeerHandle, SharedPart};

/// The memory of one GPU in this process.
pub(in crate::nvidia) struct CudaMemory {
    cuda: Cuda,
    gpu_id: GpuId,
    freeing: Freeing,
    stages: Arc<Stages>,
    sum: Arc<Sum>,
}

impl CudaMemory {
    /// That of the GPU of this context. It starts nothing and takes nothing until it is used.
    pub(in crate::nvidia) fn new(cuda: Cuda, gpu_id: GpuId) -> Self {
        let freeing = Freeing::of(cuda.shared());
        Self { cuda, gpu_id, stages: Arc::new(Stages::new(freeing.clone())), freeing, sum: Arc::default() }
    }

    /// Runs an operation. What its lane says is told as what was asked for.
    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Lane) -> Result<T, CudaError> + Send + 'static,
    ) -> Result<T, MemoryError> {
        self.cuda.run(work).await.map(|ran| ran.value).map_err(|error| failed(operation, &error))
    }

    /// Where a part of this GPU's own memory is.
    fn own(&self, operation: &'static str, buffer: &DeviceBuffer, part: Range<u64>) -> Result<CUdeviceptr, MemoryError> {
        if *buffer.gpu_id() != self.gpu_id {
            return Err(outside(operation, buffer, &part));
        }
        place(operation, buffer, part)
    }
}

#[async_trait]
impl DeviceMemory for CudaMemory {
    async fn allocate(&self, bytes: u64) -> Result<DeviceBuffer, MemoryError> {
        const ALLOCATE: &str = "allocate memory of the GPU";
        let freeing = self.freeing.clone();
        let resident = self.run(ALLOCATE, move |lane| resident::allocate(lane, bytes, &freeing)).await??;
        Ok(DeviceBuffer::new(self.gpu_id.clone(), bytes, Arc::new(resident)))
    }

    async fn write(&self, to: &DeviceBuffer, at: u64, from: HostBytes) -> Result<(), MemoryError> {
        const WRITE: &str = "copy from the host to the GPU";
        let address = self.own(WRITE, to, part(at, from.len() as u64))?;
        if from.is_empty() {
            return Ok(());
        }
        let (to, stages, freeing) = (to.clone(), Arc::clone(&self.stages), self.freeing.clone());
        let work = move |lane: &Lane| {
            let copied = transfers::write(lane, address, &from, &stages, &freeing);
            // The copy is over: only now may its memory go.
            drop(to);
            copied
        };
        self.run(WRITE, work).await
    }

    async fn read(&self, from: &DeviceBuffer, at: u64, bytes: usize) -> Result<Bytes, MemoryError> {
        const READ: &str = "copy from the GPU to the host";
        let address = self.own(READ, from, part(at, bytes as u64))?;
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        let (from, stages) = (from.clone(), Arc::clone(&self.stages));
        let work = move |lane: &Lane| {
            let read = transfers::read(lane, address, bytes, &stages);
            drop(from);
            read
        };
        self.run(READ, work).await.map(Bytes::from)
    }

    async fn read_to(&self, from: &DeviceBuffer, at: u64, to: SharedPart) -> Result<(), MemoryError> {
        const READ: &str = "copy from the GPU to shared memory";
        let address = self.own(READ, from, part(at, to.range.len() as u64))?;
        if to.range.is_empty() {
            return Ok(());
        }
        let (from, stages, freeing) = (from.clone(), Arc::clone(&self.stages), self.freeing.clone());
        let work = move |lane: &Lane| {
            let read = transfers::read_to(lane, address, &to, &stages, &freeing);
            drop(from);
            read
        };
        self.run(READ, work).await
    }

    async fn copy(&self, from: (&DeviceBuffer, u64), to: (&DeviceBuffer, u64), bytes: u64) -> Result<(), MemoryError> {
        const COPY: &str = "copy between GPUs";
        let source = place(COPY, from.0, part(from.1, bytes))?;
        let target = self.own(COPY, to.0, part(to.1, bytes))?;
        if bytes == 0 {
            return Ok(());
        }
        let both = (from.0.clone(), to.0.clone());
        let work = move |lane: &Lane| {
            let copied = transfers::within(lane, source, target, bytes);
            drop(both);
            copied
        };
        self.run(COPY, work).await
    }

    async fn checksum(&self, of: &DeviceBuffer, part: Range<u64>) -> Result<Checksum, MemoryError> {
        const SUM: &str = "sum over the GPU's memory";
        if !part.start.is_multiple_of(sum::WORD) {
            let reason = format!("a part begins at a multiple of {} bytes, not at {}", sum::WORD, part.start);
            return Err(MemoryError::Failed { operation: SUM, reason });
        }
        let address = self.own(SUM, of, part.clone())?;
        let (of, sum, cuda) = (of.clone(), Arc::clone(&self.sum), self.cuda.clone());
        let work = move |lane: &Lane| {
            let summed = sum.over(&cuda, lane, address, part);
            drop(of);
            summed
        };
        self.run(SUM, work).await
    }

    fn export(&self, buffer: &DeviceBuffer) -> Result<PeerHandle, MemoryError> {
        const EXPORT: &str = "give other processes a way to the memory";
        self.own(EXPORT, buffer, 0..buffer.len())?;
        resident_of(EXPORT, buffer)?.handle()
    }

    async fn open(&self, handle: &PeerHandle, gpu_id: &GpuId, bytes: u64) -> Result<DeviceBuffer, MemoryError> {
        let (handle, freeing) = (peers::read(handle)?, self.freeing.clone());
        let opened = self.run(peers::OPEN, move |lane| peers::open(lane, handle, bytes, &freeing)).await??;
        Ok(DeviceBuffer::new(gpu_id.clone(), bytes, Arc::new(opened)))
    }

    fn resident_bytes(&self) -> u64 {
        self.cuda.shared().account.resident()
    }
}

/// A range that ends where numbers do, at the latest: that lies outside of every buffer.
const fn part(at: u64, bytes: u64) -> Range<u64> {
    at..at.saturating_add(bytes)
}

/// Where a part of memory is that this context can reach.
fn place(operation: &'static str, buffer: &DeviceBuffer, part: Range<u64>) -> Result<CUdeviceptr, MemoryError> {
    if part.start > part.end || part.end > buffer.len() {
        return Err(outside(operation, buffer, &part));
    }
    Ok(resident_of(operation, buffer)?.address() + part.start)
}

fn resident_of<'a>(operation: &'static str, buffer: &'a DeviceBuffer) -> Result<&'a Resident, MemoryError> {
    let foreign = || MemoryError::Unsupported { operation, reason: format!("GPU {} is of another kind", buffer.gpu_id()) };
    buffer.memory::<Resident>().ok_or_else(foreign)
}

fn outside(operation: &'static str, buffer: &DeviceBuffer, part: &Range<u64>) -> MemoryError {
    MemoryError::Outside { operation, at: part.start, end: part.end, bytes: buffer.len(), gpu_id: buffer.gpu_id().clone() }
}

fn failed(operation: &'static str, error: &CudaError) -> MemoryError {
    MemoryError::Failed { operation, reason: error.to_string() }
}
