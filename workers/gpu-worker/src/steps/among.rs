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
    /// When it was looked, and whether somebody does now.
    at: Option<Instant>,
    looks: bool,
    living: Option<Arc<Living>>,
    /// What was counted in it. Dropped with every look.
    counted: Vec<(Wanted, u32)>,
}

impl Seen {
    fn fitting(&mut self, request: &ClaimRequest, memory_threshold: f64) -> Option<u32> {
        if self.at.is_none_or(|at| at.elapsed() > STALE) {
            return None;
        }
        let is_the_same = |wanted: &Wanted| {
            wanted.kind == request.kind && wanted.needs == request.needs && wanted.specific_gpu_id == request.specific_gpu_id
        };
        if let Some((_, count)) = self.counted.iter().find(|(wanted, _)| is_the_same(wanted)) {
            return Some(*count);
        }
        let wanted = Wanted::of(request);
        let fitting = self.living.as_ref()?.rows().iter().filter(|row| wanted.fits(row, memory_threshold)).count();
        let count = u32::try_from(fitting).unwrap_or(u32::MAX);
        if self.counted.len() >= COUNTED_MAX {
            self.counted.remove(0);
        }
        self.counted.push((wanted, count));
        Some(count)
    }

    /// Whether it is time to look again. If so, whoever asked looks.
    fn is_to_be_looked_at(&mut self) -> bool {
        let is_old = self.at.is_none_or(|at| at.elapsed() > OLD);
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
        seen.at = Some(Instant::now());
        if let Some(living) = living {
            seen.living = Some(living);
            seen.counted.clear();
        }
    }
}
