//! The yardstick of copies: cudarc's own, between the GPU and pinned memory, with nothing of the fleet.

use std::time::{Duration, Instant};

use crate::{Fault, bare::context};

/// Copies of each measurement.
pub const COPIES: usize = 20;

/// GB/s of copies to the GPU and from it.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    pub to_gpu: f64,
    pub from_gpu: f64,
}

/// GB/s of [`COPIES`] copies of so many bytes.
pub fn rate(bytes: usize, took: Duration) -> f64 {
    (bytes * COPIES) as f64 / 1e9 / took.as_secs_f64()
}

/// Those of a bare loop.
pub async fn rates(bytes: usize) -> Result<Rates, Fault> {
    tokio::task::spawn_blocking(move || rounds(bytes)).await?
}

#[expect(unsafe_code, reason = "pinned memory is not written when it is given")]
fn rounds(bytes: usize) -> Result<Rates, Fault> {
    let context = context()?;
    let stream = context.new_stream()?;
    // SAFETY: it is filled before anybody reads it.
    let mut host = unsafe { context.alloc_pinned_with_flags::<u8>(bytes, 0) }?;
    host.as_mut_slice()?.fill(0x5A);
    let mut gpu = stream.alloc_zeros::<u8>(bytes)?;
    // The first copy of each direction is not counted.
    stream.memcpy_htod(&host, &mut gpu)?;
    stream.synchronize()?;
    let started = Instant::now();
    for _ in 0..COPIES {
        stream.memcpy_htod(&host, &mut gpu)?;
        stream.synchronize()?;
    }
    let to_gpu = rate(bytes, started.elapsed());
    host.as_mut_slice()?.fill(0);
    stream.memcpy_dtoh(&gpu, &mut host)?;
    stream.synchronize()?;
    let started = Instant::now();
    for _ in 0..COPIES {
        stream.memcpy_dtoh(&gpu, &mut host)?;
        stream.synchronize()?;
    }
    let from_gpu = rate(bytes, started.elapsed());
    if host.as_mut_slice()?.iter().all(|byte| *byte == 0x5A) {
        Ok(Rates { to_gpu, from_gpu })
    } else {
        Err("the bare copies brought other bytes back".into())
    }
}
