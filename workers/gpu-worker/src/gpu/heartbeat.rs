//! The heartbeat: the row, the slots held and the settings, three times a lease; at once when something an operator or a claim would
//! notice has changed.

use std::{sync::Arc, time::Duration};

use gpu_table::Heartbeat;
use protocol::{
    GpuRow, GpuSample, Health,
    gpu::{GpuView, ModelState},
};
use task_queue::Link;
use tokio::time::Instant;

use crate::{
    claim::{begun::Begun, slots::Slots},
    context::{Context, Gpu},
    me::{Me, Signals},
    metrics::GpuMetrics,
    ports::Ports,
};

/// The longest pause of a worker that takes no more tasks.
const ENDING_PAUSE: Duration = Duration::from_secs(1);
/// The longest reason why a kind is down, in letters.
const REASON_MAX: usize = 500;
/// How many heartbeats pass between two announcements of the GPU's queue in the store.
const ANNOUNCE_EVERY: u64 = 10;

/// What beats.
pub(crate) struct Heart {
    ports: Ports,
    me: Arc<Me>,
    gpu: Arc<Gpu>,
    signals: Arc<Signals>,
    slots: Arc<Slots>,
    begun: Arc<Begun>,
    metrics: Arc<GpuMetrics>,
    foreign: Foreign,
    beats: u64,
    announce_at: u64,
    away: bool,
    /// Whether an operator drains the GPU, as the last answer of the table said.
    draining: bool,
}

impl Heart {
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            ports: context.ports.clone(),
            me: Arc::clone(&context.me),
            gpu: Arc::clone(&context.gpu),
            signals: Arc::clone(&context.signals),
            slots: Arc::clone(&context.slots),
            begun: Arc::clone(&context.begun),
            metrics: Arc::clone(&context.metrics),
            foreign: Foreign::default(),
            beats: 0,
            announce_at: 0,
            away: false,
            draining: false,
        }
    }

    /// Beats until what the worker held is let go of: a row that lapsed before would make a crash of it.
    pub(crate) async fn beat(mut self) {
        loop {
            self.once().await;
            tokio::select! {
                biased;
                () = self.signals.last_beat.cancelled() => break,
                () = self.signals.nudge.notified() => {}
                () = tokio::time::sleep(self.pause()) => {}
            }
        }
        self.signals.silent.cancel();
    }

    /// Somebody may wait until a GPU that takes no more tasks has none.
    fn pause(&self) -> Duration {
        let pause = self.me.options.lease / 3;
        if self.takes_no_more() { pause.min(ENDING_PAUSE) } else { pause }
    }

    /// Whether this worker has heard that it is to take no more tasks.
    fn takes_no_more(&self) -> bool {
        self.draining || self.ports.stop.gently.is_cancelled()
    }

    async fn once(&mut self) {
        let sample = self.gpu.device.sample();
        let held = self.slots.held();
        self.metrics.sampled(&sample, held);
        self.metrics.models.counted(&self.gpu.executors.model_counts());
        self.foreign.observe(&sample, held, Instant::now());
        let row = self.row(sample);
        let (consuming, healthy) = (row.consuming, row.health.takes_tasks());
        self.metrics.slots(row.slots, held);
        self.metrics.phase_is(GpuView::phase_of(&row, held, self.draining));
        self.metrics.servers_took(&row.servers);
        let settings = self.signals.settings.borrow().clone();
        let (holding, taken) = self.slots.beat();
        let heartbeat = Heartbeat { row, holding, taken, settings };
        match self.ports.table.heartbeat(&heartbeat).await {
            Ok(beat) => {
                self.came_back();
                self.signals.settings.send_if_modified(|known| {
                    let changed = *known != beat.settings;
                    *known = beat.settings;
                    changed
                });
                self.signals.row_was_written(heartbeat.row);
                self.signals.taking.send_if_modified(|taking| std::mem::replace(taking, healthy && !beat.draining) != *taking);
                if std::mem::replace(&mut self.draining, beat.draining) != beat.draining {
                    // The row is to say soon that it was heard.
                    self.signals.nudge.notify_one();
                }
                if consuming {
                    self.signals.beats.count();
                }
            }
            Err(error) => {
                self.slots.unheard(holding);
                self.went_away(&error);
            }
        }
        if self.beats >= self.announce_at && self.announce().await {
            self.announce_at = self.beats + ANNOUNCE_EVERY;
        }
        self.beats += 1;
    }

    fn came_back(&mut self) {
        if std::mem::take(&mut self.away) {
            tracing::info!("the table answers again");
        }
    }

    fn went_away(&mut self, error: &gpu_table::TableError) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(%error, "heartbeat failed; tasks that run go on, no new ones are placed");
        }
    }

    /// Whether the store took it; if not, the next beat tries again.
    async fn announce(&self) -> bool {
        let announced = self.ports.store.announce(&self.me.gpu_id, &self.me.options.pool).await;
        if let Err(error) = &announced {
            tracing::debug!(%error, "not announced");
        }
        announced.is_ok()
    }

    fn row(&self, sample: GpuSample) -> GpuRow {
        let (kinds, kinds_down) = self.gpu.executors.up_and_down();
        kinds.iter().for_each(|kind| self.metrics.kind_is(kind, true));
        kinds_down.keys().for_each(|kind| self.metrics.kind_is(kind, false));
        let kinds_down = kinds_down.into_iter().map(|(kind, why)| (kind, brief(&why))).collect();
        let (health, health_reason) = self.gpu.health.together_with(self.gpu.device.health());
        let broker_blocked = matches!(&*self.ports.queue.link().borrow(), Link::Blocked(_));
        let (waiting, running) = (self.slots.waiting(), self.begun.tasks());
        let emptied = self.takes_no_more() && waiting == 0 && running.is_empty() && self.slots.held() == 0;
        GpuRow {
            gpu: self.gpu.device.description().clone(),
            sample,
            pool: self.me.options.pool.clone(),
            incarnation: self.me.incarnation.clone(),
            host: self.me.options.host.clone(),
            slots: self.gpu.health.limit(self.slots.on_offer()),
            health_reason: if health == Health::Healthy { String::new() } else { health_reason },
            health,
            consuming: *self.signals.consuming.borrow(),
            stopping: self.ports.stop.gently.is_cancelled(),
            kinds,
            kinds_down,
            run_ms: self.gpu.forecast.of_each_kind(),
            models: self.gpu.executors.models(),
            model_state: ModelState { evictable_mb: self.gpu.evictable_mb(), ..self.gpu.models_wished.state(&self.gpu) },
            data: self.gpu.data_state(),
            servers: self.ports.times.known(broker_blocked),
            emptied,
            foreign_utilization_percent: self.foreign.percent,
            waiting,
            running,
            item_ms: self.gpu.item_times.of_each_kind(),
        }
    }
}

