//! Who a worker is, and what its parts tell each other.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protocol::{GpuId, GpuRow, Incarnation, claim::Settings};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{delivery::credits::LATELY, options::WorkerOptions};

/// Who a worker is.
#[derive(Debug)]
pub(crate) struct Me {
    pub(crate) gpu_id: GpuId,
    pub(crate) incarnation: Incarnation,
    pub(crate) options: WorkerOptions,
}

/// How fast the broker is right now.
#[derive(Debug)]
pub(crate) struct Pace {
    confirm_us: AtomicU64,
    fetch_us: AtomicU64,
    shortest: Duration,
    /// When a delivery last showed that tasks wait.
    tasks_waited: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(shortest: Duration) -> Self {
        Self { confirm_us: AtomicU64::new(0), fetch_us: AtomicU64::new(0), shortest, tasks_waited: Mutex::default() }
    }

    /// Takes note of how long a reply's confirm took.
    pub(crate) fn confirmed_after(&self, took: Duration) {
        smooth(&self.confirm_us, took);
    }

    /// Takes note of how long it took to take a message from a queue.
    pub(crate) fn fetched_after(&self, took: Duration) {
        smooth(&self.fetch_us, took);
    }

    /// How long it takes to take a message from a queue.
    pub(crate) fn fetch(&self) -> Duration {
        Duration::from_micros(self.fetch_us.load(Ordering::Relaxed))
    }

    /// Takes note that a delivery showed that tasks wait.
    pub(crate) fn tasks_waited(&self) {
        *self.tasks_waited.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long a slot that became free is kept: as long as a delivery for it may take to come.
    pub(crate) fn keep(&self) -> Duration {
        let within = self.tasks_waiting_within();
        let waited = *self.tasks_waited.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = within * LATELY;
        if waited.is_some_and(|at| at.elapsed() <= lately) { lately } else { within }
    }

    /// How soon after an ack a delivery means that tasks wait: the configured time, stretched while the broker is slow, since an ack and its delivery then take as long
    /// as a confirm does.
    pub(crate) fn tasks_waiting_within(&self) -> Duration {
        Duration::from_micros(self.confirm_us.load(Ordering::Relaxed) * 2).max(self.shortest)
    }
}

fn smooth(smoothed_us: &AtomicU64, took: Duration) {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(1_000_000);
    smoothed_us.store((smoothed_us.load(Ordering::Relaxed) * 7 + took_us) / 8, Ordering::Relaxed);
}

/// Counts up, and wakes who waits for that in the order in which they came (a watch channel would wake them in a random one, and no simulated fleet
/// would live the same life twice).
#[derive(Debug, Default)]
pub(crate) struct Beats {
    count: AtomicU64,
    counted: Notify,
}

impl Beats {
    pub(crate) fn now(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn count(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.counted.notify_waiters();
    }

    /// Waits until more than `seen` are counted.
    pub(crate) async fn above(&self, seen: u64) {
        loop {
            let counted = self.counted.notified();
            if self.now() > seen {
                return;
            }
            counted.await;
        }
    }
}

/// What the parts of a worker tell each other.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Whether both consumers are live.
    pub(crate) consuming: watch::Sender<bool>,
    /// Counts the heartbeats that the table took while this worker was consuming; 0 before the first.
    pub(crate) beats: Beats,
    /// The settings last seen.
    pub(crate) settings: watch::Sender<Settings>,
    /// Whether new tasks may come: it is healthy and does not drain, as far as the last heartbeat knew.
    pub(crate) taking: watch::Sender<bool>,
    /// Asks for a heartbeat now.
    pub(crate) nudge: Arc<Notify>,
    /// Asks the heartbeat to end: what the worker held is let go of.
    pub(crate) last_beat: CancellationToken,
    /// The heartbeat has ended.
    pub(crate) silent: CancellationToken,
    /// The row that the last heartbeat wrote.
    row: Mutex<Option<Arc<GpuRow>>>,
}

impl Signals {
    pub(crate) fn new(initial_settings: Settings) -> Self {
        Self {
            consuming: watch::Sender::new(false),
            beats: Beats::default(),
            settings: watch::Sender::new(initial_settings),
            taking: watch::Sender::new(true),
            nudge: Arc::default(),
            last_beat: CancellationToken::new(),
            silent: CancellationToken::new(),
            row: Mutex::default(),
        }
    }

    /// The row that the table has, if all went well; `None` before the first heartbeat.
    pub(crate) fn row(&self) -> Option<Arc<GpuRow>> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn row_was_written(&self, row: GpuRow) {
        *self.row.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(row));
    }

    /// Asks for a heartbeat, and waits until one that began after this call has been taken, for `longest` at most.
    pub(crate) async fn beat_now(&self, longest: Duration) {
        let seen = self.beats.now();
        self.nudge.notify_one();
        let _ = tokio::time::timeout(longest, self.beats.above(seen)).await;
    }
}
