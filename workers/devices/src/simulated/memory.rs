//! The memory of a simulated GPU for data that stays: real bytes, and links that take their time.
//!
//! A copy waits for its link, then for as long as its bytes take over it. What it reads is there when it begins, what it writes is there when it ends; one that fails, or whose future is dropped, writes nothing
//! (but [`read_to`](DeviceMemory::read_to) may have).

mod faults;
mod link;
mod written;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{Checksum, GpuId};

use self::{
    faults::{Fate, Over},
    link::{End, Link, Transit},
    written::Written,
};
use super::{LinkSpeed, SimulatedOptions, Sleeper, state::Shared};
use crate::{DeviceBuffer, DeviceMemory, HostBytes, MemoryError, PeerHandle, SharedPart};

pub(super) use self::faults::CopyFaults;

/// How fast a GPU copies within its own memory.
const WITHIN: LinkSpeed = LinkSpeed { bytes_per_second: 1e12, latency: Duration::ZERO };
/// Bytes that are summed in one go: a multiple of eight.
const SUMMED_AT_ONCE: usize = 1 << 20;

/// The memory of one simulated GPU.
#[derive(Debug)]
pub(super) struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gpu_id: GpuId,
    sleeper: Sleeper,
    state: Shared,
    host_speed: LinkSpeed,
    peer_speed: Option<LinkSpeed>,
    from_host: Link,
    to_host: Link,
    within: Link,
    /// The directions to this GPU of its links to others, made when they are used first; each copy is of the GPU that it goes to.
    from_peers: Mutex<BTreeMap<GpuId, Arc<Link>>>,
}

/// What a buffer of a simulated GPU is.
#[derive(Debug)]
struct Held {
    of: Arc<Inner>,
    bytes: u64,
    written: Mutex<Written>,
}

impl Held {
    /// Held while pieces are put in order, never while bytes are copied.
    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, at: u64, bytes: u64) -> Written {
        self.written().part(at..at + bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.state.lock().give_back_bytes(self.bytes);
    }
}

impl Memory {
    pub(super) fn new(options: &SimulatedOptions, state: Shared) -> Self {
        Self(Arc::new(Inner {
            gpu_id: options.gpu_id.clone(),
            sleeper: options.sleeper,
            state,
            host_speed: options.host_link,
            peer_speed: options.peer_link,
            from_host: Link::new(),
            to_host: Link::new(),
            within: Link::new(),
            from_peers: Mutex::default(),
        }))
    }

    /// A part of a buffer of this GPU's.
    fn own<'a>(&self, operation: &'static str, buffer: &'a DeviceBuffer, at: u64, bytes: u64) -> Result<&'a Held, MemoryError> {
        let held = held_within(operation, buffer, at, bytes)?;
        held.filter(|held| Arc::ptr_eq(&held.of, &self.0)).ok_or_else(|| outside(operation, buffer, at, bytes))
    }

    fn over_host_link<'a>(&'a self, operation: &'static str, link: &'a Link) -> Transit<'a> {
        let end = End { gpu: &self.0.state, over: Over::HostLink };
        Transit { operation, link, speed: self.0.host_speed, sleeper: self.0.sleeper, ends: [end, end] }
    }

    fn within(&self, operation: &'static str) -> Transit<'_> {
        let end = End { gpu: &self.0.state, over: Over::Nothing };
        Transit { operation, link: &self.0.within, speed: WITHIN, sleeper: self.0.sleeper, ends: [end, end] }
    }

    /// The direction to this GPU of its link to another one.
    fn link_from(&self, other: &GpuId) -> Arc<Link> {
        let mut links = self.0.from_peers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry(other.clone()).or_insert_with(|| Arc::new(Link::new())))
    }

    /// How fast the link to another GPU is: as the slower of its ends.
    fn peer_speed(&self, operation: &'static str, other: &Inner) -> Result<LinkSpeed, MemoryError> {
        let speed_of = |gpu: &Inner| {
            let reason = || format!("GPU {} has no links to other GPUs", gpu.gpu_id);
            gpu.peer_speed.ok_or_else(|| MemoryError::Unsupported { operation, reason: reason() })
        };
        let (here, there) = (speed_of(&self.0)?, speed_of(other)?);
        Ok(LinkSpeed { bytes_per_second: here.bytes_per_second.min(there.bytes_per_second), latency: here.latency.max(there.latency) })
    }
}

