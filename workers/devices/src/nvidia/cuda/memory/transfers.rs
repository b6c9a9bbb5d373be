//! Copies between the host and the GPU, and within the GPU's memory.

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::{
    result,
    sys::{self, CUdeviceptr},
};

use super::{
    super::{CudaError, Lane},
    freeing::Freeing,
    pinned::{Stage, Stages},
    registered::is_registered,
    staged,
};
use crate::{HostBytes, SharedPart};

/// The most bytes of a copy that the driver takes through memory of its own, at the call: a stage would not be faster.
const SMALL: usize = 64 << 10;

impl Lane {
    /// Starts a copy to the GPU.
    ///
    /// # Safety
    /// Both ends have these bytes, and stay until the stream is through.
    pub(super) unsafe fn start_to_gpu(&self, to: CUdeviceptr, from: *const c_void, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        let answer = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes, self.stream.cu_stream()) };
        self.shared.check("copy to the GPU", answer.result())
    }

    /// Starts a copy from the GPU.
    ///
    /// # Safety
    /// Both ends have these bytes, and stay until the stream is through; nobody else uses the target until then.
    pub(super) unsafe fn start_to_host(&self, to: *mut c_void, from: CUdeviceptr, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        let answer = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes, self.stream.cu_stream()) };
        self.shared.check("copy from the GPU", answer.result())
    }

    fn enter(&self) -> Result<(), CudaError> {
        self.shared.check("enter the context", self.shared.context.bind_to_thread())
    }
}

/// Copies to the GPU, and waits.
pub(super) fn write(lane: &Lane, to: CUdeviceptr, from: &HostBytes, stages: &Arc<Stages>, freeing: &Freeing) -> Result<(), CudaError> {
    lane.enter()?;
    match from {
        HostBytes::Own(bytes) => match staged_from(lane, bytes.len(), stages)? {
            Some(stage) => staged::to_gpu(lane, &stage, to, bytes.len(), |at, chunk| chunk.copy_from_slice(&bytes[at..at + chunk.len()])),
            // SAFETY: the target has these bytes, as was checked; both ends stay until it has waited.
            None => waited(lane, unsafe { lane.start_to_gpu(to, bytes.as_ptr().cast(), bytes.len()) }),
        },
        HostBytes::Shared(SharedPart { memory, range }) if is_registered(lane, memory, freeing) => {
            // SAFETY: as above; `pointer` checks the range.
            waited(lane, unsafe { lane.start_to_gpu(to, memory.pointer(range.start, range.len()), range.len()) })
        }
        HostBytes::Shared(SharedPart { memory, range }) => {
            let stage = stages.take(lane)?;
            staged::to_gpu(lane, &stage, to, range.len(), |at, chunk| memory.read_at(range.start + at, chunk))
        }
    }
}

/// Copies from the GPU, and waits.
pub(super) fn read(lane: &Lane, from: CUdeviceptr, bytes: usize, stages: &Arc<Stages>) -> Result<Vec<u8>, CudaError> {
    lane.enter()?;
    let mut read = Vec::<u8>::with_capacity(bytes);
    let target = read.as_mut_ptr();
    match staged_from(lane, bytes, stages)? {
        Some(stage) => staged::to_host(lane, &stage, from, bytes, |at, chunk| {
            // SAFETY: the vector has room for all bytes, of which these are some.
            unsafe { std::ptr::copy_nonoverlapping(chunk.as_ptr(), target.add(at), chunk.len()) };
        }),
        // SAFETY: the source has these bytes, as was checked, and the vector room for them; both ends stay until it has waited.
        None => waited(lane, unsafe { lane.start_to_host(target.cast(), from, bytes) }),
    }?;
    // SAFETY: all of them were written.
    unsafe { read.set_len(bytes) };
    Ok(read)
}

/// Copies from the GPU to shared memory, and waits.
pub(super) fn read_to(lane: &Lane, from: CUdeviceptr, to: &SharedPart, stages: &Arc<Stages>, freeing: &Freeing) -> Result<(), CudaError> {
    lane.enter()?;
    let SharedPart { memory, range } = to;
    if is_registered(lane, memory, freeing) {
        let target = memory.pointer(range.start, range.len());
        // SAFETY: the source has these bytes, as was checked; `pointer` checks the range; both ends stay until it has waited.
        return waited(lane, unsafe { lane.start_to_host(target, from, range.len()) });
    }
    let stage = stages.take(lane)?;
    staged::to_host(lane, &stage, from, range.len(), |at, chunk| memory.write_at(range.start + at, chunk))
}

/// Copies between memories that the GPU reaches, and waits.
pub(super) fn within(lane: &Lane, from: CUdeviceptr, to: CUdeviceptr, bytes: u64) -> Result<(), CudaError> {
    lane.enter()?;
    let bytes = usize::try_from(bytes).map_err(|_| CudaError::Refused(format!("{bytes} bytes are too many to copy")))?;
    // SAFETY: both ends have these bytes, as was checked, and stay until it has waited.
    let started = unsafe { result::memcpy_dtod_async(to, from, bytes, lane.stream.cu_stream()) };
    waited(lane, lane.shared.check("copy within the GPU", started))
}

/// A stage for a copy from or to memory that is not pinned. `None` where it is small, or there is no pinned memory: the driver copies such memory as well, only slower.
fn staged_from(lane: &Lane, bytes: usize, stages: &Arc<Stages>) -> Result<Option<Stage>, CudaError> {
    if bytes <= SMALL {
        return Ok(None);
    }
    match stages.take(lane) {
        Ok(stage) => Ok(Some(stage)),
        Err(error) if error.is_lost() => Err(error),
        Err(error) => {
            tracing::warn!(%error, "a copy is slow");
            Ok(None)
        }
    }
}

/// The end of a copy. It is waited for even if it was refused: nobody knows then what of it goes on.
fn waited(lane: &Lane, started: Result<(), CudaError>) -> Result<(), CudaError> {
    let waited = lane.wait();
    started.and(waited)
}
