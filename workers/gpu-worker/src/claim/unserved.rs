//! Tasks that no living GPU of the pool can run: nobody serves their kind, or nobody has what they need. They wait for a bounded time, in rests that grow longer, and then fail.
//!
//! A task that waits for a tensor which no living GPU has waits in the same way, and fails as `tensor_missing`.
//!
//! A task that a living GPU could run which takes none right now, or has its kind down, is none of these: it waits as long as its deadlines allow. Nor is anything decided while the table is not steady: GPUs may live
//! that it has forgotten. What is found is told to the table for people (`gpufleet unserved`), by a job that lives while there is something to tell.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gpu_table::{Lack, PoolView, Sighting, UNSERVED_MAX, Wanted};
use protocol::{ClaimRequest, ErrorCode, Task, TaskError, Unserved};
use task_queue::Queue;
use tokio::time::Instant;

use crate::{
    date::date,
    me::{Me, Signals},
    metrics::GpuMetrics,
    ports::{Ports, millis},
};

/// The rests of a task that has waited for at least as long, each a retry queue's delay, longest first. Before, it rests as any task that fits nowhere.
const LONGER_RESTS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(15)];
/// Between two looks at whether what tasks asked for is served by now, and between two tellings.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// After so long without a task that asks for it, it is no longer unserved: three of the longest rests.
const OVER_AFTER: Duration = Duration::from_secs(180);

/// What becomes of a task that the table places nowhere.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It waits apart.
    Rests(Rest),
    /// It was waited for long enough.
    Fails(TaskError),
}

/// How a task waits apart.
#[derive(Debug)]
pub(crate) struct Rest {
    /// In which queue.
    pub(crate) queue: Queue,
    /// Since when nobody serves it, in Unix milliseconds; `None` where somebody does.
    pub(crate) since_ms: Option<u64>,
    /// What it waits for, for people.
    pub(crate) reason: String,
    /// Whether no living GPU could ever run it.
    pub(crate) is_unserved: bool,
}

impl Rest {
    /// The shortest one.
    pub(crate) const fn short(since_ms: Option<u64>, reason: String) -> Self {
        Self { queue: Queue::Unplaceable, since_ms, reason, is_unserved: false }
    }
}

/// A wait that is bounded.
struct Wait {
    since_ms: u64,
    waited: Duration,
    /// Until it is given up.
    left: Duration,
    /// Its end: that, or the task's deadline.
    end_ms: u64,
    until_end: Duration,
}

impl Wait {
    /// The next rest of it; `waited_for` says what for.
    fn rest(&self, waited_for: &str) -> Rest {
        let reason = format!("{waited_for} since {}, until {}", date(self.since_ms), date(self.end_ms));
        Rest { queue: rest(self.waited, self.until_end), since_ms: Some(self.since_ms), reason, is_unserved: false }
    }
}

/// What tasks ask for that nobody serves, as this worker has found it.
pub(crate) struct UnservedTasks {
    ports: Ports,
    me: Arc<Me>,
    signals: Arc<Signals>,
    metrics: Arc<GpuMetrics>,
    view: PoolView,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By what is asked for; at most [`UNSERVED_MAX`]. More of it is treated alike, and not told.
    found: BTreeMap<String, Found>,
    /// Whether the job lives that looks after them.
    is_watched: bool,
}

/// One thing that tasks ask for and nobody serves.
struct Found {
    wanted: Wanted,
    lack: Lack,
    since: Instant,
    last: Instant,
    /// How often it was found since the table was told.
    untold: u64,
}

impl Found {
    fn new(wanted: Wanted, lack: Lack, now: Instant) -> Self {
        Self { wanted, lack, since: now, last: now, untold: 0 }
    }

    fn told(&mut self) -> Sighting {
        Sighting {
            wanted: self.wanted.to_string(),
            kind: self.wanted.kind.clone(),
            reason: self.lack.what.clone(),
            served: self.lack.served.iter().take(Unserved::SERVED_MAX).cloned().collect(),
            times: std::mem::take(&mut self.untold),
        }
    }
}