#[async_trait]
impl DeviceMemory for Memory {
    async fn allocate(&self, bytes: u64) -> Result<DeviceBuffer, MemoryError> {
        let mut state = self.0.state.lock();
        if state.lost {
            return Err(MemoryError::Failed { operation: "allocate memory of the GPU", reason: "the GPU is lost".to_owned() });
        }
        state.take_bytes(bytes)?;
        drop(state);
        let held = Held { of: Arc::clone(&self.0), bytes, written: Mutex::default() };
        Ok(DeviceBuffer::new(self.0.gpu_id.clone(), bytes, Arc::new(held)))
    }

    async fn write(&self, to: &DeviceBuffer, at: u64, from: HostBytes) -> Result<(), MemoryError> {
        let (operation, bytes) = ("copy from the host to the GPU", from.len());
        let held = self.own(operation, to, at, bytes as u64)?;
        let touched = match &from {
            HostBytes::Own(_) => 0,
            HostBytes::Shared(part) => {
                check_shared(operation, part)?;
                bytes
            }
        };
        if bytes == 0 {
            return Ok(());
        }
        let transit = self.over_host_link(operation, &self.0.from_host);
        let arrived = transit.carry(bytes as u64, touched, move |fate| arrived(Written::of(taken(from)), fate)).await?;
        held.written().put_all(at, arrived);
        Ok(())
    }

    async fn read(&self, from: &DeviceBuffer, at: u64, bytes: usize) -> Result<Bytes, MemoryError> {
        let operation = "copy from the GPU to the host";
        let held = self.own(operation, from, at, bytes as u64)?;
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        let part = held.part(at, bytes as u64);
        let touched = if part.is_in_pieces(bytes) { bytes } else { 0 };
        let transit = self.over_host_link(operation, &self.0.to_host);
        transit.carry(bytes as u64, touched, move |fate| arrived(part, fate).joined(bytes)).await
    }

    async fn read_to(&self, from: &DeviceBuffer, at: u64, to: SharedPart) -> Result<(), MemoryError> {
        let (operation, bytes) = ("copy from the GPU to shared memory", to.range.len());
        let held = self.own(operation, from, at, bytes as u64)?;
        check_shared(operation, &to)?;
        if bytes == 0 {
            return Ok(());
        }
        let part = held.part(at, bytes as u64);
        let write = move |fate| {
            for (at, piece) in arrived(part, fate).pieces() {
                to.memory.write_at(to.range.start + at as usize, piece);
            }
        };
        self.over_host_link(operation, &self.0.to_host).carry(bytes as u64, bytes, write).await
    }

    async fn copy(&self, from: (&DeviceBuffer, u64), to: (&DeviceBuffer, u64), bytes: u64) -> Result<(), MemoryError> {
        let operation = "copy between GPUs";
        let target = self.own(operation, to.0, to.1, bytes)?;
        let source = held_within(operation, from.0, from.1, bytes)?.ok_or_else(|| MemoryError::Unsupported {
            operation,
            reason: format!("there is no way from GPU {} to the simulated GPU {}", from.0.gpu_id(), self.0.gpu_id),
        })?;
        let is_own = Arc::ptr_eq(&source.of, &self.0);
        let speed = if is_own { WITHIN } else { self.peer_speed(operation, &source.of)? };
        if bytes == 0 {
            return Ok(());
        }
        let part = source.part(from.1, bytes);
        let carried = move |fate| arrived(part, fate);
        let arrived = if is_own {
            self.within(operation).carry(bytes, 0, carried).await?
        } else {
            let link = self.link_from(&source.of.gpu_id);
            let here = End { gpu: &self.0.state, over: Over::PeerLink(&source.of.gpu_id) };
            let there = End { gpu: &source.of.state, over: Over::PeerLink(&self.0.gpu_id) };
            let transit = Transit { operation, link: &link, speed, sleeper: self.0.sleeper, ends: [here, there] };
            transit.carry(bytes, 0, carried).await?
        };
        target.written().put_all(to.1, arrived);
        Ok(())
    }