/// A reason as the row has it, which every heartbeat writes: one line, and not too long. It may have what a process wrote last.
fn brief(why: &str) -> String {
    why.chars().take(REASON_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What others make of the GPU: its utilisation when none of our tasks ran, believed for a minute.
#[derive(Debug, Default)]
struct Foreign {
    percent: f64,
    measured: Option<Instant>,
    was_idle: bool,
}

impl Foreign {
    const BELIEVED: Duration = Duration::from_secs(60);

    fn observe(&mut self, sample: &GpuSample, busy: u32, now: Instant) {
        let idle = busy == 0;
        // The sample looks back: only if we were idle at the last look too did it measure others alone.
        if idle && self.was_idle {
            self.percent = sample.utilization_percent;
            self.measured = Some(now);
        }
        self.was_idle = idle;
        if self.measured.is_none_or(|at| now.saturating_duration_since(at) > Self::BELIEVED) {
            self.percent = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(utilization_percent: f64) -> GpuSample {
        GpuSample { utilization_percent, ..GpuSample::default() }
    }

    #[test]
    fn a_reason_in_the_row_is_one_line_and_bounded() {
        assert_eq!(brief("setup failed:\nno such model"), "setup failed: no such model");
        assert_eq!(brief(&"é".repeat(5_000)).chars().count(), 500);
    }

    #[test]
    fn a_gpu_that_is_busy_with_our_tasks_is_not_held_for_busy_with_others() {
        let (mut foreign, now) = (Foreign::default(), Instant::now());
        foreign.observe(&sample(100.0), 8, now);
        assert_eq!(foreign.percent, 0.0);
        foreign.observe(&sample(100.0), 0, now);
        assert_eq!(foreign.percent, 0.0, "the sample still looks back on our work");
        foreign.observe(&sample(70.0), 0, now);
        assert_eq!(foreign.percent, 70.0);
        foreign.observe(&sample(100.0), 3, now + Duration::from_secs(30));
        assert_eq!(foreign.percent, 70.0);
        foreign.observe(&sample(100.0), 3, now + Duration::from_secs(61));
        assert_eq!(foreign.percent, 0.0);
    }
}
