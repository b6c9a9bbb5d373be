//! Bringing a tensor from another GPU: which copy, by which way, and again where that may help.
//!
//! ```text
//! each copy, the nearest first ─► each way that it has, the shortest first, but for those that are left out
//!     try ─► well: the way is remembered as good, with its bandwidth
//!      │  ─► transient: once more, then the way is left out for a while, and the next one is tried
//!      │  ─► not there any more: the next copy
//!      └  ─► stalled, unsupported: the way is left out, and the next one is tried
//! ```
//! What every way brings is compared, by the sum that the GPU itself has of it, with the sum that the source's GPU has: bytes that changed anywhere between are found, and never handed out.
//! Pieces are summed while others are copied; a source's sum over the whole, and that by which a copy was compared, stay with the tensor, whose bytes do not change.

mod failure;
mod local;
mod moving;
pub(crate) mod peer;
mod pieces;
mod shared_flight;
mod source;
pub(crate) mod staged;
mod stream;
#[cfg(test)]
mod tests;
mod ways;

use std::{sync::Arc, time::Duration};

use protocol::{IfExists, TensorPlace, TensorRecord, TransferWay};
use tokio::time::Instant;

pub use self::moving::{Moving, TellMoving};
use self::pieces::{Sums, in_time};
pub(crate) use self::{
    failure::TryFailure,
    moving::{SoFar, TELL_EVERY},
    pieces::pieces,
    shared_flight::Flights,
    ways::Ways,
};
use crate::{
    Arriving, DataError, Tensor, TensorAbout,
    plane::{Shared, here, trial::is_of_trial, within},
};

/// Before a way is tried again, in ms; up to twice as long.
const PAUSE_MS: u64 = 20;
/// How often a way is tried.
const TRIES: u32 = 2;
/// How many lines of what the tries came to an error tells.
const LINES_MAX: usize = 16;

/// Brings a tensor here from one of its copies. Dropped half-way, nothing of it remains.
async fn bring(shared: &Arc<Shared>, copies: &[TensorRecord], so_far: &SoFar) -> Result<Arc<Tensor>, DataError> {
    let record = &copies[0];
    // It may have come between the question for it and the beginning of this.
    let limit = shared.options.limits.for_bytes(record.bytes);
    if let Some(tensor) = within(limit, shared.store.get(&record.name, Some(record.version))).await? {
        return Ok(tensor);
    }
    shared.check_pool_for_copy(record).await?;
    let mut tries = Tries { shared, so_far, arriving: None, lines: Vec::new(), gone: 0 };
    match tokio::time::timeout(limit, tries.all(copies)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => return Err(tries.error(copies)),
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            tries.lines.push(format!("its time, {} ms, ran out", limit.as_millis()));
            return Err(tries.error(copies));
        }
    }
    let arriving = tries.arriving.take().expect("the way that brought it left its memory");
    Ok(arriving.finish()?)
}

fn about_of(record: &TensorRecord) -> TensorAbout {
    TensorAbout {
        name: record.name.clone(),
        version: record.version,
        shape: record.shape.clone(),
        owner: record.owner.clone(),
        made_ms: record.made_ms,
        ttl_ms: record.ttl_ms,
    }
}

/// What was tried for one transfer.
struct Tries<'a> {
    shared: &'a Arc<Shared>,
    /// Where what has come is counted.
    so_far: &'a SoFar,
    /// The memory that it is to fill. `None`: nothing was tried yet, or a try was given up that had written to it.
    arriving: Option<Arriving>,
    lines: Vec<String>,
    /// How many copies are not there any more.
    gone: usize,
}

/// What came of a way.
enum Came {
    Whole,
    NotThisWay,
    NotFromThere,
}