    async fn checksum(&self, of: &DeviceBuffer, part: Range<u64>) -> Result<Checksum, MemoryError> {
        let operation = "sum over the GPU's memory";
        let bytes = part.end.checked_sub(part.start).ok_or_else(|| outside(operation, of, part.start, 0))?;
        let held = self.own(operation, of, part.start, bytes)?;
        if !part.start.is_multiple_of(8) {
            let reason = format!("a part begins at a multiple of eight bytes, not at {}", part.start);
            return Err(MemoryError::Failed { operation, reason });
        }
        let written = held.part(part.start, bytes);
        let sum = move || sum(&written, part.start, bytes);
        if self.0.sleeper == Sleeper::Coarse || bytes <= SUMMED_AT_ONCE as u64 {
            return Ok(sum());
        }
        let summed = tokio::task::spawn_blocking(sum).await;
        summed.map_err(|error| MemoryError::Failed { operation, reason: error.to_string() })
    }

    fn export(&self, _buffer: &DeviceBuffer) -> Result<PeerHandle, MemoryError> {
        Err(of_one_process("give other processes a way to the memory"))
    }

    async fn open(&self, _handle: &PeerHandle, _gpu_id: &GpuId, _bytes: u64) -> Result<DeviceBuffer, MemoryError> {
        Err(of_one_process("open the memory of another process"))
    }

    fn resident_bytes(&self) -> u64 {
        self.0.state.lock().resident_bytes()
    }
}

/// What a buffer is, where a part lies within it. `None`: no simulated GPU made it.
fn held_within<'a>(operation: &'static str, buffer: &'a DeviceBuffer, at: u64, bytes: u64) -> Result<Option<&'a Held>, MemoryError> {
    match at.checked_add(bytes) {
        Some(end) if end <= buffer.len() => Ok(buffer.memory::<Held>()),
        _ => Err(outside(operation, buffer, at, bytes)),
    }
}

fn outside(operation: &'static str, buffer: &DeviceBuffer, at: u64, bytes: u64) -> MemoryError {
    MemoryError::Outside { operation, at, end: at.saturating_add(bytes), bytes: buffer.len(), gpu_id: buffer.gpu_id().clone() }
}

fn of_one_process(operation: &'static str) -> MemoryError {
    MemoryError::Unsupported { operation, reason: "a simulated GPU's memory is of one process".to_owned() }
}

fn check_shared(operation: &'static str, part: &SharedPart) -> Result<(), MemoryError> {
    if part.range.is_empty() || part.range.end <= part.memory.len() {
        return Ok(());
    }
    let reason = format!("bytes {} to {} of shared memory of {}", part.range.start, part.range.end, part.memory.len());
    Err(MemoryError::Failed { operation, reason })
}

/// The host's bytes, as they are now.
fn taken(from: HostBytes) -> Bytes {
    match from {
        HostBytes::Own(bytes) => bytes,
        HostBytes::Shared(part) => part.memory.copy_of(part.range.start, part.range.len()).into(),
    }
}

/// What arrives of what went off.
fn arrived(mut sent: Written, fate: Fate) -> Written {
    if fate == Fate::ArrivesCorrupted {
        sent.corrupt();
    }
    sent
}

fn sum(written: &Written, start: u64, bytes: u64) -> Checksum {
    (0..bytes).step_by(SUMMED_AT_ONCE).fold(Checksum::default(), |sum, at| {
        let length = (bytes - at).min(SUMMED_AT_ONCE as u64);
        sum.with(Checksum::of(&written.part(at..at + length).joined(length as usize), start + at))
    })
}

#[cfg(test)]
mod tests;
