//! Memory that stays on the GPU between tasks: whether every byte arrives, whether the GPU sums as the processor does, and how fast copies are.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use devices::{Device, DeviceBuffer, DeviceMemory, HostBytes, MemoryError, SharedMemory, SharedPart};
use protocol::Checksum;

use crate::{
    Fault,
    bench::Bench,
    finding::{Checked, Finding},
    numbers::random,
};

/// Bytes of each copy: no whole number of words, nor of chunks.
const MANY: usize = (256 << 20) + 13;
const FEW: usize = (16 << 20) + 13;
/// How often each copy is made. The first one is not counted.
const ROUNDS: usize = 5;

/// GB/s of the fastest of some rounds.
async fn fastest<F: Future<Output = Result<(), MemoryError>> + Send>(bytes: usize, mut copy: impl FnMut() -> F) -> Result<f64, Fault> {
    copy().await?;
    let mut fastest = 0.0_f64;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        copy().await?;
        fastest = fastest.max(bytes as f64 / started.elapsed().as_secs_f64() / 1e9);
    }
    Ok(fastest)
}

/// Bytes that no other run has, and that differ from place to place.
pub fn fresh(bench: &Bench, bytes: usize) -> Bytes {
    let block: Vec<u8> = random(bench.seed, 11, 1 << 16).into_iter().flat_map(f64::to_le_bytes).collect();
    let mut data = block.repeat(bytes.div_ceil(block.len()));
    data.chunks_mut(block.len()).zip(0_u64..).for_each(|(block, number)| block[..8].copy_from_slice(&number.to_le_bytes()));
    data.truncate(bytes);
    data.into()
}

async fn arrived(memory: &dyn DeviceMemory, buffer: &DeviceBuffer, expected: &Bytes, how: &str) -> Result<(), Fault> {
    let sum = memory.checksum(buffer, 0..buffer.len()).await?;
    if sum != Checksum::of(expected, 0) {
        return Err(format!("{how}: the GPU's sum is {sum:?}, not {:?}", Checksum::of(expected, 0)).into());
    }
    if memory.read(buffer, 0, expected.len()).await? != *expected {
        return Err(format!("{how}: the bytes that came back are others, though the sums agree").into());
    }
    Ok(())
}

pub async fn copies(bench: &Bench) -> Finding {
    let gpu = bench.open().await?;
    let memory = gpu.memory().ok_or("no memory that stays")?;
    let bytes = bench.scale.of(MANY, FEW);
    let data = fresh(bench, bytes);
    let (one, other) = (memory.allocate(bytes as u64).await?, memory.allocate(bytes as u64).await?);
    let (one, other, whole) = (&one, &other, &data);
    let written = fastest(bytes, || memory.write(one, 0, HostBytes::Own(whole.clone()))).await?;
    arrived(memory, one, whole, "from the host").await?;
    let read = fastest(bytes, || async move { memory.read(one, 0, bytes).await.map(drop) }).await?;
    let copied = fastest(bytes, || memory.copy((one, 0), (other, 0), bytes as u64)).await?;
    arrived(memory, other, whole, "within the GPU").await?;
    let summed = fastest(bytes, || async move { memory.checksum(one, 0..bytes as u64).await.map(drop) }).await?;
    let shared = Arc::new(SharedMemory::allocate(bytes)?);
    let part = || SharedPart { memory: Arc::clone(&shared), range: 0..bytes };
    let to_shared = fastest(bytes, || memory.read_to(one, 0, part())).await?;
    let third = memory.allocate(bytes as u64).await?;
    let from_shared = fastest(bytes, || memory.write(&third, 0, HostBytes::Shared(part()))).await?;
    arrived(memory, &third, whole, "through shared memory").await?;
    let handle = memory.export(one).map_or_else(|refused| format!("none ({refused})"), |handle| format!("of {} bytes", handle.0.len()));
    Ok(Checked::Passed(format!(
        "{} MB each, GB/s: to the GPU {written:.1}, from it {read:.1}, from shared memory {from_shared:.1}, to it {to_shared:.1}, within {copied:.0}, summed {summed:.0}; a handle for other processes: {handle}",
        bytes / 1_000_000
    )))
}
