//! Among how many GPUs a task's was chosen, as this worker last saw its pool.
//!
//! Nobody waits for the answer: what was seen last is counted, and where that is old the table is asked beside the task, for the next ones.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gpu_table::{Living, PoolView, Wanted};
use protocol::{ClaimRequest, Environment};
use tokio::time::Instant;

/// When what was seen is old: then the pool is looked at anew, if a task asks.
const OLD: Duration = Duration::from_secs(15);
/// When it tells nothing any more.
const STALE: Duration = Duration::from_secs(120);
/// Of how many different wishes the counts are kept.
const COUNTED_MAX: usize = 32;

/// How many GPUs fit what.
pub(crate) struct Among {
    view: PoolView,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// When it was looked last, and whether somebody does now.
    looked_at: Option<Instant>,
    looks: bool,
    /// What was seen, and when: a look at a table that does not answer sees nothing.
    living: Option<(Instant, Arc<Living>)>,
    /// What was counted in it. Dropped with everything that is seen.
    counted: Vec<(Wanted, u32)>,
}

impl Seen {
    fn fitting(&mut self, request: &ClaimRequest, memory_threshold: f64) -> Option<u32> {
        let (_, living) = self.living.as_ref().filter(|(at, _)| at.elapsed() <= STALE)?;
        let is_the_same = |wanted: &Wanted| {
            wanted.kind == request.kind && wanted.needs == request.needs && wanted.specific_gpu_id == request.specific_gpu_id
        };
        if let Some((_, count)) = self.counted.iter().find(|(wanted, _)| is_the_same(wanted)) {
            return Some(*count);
        }
        let wanted = Wanted::of(request);
        let fitting = living.rows().iter().filter(|row| wanted.fits(row, memory_threshold)).count();
        let count = u32::try_from(fitting).unwrap_or(u32::MAX);
        if self.counted.len() >= COUNTED_MAX {
            self.counted.remove(0);
        }
        self.counted.push((wanted, count));
        Some(count)
    }

    /// Whether it is time to look again. If so, whoever asked looks.
    fn is_to_be_looked_at(&mut self) -> bool {
        let is_old = self.looked_at.is_none_or(|at| at.elapsed() > OLD);
        is_old && !std::mem::replace(&mut self.looks, true)
    }
}

impl Among {
    pub(crate) fn new(view: PoolView) -> Arc<Self> {
        Arc::new(Self { view, seen: Mutex::default() })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many living GPUs of the pool fit the request, busy or not. `None`: the pool was not seen lately.
    pub(crate) fn fitting(self: &Arc<Self>, request: &ClaimRequest, memory_threshold: f64, environment: &Environment) -> Option<u32> {
        let (fitting, is_to_be_looked_at) = {
            let mut seen = self.seen();
            (seen.fitting(request, memory_threshold), seen.is_to_be_looked_at())
        };
        if is_to_be_looked_at {
            environment.spawn("look at the pool", Arc::clone(self).look());
        }
        fitting
    }

    async fn look(self: Arc<Self>) {
        let living = self.view.living().await;
        let mut seen = self.seen();
        seen.looks = false;
        // A table that does not answer is not asked again by the very next task.
        let now = Instant::now();
        seen.looked_at = Some(now);
        if let Some(living) = living {
            seen.living = Some((now, living));
            seen.counted.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use gpu_table::{Leases, MemoryTable};
    use protocol::{ClaimMode, GpuId, Holding, Incarnation, Kind, Needs, PoolName, TaskId, environment::Clock};

    use super::*;

    struct StandingClock;

    impl Clock for StandingClock {
        fn now_us(&self) -> u64 {
            0
        }
    }

    fn request() -> ClaimRequest {
        ClaimRequest {
            pool: PoolName::default(),
            task_id: TaskId::new("task").unwrap(),
            kind: Kind::new("echo").unwrap(),
            needs: Needs::default(),
            specific_gpu_id: None,
            strategy: None,
            asker: GpuId::new("gpu-0").unwrap(),
            incarnation: Incarnation::new("gpu-0.1").unwrap(),
            holding: Holding::default(),
            has_slot: true,
            mode: ClaimMode::Choose,
            data: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_long_ago_tells_nothing_though_it_was_looked_since_and_nothing_seen() {
        let leases = Leases { held: Duration::from_secs(6), offered: Duration::from_secs(1) };
        let table = MemoryTable::new(Arc::new(StandingClock), leases);
        let living = Arc::new(Living::look(&table, &PoolName::default()).await.unwrap());
        let mut seen = Seen { living: Some((Instant::now(), living)), ..Seen::default() };
        assert_eq!(seen.fitting(&request(), 0.9), Some(0));
        tokio::time::advance(STALE + Duration::from_secs(1)).await;
        seen.looked_at = Some(Instant::now());
        assert_eq!(seen.fitting(&request(), 0.9), None);
    }
}
