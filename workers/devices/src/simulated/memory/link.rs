//! Links, and copies on their way over them.

use std::time::Duration;

use tokio::{
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::Instant,
};

use super::{
    super::{LinkSpeed, Sleeper, state::Shared},
    faults::{Fate, Over},
};
use crate::MemoryError;

/// Longer than any test or user waits: what a copy takes over a link so slow that its time is no number.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);
/// To copy so many bytes on a thread of the async runtime does not hold up what else runs there: some 20 µs.
const COPIED_AT_ONCE_MAX: usize = 256 << 10;

/// One direction of a link, or a GPU's own copying. It carries one copy at a time, in the order in which they come.
///
/// What is locked is when the last copy that began is over. It counts to the nanosecond, although the timers by which copies wait are coarser: so many small copies take as long as the link needs, and not as
/// many ticks of a timer.
#[derive(Debug)]
pub(super) struct Link(Mutex<Instant>);

impl Link {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

/// A GPU at one end of a copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) gpu: &'a Shared,
    pub(super) over: Over<'a>,
}

/// A copy on its way.
pub(super) struct Transit<'a> {
    pub(super) operation: &'static str,
    pub(super) link: &'a Link,
    pub(super) speed: LinkSpeed,
    pub(super) sleeper: Sleeper,
    /// Both the same where the host is the other end, or where the copy stays within the GPU.
    pub(super) ends: [End<'a>; 2],
}

impl Transit<'_> {
    /// Waits for the link and then for as long as so many bytes take. Meanwhile `work` does what is to be done to the bytes themselves, of which it touches `touched`; what it makes has arrived when this is
    /// over. Dropping it frees the link for the next copy when this one would have been over.
    pub(super) async fn carry<T: Send + 'static>(
        &self,
        bytes: u64,
        touched: usize,
        work: impl FnOnce(Fate) -> T + Send + 'static,
    ) -> Result<T, MemoryError> {
        let asked_at = Instant::now();
        let mut free_at = self.link.0.lock().await;
        let start = self.until(asked_at.max(*free_at)).await?;
        let fate = self.ends.iter().map(|end| end.gpu.lock().copies.next_fate()).find(|fate| *fate != Fate::Arrives);
        let fate = fate.unwrap_or(Fate::Arrives);
        let end = start + self.duration(bytes);
        *free_at = end;
        let arrived = self.worked(touched, move || work(fate)).await?;
        let over = self.until(end).await;
        *free_at = over.as_ref().copied().unwrap_or_else(|_| Instant::now());
        over?;
        if fate == Fate::Fails { Err(self.failed("the copy went wrong".to_owned())) } else { Ok(arrived) }
    }

    /// Waits until then, and for as long as an end is stalled. Gives when it was over: then, or when the stall was.
    async fn until(&self, then: Instant) -> Result<Instant, MemoryError> {
        loop {
            let mut changes = self.ends.map(|end| end.gpu.copies_change());
            self.check()?;
            let over_at = self.ends.iter().fold(then, |over_at, end| end.gpu.lock().copies.over_at(over_at));
            if self.is_stalled() {
                changed(&mut changes).await;
            } else if over_at <= Instant::now() {
                return Ok(over_at);
            } else {
                tokio::select! {
                    biased;
                    () = changed(&mut changes) => {}
                    () = self.sleeper.sleep_until(over_at) => {}
                }
            }
        }
    }

    fn check(&self) -> Result<(), MemoryError> {
        for end in &self.ends {
            let state = end.gpu.lock();
            if state.lost {
                return Err(self.failed("the GPU is lost".to_owned()));
            }
            if state.copies.cuts(end.over) {
                let what = match end.over {
                    Over::PeerLink(other) => format!("the link to GPU {other} is down"),
                    Over::Nothing | Over::HostLink => "the link to the host is down".to_owned(),
                };
                return Err(self.failed(what));
            }
        }
        Ok(())
    }

    fn is_stalled(&self) -> bool {
        self.ends.iter().any(|end| end.gpu.lock().copies.are_stalled())
    }

    fn duration(&self, bytes: u64) -> Duration {
        let slowness = self.ends.iter().map(|end| match end.over {
            Over::Nothing => 1.0,
            Over::HostLink | Over::PeerLink(_) => end.gpu.lock().copies.slowness,
        });
        let slowness = slowness.fold(f64::MIN_POSITIVE, f64::max);
        let seconds = (bytes as f64 / self.speed.bytes_per_second + self.speed.latency.as_secs_f64()) * slowness;
        Duration::try_from_secs_f64(seconds).unwrap_or(FOR_EVER).min(FOR_EVER)
    }

    /// Does work that touches so many bytes. Under a clock that may be paused it is done at once: another thread's end would come at any point of that clock's time.
    async fn worked<T: Send + 'static>(&self, touched: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, MemoryError> {
        if self.sleeper == Sleeper::Coarse || touched <= COPIED_AT_ONCE_MAX {
            return Ok(work());
        }
        spawn_blocking(work).await.map_err(|error| self.failed(error.to_string()))
    }

    const fn failed(&self, reason: String) -> MemoryError {
        MemoryError::Failed { operation: self.operation, reason }
    }
}

/// Waits until something happens to copies at one of two ends.
async fn changed([here, there]: &mut [watch::Receiver<()>; 2]) {
    // The senders live as long as the GPUs' states, which the copy holds.
    tokio::select! {
        biased;
        _ = here.changed() => {}
        _ = there.changed() => {}
    }
}
