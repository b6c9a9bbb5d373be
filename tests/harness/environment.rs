//! A deterministic environment: the clock is tokio's (which a test may pause), randomness is seeded, jobs run on the test's runtime.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use protocol::{
    Environment,
    environment::{Clock, Job, Random, Spawn},
};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{task::AbortHandle, time::Instant};

/// 2026-01-01T00:00:00Z, in microseconds.
const START_US: u64 = 1_767_225_600_000_000;

/// An environment whose every answer follows from `seed` and from tokio's clock. Needs a running tokio runtime.
#[must_use]
pub fn seeded(seed: u64) -> Environment {
    Environment {
        clock: Arc::new(TokioClock { started: Instant::now() }),
        random: Arc::new(SeededRandom(Mutex::new(ChaCha8Rng::seed_from_u64(seed)))),
        spawner: Arc::new(RuntimeSpawner),
        traces: None,
    }
}

/// A seed that each test has for itself, and at every run: the workers of a process's fleets are told apart by the random names that they take at their start, as those of the world are.
#[must_use]
pub fn seed_of_test() -> u64 {
    let mut hasher = DefaultHasher::new();
    thread::current().name().hash(&mut hasher);
    hasher.finish()
}

struct TokioClock {
    started: Instant,
}

impl Clock for TokioClock {
    fn now_us(&self) -> u64 {
        START_US + u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX / 2)
    }
}

struct SeededRandom(Mutex<ChaCha8Rng>);

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}

/// Ends everything that one process of a test has started, as `kill -9` does: each job ends where it stands and does nothing more.
#[derive(Clone, Default)]
pub struct Lifeline(Arc<Mutex<Vec<AbortHandle>>>);

impl Lifeline {
    /// The same environment, but what is spawned through it hangs on this lifeline.
    #[must_use]
    pub fn hold(&self, environment: &Environment) -> Environment {
        Environment { spawner: Arc::new(HeldSpawner(self.clone())), ..environment.clone() }
    }

    /// Adds a job that was spawned otherwise.
    pub fn add(&self, job: AbortHandle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(job);
    }

    /// Cuts it.
    pub fn cut(&self) {
        for job in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            job.abort();
        }
    }
}

struct HeldSpawner(Lifeline);

impl Spawn for HeldSpawner {
    fn spawn(&self, _name: &'static str, job: Job) {
        let mut jobs = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() % 64 == 63 {
            jobs.retain(|job| !job.is_finished());
        }
        jobs.push(tokio::spawn(job).abort_handle());
    }
}

struct RuntimeSpawner;

impl Spawn for RuntimeSpawner {
    fn spawn(&self, _name: &'static str, job: Job) {
        tokio::spawn(job);
    }
}