impl UnservedTasks {
    pub(crate) fn new(ports: Ports, me: Arc<Me>, signals: Arc<Signals>, metrics: Arc<GpuMetrics>) -> Arc<Self> {
        let view = PoolView::new(Arc::clone(&ports.table), me.options.pool.clone());
        Arc::new(Self { ports, me, signals, metrics, view, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share of a GPU's memory that tasks may use.
    fn memory_threshold(&self) -> f64 {
        self.signals.settings.borrow().memory_threshold
    }

    /// What becomes of a task of which the table says that nothing fits. `since_ms`: since when nobody serves it, as far as is known already.
    pub(crate) async fn judge(self: &Arc<Self>, task: &Task, request: &ClaimRequest, since_ms: Option<u64>) -> Fate {
        let (wanted, lease) = (Wanted::of(request), self.me.options.lease);
        let Some(living) = self.view.living().await else {
            return Fate::Rests(Rest::short(since_ms, format!("no living GPU fits, as the table said before it fell silent: {wanted}")));
        };
        let Some(lack) = living.lack(&wanted, self.memory_threshold()) else {
            let why = living.down(&wanted, self.memory_threshold());
            let why = why.unwrap_or_else(|| format!("no GPU that fits takes tasks now: {wanted}"));
            return Fate::Rests(Rest::short(None, why));
        };
        if living.steady() < lease {
            return Fate::Rests(Rest::short(since_ms, format!("no living GPU fits that the table knows of yet: {wanted}")));
        }
        self.metrics.unserved_rounds.inc();
        let found_for = self.found(wanted, &lack);
        let wait = self.wait(task, since_ms);
        // A table that fell back a little has old rows, which lapse before their workers' next heartbeat: a kind is gone for certain once it was missing for longer.
        if wait.left.is_zero() && wait.waited.max(found_for) >= lease / 2 {
            return Fate::Fails(self.given_up(task, &lack, wait.waited));
        }
        Fate::Rests(Rest { is_unserved: true, ..wait.rest(&format!("{lack}; a GPU that can run it is waited for")) })
    }

    /// What becomes of a task that is to wait for a tensor which a steady table says is nowhere. `since_ms`: since when it waits, as far as is known already.
    pub(crate) fn judge_missing(&self, task: &Task, missing: TaskError, since_ms: Option<u64>) -> Fate {
        let wait = self.wait(task, since_ms);
        if !wait.left.is_zero() {
            return Fate::Rests(wait.rest(&format!("{}; it is waited for", missing.message)));
        }
        let (waited_s, wait_ms) = (wait.waited.as_secs(), millis(self.me.options.unserved_wait));
        let message = format!(
            "{}; the task waited {waited_s} s for it (worker.unserved_wait_ms is {wait_ms}): submit the task that makes it, or put it",
            missing.message
        );
        Fate::Fails(TaskError { message, ..missing })
    }

    /// How long the task has waited by now, and may wait yet.
    fn wait(&self, task: &Task, since_ms: Option<u64>) -> Wait {
        let now_ms = self.ports.now_ms();
        let since_ms = since_ms.map_or(now_ms, |since_ms| since_ms.min(now_ms));
        let waited = Duration::from_millis(now_ms - since_ms);
        let left = self.me.options.unserved_wait.saturating_sub(waited);
        let end_ms = now_ms.saturating_add(millis(left)).min(task.start_before_ms.unwrap_or(u64::MAX));
        Wait { since_ms, waited, left, end_ms, until_end: Duration::from_millis(end_ms.saturating_sub(now_ms)) }
    }

    fn given_up(&self, task: &Task, lack: &Lack, waited: Duration) -> TaskError {
        let (waited_s, wait_ms) = (waited.as_secs(), millis(self.me.options.unserved_wait));
        let message = format!(
            "{lack}; the task waited {waited_s} s for a GPU that can run it (worker.unserved_wait_ms is {wait_ms}): start a worker for it, or change what the task asks for"
        );
        let error = TaskError::new(ErrorCode::Unserved, message);
        match lack.field {
            // The AMQP property.
            "kind" => error.at("type"),
            // An earlier attempt found what it needs, and no producer asked for it.
            "needs.memory_mb" if task.body.needs.memory_mb.is_none() => error,
            field => error.at(field),
        }
    }

    /// Takes note of a task that asks for this. For how long this worker has found such tasks.
    fn found(self: &Arc<Self>, wanted: Wanted, lack: &Lack) -> Duration {
        let (text, now) = (wanted.to_string(), Instant::now());
        let mut state = self.state();
        let is_new = !state.found.contains_key(&text);
        if is_new && state.found.len() >= UNSERVED_MAX {
            return Duration::ZERO;
        }
        let found = state.found.entry(text.clone()).or_insert_with(|| Found::new(wanted, lack.clone(), now));
        found.lack.clone_from(lack);
        found.last = now;
        found.untold += 1;
        let found_for = now.saturating_duration_since(found.since);
        if is_new {
            // Before anybody can find that it is over: an end that comes first ends nothing.
            self.metrics.unserved.begins(&self.me.options.pool, &text, &lack.to_string());
        }
        let is_watched = std::mem::replace(&mut state.is_watched, true);
        drop(state);
        if !is_watched {
            self.ports.environment.spawn("watch of unserved tasks", Arc::clone(self).watch());
        }
        found_for
    }

    /// Tells the table what was found, and looks whether it is over, until all of it is or the worker stops.
    async fn watch(self: Arc<Self>) {
        loop {
            self.tell().await;
            if self.ports.pause(LOOK_EVERY).await.is_err() || !self.look_again().await {
                return;
            }
        }
    }

    async fn tell(&self) {
        for sighting in self.untold() {
            if let Err(error) = self.ports.table.note_unserved(&self.me.options.pool, &sighting).await {
                tracing::debug!(wanted = sighting.wanted, %error, "the table was not told that it is unserved");
                return;
            }
        }
    }

    fn untold(&self) -> Vec<Sighting> {
        let mut state = self.state();
        let untold = state.found.values_mut().filter(|found| found.untold > 0).map(Found::told);
        untold.collect()
    }

    /// Ends what is served by now, and what no task asks for any more. Whether something is left.
    async fn look_again(&self) -> bool {
        let (living, memory_threshold) = (self.view.living().await, self.memory_threshold());
        let is_served = |found: &Found| living.as_ref().is_some_and(|living| living.serves(&found.wanted, memory_threshold));
        let (over, is_left) = self.take_over(is_served);
        let pool = &self.me.options.pool;
        for (wanted, is_served) in over {
            let why = if is_served { "a living GPU can run such tasks" } else { "no such task was found for three minutes" };
            self.metrics.unserved.ends(pool, &wanted, why);
            if is_served && let Err(error) = self.ports.table.forget_unserved(pool, &wanted).await {
                tracing::debug!(wanted, %error, "the table was not told that it is served; it forgets by itself");
            }
        }
        is_left
    }

    /// What is over, and whether it is because of being served; and whether something is left. Where nothing is, the job that asks ends.
    fn take_over(&self, is_served: impl Fn(&Found) -> bool) -> (Vec<(String, bool)>, bool) {
        let mut over = Vec::new();
        let mut state = self.state();
        state.found.retain(|wanted, found| {
            let is_served = is_served(found);
            let is_over = is_served || found.last.elapsed() >= OVER_AFTER;
            if is_over {
                over.push((wanted.clone(), is_served));
            }
            !is_over
        });
        state.is_watched = !state.found.is_empty();
        (over, state.is_watched)
    }
}

impl Drop for UnservedTasks {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for wanted in state.found.keys() {
            self.metrics.unserved.is_over(&self.me.options.pool, wanted);
        }
    }
}

/// Where a task rests that nobody has served for so long, and that may wait for so long yet.
fn rest(waited: Duration, left: Duration) -> Queue {
    // A look a little after the end saves several before it.
    let is_right = |rest: &Duration| *rest <= waited && rest.mul_f64(0.9) <= left;
    LONGER_RESTS.into_iter().find(is_right).map_or(Queue::Unplaceable, Queue::Retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rested(waited_s: u64, left_s: u64) -> Queue {
        rest(Duration::from_secs(waited_s), Duration::from_secs(left_s))
    }

    #[test]
    fn rests_grow_with_the_wait_and_end_with_it() {
        let (short, medium, long) = (Queue::Unplaceable, Queue::retry_after(LONGER_RESTS[1]), Queue::retry_after(LONGER_RESTS[0]));
        let grown = [0, 14, 15, 59, 60, 86_400].map(|waited_s| rested(waited_s, 1_000_000));
        assert_eq!(grown, [&short, &short, &medium, &medium, &long, &long].map(Clone::clone));
        assert_eq!([60, 53, 14, 13, 0].map(|left_s| rested(86_400, left_s)), [&long, &medium, &medium, &short, &short].map(Clone::clone));
    }

    #[test]
    fn every_rest_is_the_delay_of_a_retry_queue() {
        for rest in LONGER_RESTS {
            assert_eq!(Queue::retry_after(rest), Queue::Retry(rest));
        }
    }
}