impl Tries<'_> {
    /// Whether it came.
    async fn all(&mut self, copies: &[TensorRecord]) -> Result<bool, DataError> {
        let copies = self.nearest_first(copies);
        let is_open = |(record, way): &(&TensorRecord, TransferWay)| self.shared.ways.left_out(&record.gpu_id, *way).is_none();
        let is_any_open =
            copies.iter().flat_map(|record| self.ways_of(record).into_iter().map(move |way| (*record, way))).any(|try_| is_open(&try_));
        for record in copies {
            for way in self.ways_of(record) {
                // Where all are left out, a bad way is better than none.
                if is_any_open && let Some(reason) = self.shared.ways.left_out(&record.gpu_id, way) {
                    self.note(record, way, &format!("left out for a while: {reason}"));
                    continue;
                }
                match self.by(record, way).await? {
                    Came::Whole => return Ok(true),
                    Came::NotThisWay => {}
                    Came::NotFromThere => {
                        self.gone += 1;
                        break;
                    }
                }
            }
        }
        Ok(false)
    }

    /// Those of this process first, then the neighbours', then the others; of these, those in a GPU's memory first. Among equal ones chance chooses, so that one copy does not serve all.
    fn nearest_first<'r>(&self, copies: &'r [TensorRecord]) -> Vec<&'r TensorRecord> {
        let random = &self.shared.environment.random;
        let mut sorted: Vec<_> = copies.iter().map(|record| (random.next_u64(), record)).collect();
        sorted.sort_by_key(|(chance, record)| {
            let way = self.ways_of(record).first().copied();
            (way.is_none(), way, record.place == TensorPlace::Host, *chance)
        });
        sorted.into_iter().map(|(_, record)| record).collect()
    }

    /// The ways that a copy has to this GPU, by what its record says.
    fn ways_of(&self, record: &TensorRecord) -> Vec<TransferWay> {
        let port = record.port.as_ref();
        let mut ways = if here::find(&record.incarnation, &record.gpu_id).is_some() {
            vec![TransferWay::Local, TransferWay::Staged]
        } else if port.is_some_and(|port| self.shared.is_neighbour(port)) {
            vec![TransferWay::Peer, TransferWay::Staged]
        } else {
            Vec::new()
        };
        if port.is_some_and(|port| port.address.is_some()) {
            ways.push(TransferWay::Stream);
        }
        ways
    }

    async fn by(&mut self, record: &TensorRecord, way: TransferWay) -> Result<Came, DataError> {
        let ways = &self.shared.ways;
        for is_last in (1..=TRIES).map(|number| number == TRIES) {
            let started = Instant::now();
            let mut arriving = self.memory_for(record).await?;
            self.so_far.begins(&record.gpu_id);
            let failure = match self.carry(record, way, &arriving).await.and_then(Sums::agreed) {
                Ok(sums) => {
                    arriving.keep_sum(sums.sent);
                    self.arriving = Some(arriving);
                    let took = started.elapsed();
                    ways.carried(&record.gpu_id, way, record.bytes, took);
                    if !is_of_trial(&record.name) {
                        self.shared.metrics.carried(way, record.bytes, took);
                    }
                    return Ok(Came::Whole);
                }
                Err(failure) => failure,
            };
            // Nothing has been written where there was no way.
            if matches!(failure, TryFailure::Unsupported(_)) {
                self.arriving = Some(arriving);
            }
            self.shared.metrics.failed(way, failure.word());
            self.tell(record, way, &failure);
            self.note(record, way, &failure.to_string());
            match failure {
                TryFailure::Gone => return Ok(Came::NotFromThere),
                TryFailure::Target(error) => return Err(error.into()),
                failure if failure.is_transient() && !is_last => self.pause().await,
                TryFailure::Unsupported(reason) => {
                    ways.unsupported(&record.gpu_id, way, reason);
                    break;
                }
                failure => {
                    ways.failed(&record.gpu_id, way, failure.to_string());
                    break;
                }
            }
        }
        Ok(Came::NotThisWay)
    }

    /// Memory for one try, of what the record of this copy says. A copy of a try that was given up may still be on its way, and write to the memory that it was to fill: the next one has memory of its own.
    async fn memory_for(&mut self, record: &TensorRecord) -> Result<Arriving, DataError> {
        if let Some(arriving) = self.arriving.take().filter(|arriving| *arriving.about() == about_of(record)) {
            return Ok(arriving);
        }
        let limit = self.shared.options.limits.for_bytes(record.bytes);
        let (store, about) = (&self.shared.store, about_of(record));
        let arriving = if is_of_trial(&record.name) {
            within(limit, store.begin_beside(about)).await?
        } else {
            within(limit, store.begin(about, IfExists::Replace)).await?
        };
        Ok(arriving.counted_in(self.so_far.came()))
    }

    /// Brings it by a way, and gives the sums over all of it on both sides.
    async fn carry(&self, record: &TensorRecord, way: TransferWay, arriving: &Arriving) -> Result<Sums, TryFailure> {
        let shared = self.shared;
        match way {
            TransferWay::Local => local::carry(shared, record, arriving).await,
            TransferWay::Peer => peer::carry(shared, record, arriving).await,
            TransferWay::Staged if here::find(&record.incarnation, &record.gpu_id).is_some() => {
                staged::carry_here(shared, record, arriving).await
            }
            TransferWay::Staged => staged::carry(shared, record, arriving).await,
            TransferWay::Stream => stream::carry(shared, record, arriving).await,
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(PAUSE_MS).mul_f64(1.0 + self.shared.environment.random.unit())).await;
    }

    fn tell(&self, record: &TensorRecord, way: TransferWay, failure: &TryFailure) {
        let (tensor, from, to, way) = (&record.name, &record.gpu_id, &self.shared.gpu_id, way.name());
        match failure {
            // A pair without this way, and a copy that went meanwhile, are nothing out of the ordinary.
            TryFailure::Unsupported(_) | TryFailure::Gone => {
                tracing::debug!(%tensor, %from, %to, way, %failure, "a transfer takes another way")
            }
            _ => tracing::warn!(%tensor, %from, %to, way, %failure, "a try to bring a tensor failed"),
        }
    }

    fn note(&mut self, record: &TensorRecord, way: TransferWay, what: &str) {
        if self.lines.len() < LINES_MAX {
            self.lines.push(format!("from {} ({}): {what}", record.gpu_id, way.name()));
        }
    }

    fn error(self, copies: &[TensorRecord]) -> DataError {
        let record = &copies[0];
        let name = record.name.clone();
        if self.gone == copies.len() {
            return DataError::Missing { name, version: Some(record.version) };
        }
        let reason = if self.lines.is_empty() {
            "no copy can be reached from this process; set data.listen at the workers that have one".to_owned()
        } else {
            self.lines.join("\n")
        };
        DataError::Transfer { name, to: self.shared.gpu_id.clone(), reason }
    }
}
