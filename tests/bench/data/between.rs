//! A tensor from one process to another of the same machine: through shared memory (`staged`), and over loopback (`stream`), beside a plain copy of the same bytes through shared memory.
//!
//! The yardstick is what any two programs pay that share memory: the one copies all of its bytes in, tells the other, and that one copies them out into memory of its own, which is fresh, as a tensor's is. It checks
//! nothing; the fleet's ways sum up the bytes on both sides. The shared memory of the yardstick is mapped once, and so is warm.

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Duration,
};

use devices::SharedMemory;
use protocol::{TensorRecord, TensorRef, TransferWay};
use serde::Serialize;
use tokio::{task::spawn_blocking, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    MB,
    planes::{Planes, PlanesPlan, content},
    source::{Asked, BYTES, PLAN, Source},
};
use crate::{
    Fault,
    options::Pace,
    report::{Bound, PartReport},
    statistics::Spread,
};

const AIM: f64 = 0.8;

/// One round: GB/s of each.
#[derive(Debug, Serialize)]
pub(super) struct Between {
    round: usize,
    memcpy: f64,
    staged: f64,
    stream: f64,
}

pub(super) async fn measure(pace: Pace) -> Result<Vec<Between>, Fault> {
    let (mut source, planes) = (Source::start().await?, Planes::start(PlanesPlan { name: "target", ..PLAN }).await?);
    let memory = Arc::new(SharedMemory::allocate(BYTES)?);
    source.ask(&Asked::Attach { process: std::process::id(), descriptor: memory.as_fd().as_raw_fd() }).await?;
    let (staged, stream) = (by_socket(&source.record), by_address(&source.record));
    let mut samples = Vec::new();
    // The first round, which is left out, warms up, and finds that there is no way from GPU to GPU.
    for round in 0..=pace.rounds {
        let memcpy = gb_s(through_memory(&mut source, &memory).await?);
        let (staged, stream) = (gb_s(fetched(&planes, &staged).await?), gb_s(fetched(&planes, &stream).await?));
        samples.extend(Some(Between { round, memcpy, staged, stream }).filter(|sample| sample.round > 0));
    }
    were_used(&planes, [TransferWay::Staged, TransferWay::Stream])?;
    planes.stop().await;
    Ok(samples)
}

fn gb_s(took: Duration) -> f64 {
    BYTES as f64 / 1e9 / took.as_secs_f64()
}

/// The copy as a neighbour has it that no other host reaches.
fn by_socket(record: &TensorRecord) -> TensorRecord {
    let mut record = record.clone();
    record.port.iter_mut().for_each(|port| port.address = None);
    record
}

/// The copy as one of another host has it.
fn by_address(record: &TensorRecord) -> TensorRecord {
    let mut record = record.clone();
    record.port.iter_mut().for_each(|port| port.socket = None);
    record
}

async fn through_memory(source: &mut Source, memory: &Arc<SharedMemory>) -> Result<Duration, Fault> {
    let memory = Arc::clone(memory);
    let started = Instant::now();
    source.ask(&Asked::Fill).await?;
    let copied = spawn_blocking(move || {
        let mut bytes = vec![0; BYTES];
        memory.read_at(0, &mut bytes);
        bytes
    });
    let copied = copied.await?;
    let took = started.elapsed();
    if copied == content(BYTES) { Ok(took) } else { Err("the bytes in the shared memory are others".into()) }
}

async fn fetched(planes: &Planes, record: &TensorRecord) -> Result<Duration, Fault> {
    let (here, copies) = (planes.plane(0), std::slice::from_ref(record));
    let reference = TensorRef { tensor: record.name.clone(), version: Some(record.version) };
    let started = Instant::now();
    let tensor = here.fetch(&reference, copies, &CancellationToken::new()).await?;
    let took = started.elapsed();
    if here.read(&tensor, 0..BYTES as u64).await? != content(BYTES) {
        return Err("the bytes of a copy from another process are others".into());
    }
    drop(tensor);
    here.free(&reference).await?;
    Ok(took)
}

/// What was measured is what it is called.
fn were_used(planes: &Planes, wanted: [TransferWay; 2]) -> Result<(), Fault> {
    let known = planes.plane(0).state().ways;
    match wanted.into_iter().find(|wanted| !known.iter().any(|way| way.way == *wanted && way.gb_s.is_some())) {
        None => Ok(()),
        Some(way) => Err(format!("nothing went by {}: {known:?}", way.name()).into()),
    }
}

pub(super) fn report(part: &mut PartReport, samples: &[Between]) {
    let rate = |value: fn(&Between) -> f64| format!("{} GB/s", Spread::of(samples.iter().map(value)));
    let over = |value: fn(&Between) -> f64| Spread::of(samples.iter().map(|sample| value(sample) / sample.memcpy));
    part.row(format!("{} MB to another process: in and out of shared memory", BYTES / MB), rate(|sample| sample.memcpy));
    part.row("    staged, the bytes summed on both sides", rate(|sample| sample.staged));
    part.row("    stream over loopback, summed likewise", rate(|sample| sample.stream));
    let staged = over(|sample| sample.staged);
    part.ratio("to another process: bandwidth, staged / plain copies", staged);
    part.ratio("to another process: bandwidth, stream / plain copies", over(|sample| sample.stream));
    part.aim("to another process: bandwidth, staged / plain copies", staged.median, Bound::AtLeast(AIM));
}
