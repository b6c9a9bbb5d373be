//! The fleet as a scrape sees it: what the observatory last made out. A scrape asks no server for it; what is not known has no series.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::{GaugeVec, IntCounter, IntGaugeVec, Opts, Registry};
use protocol::insight::{GpuCounts, Holdup, Overview};

use super::add;
use crate::observing::{Judgement, Observatory};

/// Every cause that a verdict may have. One that only a newer version knows shows in none.
const HOLDUPS: [Holdup; 15] = [
    Holdup::Nothing,
    Holdup::TooFewGpus,
    Holdup::NoGpus,
    Holdup::Memory,
    Holdup::ModelLoads,
    Holdup::OneKind,
    Holdup::Imbalance,
    Holdup::Transfers,
    Holdup::Handler,
    Holdup::Broker,
    Holdup::Redis,
    Holdup::Retries,
    Holdup::Starvation,
    Holdup::UnusableGpus,
    Holdup::Unserved,
];

/// Metrics of the whole pool, `gpufleet_…`. Several gateways show the same of it.
pub(crate) struct FleetMetrics {
    queue_depth: IntGaugeVec,
    oldest_waiting_seconds: GaugeVec,
    expected_wait_seconds: GaugeVec,
    gpus: IntGaugeVec,
    slots: IntGaugeVec,
    workers_up: IntGaugeVec,
    desired_workers: IntGaugeVec,
    server_up: IntGaugeVec,
    server_seconds: GaugeVec,
    holdup: IntGaugeVec,
    steps_lost_total: IntCounter,
    /// How many lost steps are in `steps_lost_total` already.
    steps_counted: Mutex<u64>,
}

