//! Copies in chunks through pinned memory: while the GPU copies one, the processor copies the next.
//!
//! Whatever happens, none of these returns before the GPU is through with the chunks: the next copy uses them.

use cudarc::driver::sys::CUdeviceptr;

use super::{
    super::{CudaError, Lane},
    pinned::{CHUNK, IN_FLIGHT, Stage},
};

/// Copies to the GPU. `fill` writes the bytes from a place on into a chunk.
pub(super) fn to_gpu(
    lane: &Lane,
    stage: &Stage,
    to: CUdeviceptr,
    bytes: usize,
    mut fill: impl FnMut(usize, &mut [u8]),
) -> Result<(), CudaError> {
    let copied = (0..bytes).step_by(CHUNK).enumerate().try_for_each(|(number, at)| {
        let (chunk, passed) = stage.chunk(number);
        let length = CHUNK.min(bytes - at);
        lane.wait_until(passed)?;
        // SAFETY: the chunk has so many bytes, and the GPU is through with its last use: the event has passed.
        fill(at, unsafe { std::slice::from_raw_parts_mut(chunk.start(), length) });
        // SAFETY: the chunk stays until this function has waited, and the target has these bytes: the caller checked.
        unsafe { lane.start_to_gpu(to + at as u64, chunk.start().cast(), length) }?;
        lane.passed(passed)
    });
    let waited = lane.wait();
    copied.and(waited)
}

/// Copies from the GPU. `take` is given the bytes from a place on.
pub(super) fn to_host(
    lane: &Lane,
    stage: &Stage,
    from: CUdeviceptr,
    bytes: usize,
    mut take: impl FnMut(usize, &[u8]),
) -> Result<(), CudaError> {
    let start = |number: usize| {
        let at = number * CHUNK;
        let (chunk, passed) = stage.chunk(number);
        // SAFETY: the chunk stays until this function has waited, what it held was taken, and the source has these bytes: the caller checked.
        unsafe { lane.start_to_host(chunk.start().cast(), from + at as u64, CHUNK.min(bytes - at)) }?;
        lane.passed(passed)
    };
    let chunks = bytes.div_ceil(CHUNK);
    let copied = (0..chunks.min(IN_FLIGHT)).try_for_each(&start).and_then(|()| {
        (0..chunks).try_for_each(|number| {
            let at = number * CHUNK;
            let (chunk, passed) = stage.chunk(number);
            lane.wait_until(passed)?;
            // SAFETY: the GPU has written so many bytes there: the event has passed.
            take(at, unsafe { std::slice::from_raw_parts(chunk.start(), CHUNK.min(bytes - at)) });
            if number + IN_FLIGHT < chunks { start(number + IN_FLIGHT) } else { Ok(()) }
        })
    });
    let waited = lane.wait();
    copied.and(waited)
}
