//! Payloads of many tasks in one run, for kinds whose executor takes several at once.
//!
//! A task that has begun keeps its slot, its limits, its cancel and its reports. It hands its payload (or each of its items) to the gatherer of its kind and waits for its own
//! answer. There is no loop that could break: whoever joins, and every run that ends, looks whether a run can start.
//!
//! ```text
//!  join ─► line: by priority, then by arrival ─► run: as many of the first as fit ─► answers
//!            │ leaves: cancelled, out of time          │ one leaves: its answer is dropped, the others go on
//!            ▼                                         ▼ all have left: the run is told to end
//! ```
//! While as many runs as may be are under way, payloads gather, and the next run starts the moment that one ends: where tasks wait, nothing waits for a timer. Otherwise a run
//! starts at once, or, where the kind's `batch.wait_ms` says so, when it is full, when the first has waited for so long, when no other task could come, or for a task that goes on
//! after its last run, as a batch does with its next items.
//!
//! Payloads that lack the memory together are cut in halves (`run.rs`) before a task is told so.

mod line;
mod run;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use devices::Device;
use executors::{Executor, Executors, Failure, Report, Usage};
use protocol::{Environment, Framed, Json, Kind, Task, config::BatchSection};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    line::{Line, Occasion, Place, Rule},
    run::UnderWay,
};
use crate::metrics::GpuMetrics;

/// What a payload came to.
pub(crate) type Answer = Result<Framed, Failed>;

/// How a payload failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Its failure.
    pub(crate) failure: Failure,
    /// The run failed as a whole, and another of its members stands for that: it is one failure of the GPU, not as many as it had members.
    pub(crate) beside: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, beside: false }
    }
}

/// A payload that is to run together with others.
pub(crate) struct Asked {
    pub(crate) task: Arc<Task>,
    pub(crate) payload: Json,
    /// Fires when its answer is not wanted any more.
    pub(crate) cancel: CancellationToken,
    pub(crate) report: Report,
    pub(crate) usage: Usage,
}

/// What gatherers need of their worker.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) environment: Environment,
    /// Runs count as lives: a worker that drains waits for them.
    pub(crate) lives: TaskTracker,
    pub(crate) metrics: Arc<GpuMetrics>,
    /// Whether another task could begin here while so many wait for a run.
    pub(crate) more_may_come: Arc<dyn Fn(usize) -> bool + Send + Sync>,
}

/// The gatherers of the kinds that take several payloads at once.
pub(crate) struct Gatherers(BTreeMap<Kind, Arc<Gatherer>>);

impl Gatherers {
    pub(crate) fn new(executors: &Executors, section: &BatchSection, surroundings: &Surroundings) -> Self {
        let of_kind = |(kind, executor): (&Kind, &Arc<dyn Executor>)| {
            let batching = executor.batching()?;
            let allowed = section.largest.get(kind).map_or(usize::MAX, |largest| *largest as usize);
            let rule = Rule {
                largest: batching.largest.min(allowed),
                size_max: batching.size_max.unwrap_or(u64::MAX),
                at_once: batching.at_once.max(1),
                wait: section.wait_ms.get(kind).map_or(batching.wait.unwrap_or_default(), |wait_ms| Duration::from_millis(*wait_ms)),
            };
            (rule.largest > 1).then(|| (kind.clone(), Gatherer::new(kind.clone(), Arc::clone(executor), rule, surroundings.clone())))
        };
        Self(executors.iter().filter_map(of_kind).collect())
    }

    /// `None`: each payload of this kind runs by itself.
    pub(crate) fn of(&self, kind: &Kind) -> Option<&Arc<Gatherer>> {
        self.0.get(kind)
    }
}

/// Gathers the payloads of one kind.
pub(crate) struct Gatherer {
    kind: Kind,
    executor: Arc<dyn Executor>,
    rule: Rule,
    surroundings: Surroundings,
    line: Mutex<Line>,
}

impl Gatherer {
    fn new(kind: Kind, executor: Arc<dyn Executor>, rule: Rule, surroundings: Surroundings) -> Arc<Self> {
        Arc::new(Self { kind, executor, rule, surroundings, line: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many payloads of one task are worth having here at once.
    pub(crate) fn width(&self) -> usize {
        self.rule.largest.saturating_mul(self.rule.at_once)
    }

    /// Whether the payload may run together with others. An executor that panics at the question runs it by itself, and fails it there.
    pub(crate) fn takes(&self, payload: &Json) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.executor.takes_part(payload))).unwrap_or(false)
    }

    fn size(&self, payload: &Json) -> Result<u64, Failure> {
        let sized = catch_unwind(AssertUnwindSafe(|| self.executor.size(payload)));
        sized.unwrap_or_else(|_| Err(Failure::transient("the executor panicked when it was asked for the payload's size")))
    }

    /// Takes a place in the line, now. The answer comes from [`Joined::answered`].
    pub(crate) fn join(self: &Arc<Self>, asked: Asked) -> Joined {
        let (answer, answered) = oneshot::channel();
        let (cancel, since) = (asked.cancel.clone(), Instant::now());
        let place = match self.size(&asked.payload) {
            Ok(size) => Some(self.lock().join(asked, size, since, answer)),
            Err(failure) => {
                // Its receiver is in hand.
                let _ = answer.send(Err(failure.into()));
                None
            }
        };
        Joined { gatherer: Arc::clone(self), place, answered, cancel, since }
    }

    /// Starts the runs that can start now.
    fn look(self: &Arc<Self>, occasion: Occasion) {
        loop {
            let more_may_come = |tasks| (self.surroundings.more_may_come)(tasks);
            let next = self.lock().next(&self.rule, occasion, Instant::now(), more_may_come);
            let Some(members) = next else { return };
            let under_way = UnderWay::new(Arc::clone(self), &members);
            let running = Arc::clone(self).run(members, under_way);
            self.surroundings.environment.spawn("run batch", self.surroundings.lives.track_future(running));
        }
    }
}

/// A place in the line, or in a run. Dropped, it is left.
pub(crate) struct Joined {
    gatherer: Arc<Gatherer>,
    /// `None`: it never stood in line.
    place: Option<Place>,
    answered: oneshot::Receiver<Answer>,
    cancel: CancellationToken,
    since: Instant,
}

impl Joined {
    /// Waits for the answer. Once the payload's cancel has fired it leaves: at once, or, as the last of its run, when that has ended or was dropped, so that its slot is not
    /// given away before the GPU is free.
    pub(crate) async fn answered(mut self) -> Answer {
        // What is about to join at this moment comes along.
        tokio::task::yield_now().await;
        self.gatherer.look(Occasion::Joined);
        let wait = self.gatherer.rule.wait;
        let mut waited = wait.is_zero();
        loop {
            tokio::select! {
                biased;
                answer = &mut self.answered => {
                    return answer.unwrap_or_else(|_| Err(Failure::transient("its run ended without an answer").into()));
                }
                () = self.cancel.cancelled() => return self.left().await,
                () = tokio::time::sleep_until(self.since + wait), if !waited => {
                    waited = true;
                    self.gatherer.look(Occasion::Joined);
                }
            }
        }
    }
}

impl Joined {
    async fn left(&mut self) -> Answer {
        let waited = self.place.is_some_and(|place| self.gatherer.lock().leave(place));
        if !waited {
            self.answered.close();
            // Its run drops the other side.
            let _ = (&mut self.answered).await;
        }
        Err(Failure::cancelled().into())
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.gatherer.lock().leave(place);
        }
    }
}