impl FleetMetrics {
    /// Registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counts = |name: &str, help: &str, labels: &[&str]| add(registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let gauges = |name: &str, help: &str, labels: &[&str]| add(registry, GaugeVec::new(Opts::new(name, help), labels)?);
        let depth = "Tasks of the pool by state: ready (messages in its queue), waiting, running and retrying (as the journal says), dead (dead letters), parked (replies that nobody took).";
        let lost = "Steps of tasks that this process could not tell the journal: lists and figures may lack them.";
        Ok(Self {
            queue_depth: counts("gpufleet_queue_depth", depth, &["pool", "state"])?,
            oldest_waiting_seconds: gauges(
                "gpufleet_oldest_waiting_seconds",
                "Age of the oldest waiting task of a priority; 0 where none waits.",
                &["priority"],
            )?,
            expected_wait_seconds: gauges(
                "gpufleet_expected_wait_seconds",
                "When a task of a priority would begin that comes now, by the learnt run times.",
                &["priority"],
            )?,
            gpus: counts(
                "gpufleet_gpus",
                "Living GPUs by state: serving, draining, drained (safe to delete), blocked (over a threshold, or without the broker), quarantined.",
                &["state"],
            )?,
            slots: counts("gpufleet_slots", "Slots of living GPUs: held, free.", &["state"])?,
            workers_up: counts("gpufleet_workers_up", "Workers (GPUs) whose heartbeat is in the table.", &[])?,
            desired_workers: counts(
                "gpufleet_desired_workers",
                "Workers (GPUs) that would hold the objective of the wait, scaling.wait_objective_ms.",
                &[],
            )?,
            server_up: counts(
                "gpufleet_server_up",
                "Whether a server answered this gateway's last question: broker, store, table.",
                &["server"],
            )?,
            server_seconds: gauges(
                "gpufleet_server_seconds",
                "How long a server takes to answer this gateway, smoothed: broker, store, table.",
                &["server"],
            )?,
            holdup: counts("gpufleet_holdup", "What holds the fleet back: 1 for the main cause, 0 for the others.", &["cause"])?,
            steps_lost_total: add(registry, IntCounter::new("gpufleet_task_steps_lost_total", lost)?)?,
            steps_counted: Mutex::default(),
        })
    }

    /// Brings them up to date with what was last made out. Nobody else does, nor should anybody read them, until the guard is dropped: some have no series meanwhile.
    pub(super) fn follow(&self, observatory: &Observatory) -> MutexGuard<'_, u64> {
        let mut counted = self.steps_counted.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = observatory.steps_lost();
        self.steps_lost_total.inc_by(lost.saturating_sub(*counted));
        *counted = lost;
        if let Some(judgement) = observatory.last() {
            self.show(&judgement, observatory.keeps_steps());
        }
        counted
    }

    fn show(&self, judgement: &Judgement, keeps_steps: bool) {
        self.show_queue(judgement, keeps_steps);
        self.show_workers(judgement);
        self.show_servers(judgement);
        let holdup = judgement.overview.verdict.holdup;
        for cause in HOLDUPS {
            self.holdup.with_label_values(&[cause.name()]).set(i64::from(cause == holdup));
        }
    }

    fn show_queue(&self, judgement: &Judgement, keeps_steps: bool) {
        let overview: &Overview = &judgement.overview;
        let (pool, tasks) = (overview.pool.as_str(), overview.tasks);
        // Before the whole journal was read, its numbers would be too small.
        let indexed = |count: u64| Some(count).filter(|_| keeps_steps && judgement.caught_up);
        self.queue_depth.reset();
        let depths = [
            ("ready", overview.ready),
            ("waiting", indexed(tasks.waiting)),
            ("running", indexed(tasks.running)),
            ("retrying", indexed(tasks.retrying)),
            ("dead", overview.dead),
            ("parked", overview.parked_replies),
        ];
        for (state, depth) in depths {
            if let Some(depth) = depth {
                self.queue_depth.with_label_values(&[pool, state]).set(whole(depth));
            }
        }
        self.oldest_waiting_seconds.reset();
        self.expected_wait_seconds.reset();
        for (priority, expected_ms) in (0_u8..).zip(judgement.expected_wait_ms) {
            let label = priority.to_string();
            let oldest_ms = overview.oldest_waiting.iter().find(|wait| wait.priority == priority).map_or(0, |wait| wait.oldest_ms);
            if let Some(oldest_ms) = indexed(oldest_ms) {
                self.oldest_waiting_seconds.with_label_values(&[label.as_str()]).set(oldest_ms as f64 / 1_000.0);
            }
            if let Some(expected_ms) = expected_ms {
                self.expected_wait_seconds.with_label_values(&[label.as_str()]).set(expected_ms / 1_000.0);
            }
        }
    }

    /// Where the table does not answer nothing is known of them: whoever scales by zero would stop the fleet.
    fn show_workers(&self, judgement: &Judgement) {
        for gauges in [&self.gpus, &self.slots, &self.workers_up, &self.desired_workers] {
            gauges.reset();
        }
        if !judgement.table.is_up {
            return;
        }
        let GpuCounts { living, serving, draining, drained, blocked, quarantined, slots, held } = judgement.overview.gpus;
        let states =
            [("serving", serving), ("draining", draining), ("drained", drained), ("blocked", blocked), ("quarantined", quarantined)];
        for (state, count) in states {
            self.gpus.with_label_values(&[state]).set(whole(count));
        }
        for (state, count) in [("held", held), ("free", slots.saturating_sub(held))] {
            self.slots.with_label_values(&[state]).set(whole(count));
        }
        let none: [&str; 0] = [];
        self.workers_up.with_label_values(&none).set(whole(living));
        self.desired_workers.with_label_values(&none).set(i64::from(judgement.overview.scaling.desired_workers));
    }

    fn show_servers(&self, judgement: &Judgement) {
        self.server_seconds.reset();
        for (server, seen) in [("broker", judgement.broker), ("store", judgement.store), ("table", judgement.table)] {
            self.server_up.with_label_values(&[server]).set(i64::from(seen.is_up));
            if let Some(ms) = seen.ms {
                self.server_seconds.with_label_values(&[server]).set(ms / 1_000.0);
            }
        }
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
