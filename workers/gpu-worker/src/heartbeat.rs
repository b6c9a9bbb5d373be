//! The heartbeat: the row, the held claims and the settings, three times a lease; at once when something an operator or a claim would
//! notice has changed.

use std::{sync::Arc, time::Duration};

use gpu_table::Heartbeat;
use protocol::{GpuRow, GpuSample, Health, TaskId};
use tokio::time::Instant;

use crate::context::Context;

/// How many heartbeats pass between two announcements of the GPU's queue in the store.
const ANNOUNCE_EVERY: u64 = 10;

/// Beats until what the worker held is let go of: a row that lapsed before would make a crash of it.
pub(crate) async fn beat(context: Arc<Context>) {
    let mut pulse = Pulse { foreign: Foreign::default(), beats: 0, announce_at: 0, away: false };
    loop {
        pulse.once(&context).await;
        tokio::select! {
            biased;
            () = context.last_beat.cancelled() => break,
            () = context.nudge.notified() => {}
            () = tokio::time::sleep(context.options.lease / 3) => {}
        }
    }
    context.silent.cancel();
}

struct Pulse {
    foreign: Foreign,
    beats: u64,
    announce_at: u64,
    away: bool,
}

impl Pulse {
    async fn once(&mut self, context: &Context) {
        let sample = context.device.sample();
        let busy = context.slots.busy();
        context.metrics.sampled(&sample, busy);
        self.foreign.observe(&sample, busy, Instant::now());
        let row = row(context, sample, self.foreign.percent);
        let (consuming, healthy) = (row.consuming, row.health.takes_tasks());
        let settings = context.settings.borrow().clone();
        let heartbeat = Heartbeat { row, held: context.held.all(), settings };
        match context.table.heartbeat(&heartbeat).await {
            Ok(beat) => {
                self.came_back();
                context.settings.send_if_modified(|known| {
                    let changed = *known != beat.settings;
                    *known = beat.settings;
                    changed
                });
                report_lost(&beat.lost);
                context.taking.send_if_modified(|taking| std::mem::replace(taking, healthy && !beat.draining) != *taking);
                if consuming {
                    context.beats.count();
                }
            }
            Err(error) => self.went_away(&error),
        }
        if self.beats >= self.announce_at && announce(context).await {
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
}

/// Whether the store took it; if not, the next beat tries again.
async fn announce(context: &Context) -> bool {
    let announced = context.store.announce(&context.gpu_id, &context.options.pool).await;
    if let Err(error) = &announced {
        tracing::debug!(%error, "not announced");
    }
    announced.is_ok()
}

fn report_lost(lost: &[TaskId]) {
    for task_id in lost {
        tracing::warn!(%task_id, "another worker took this task over; what it gives here will be refused");
    }
}

fn row(context: &Context, sample: GpuSample, foreign_utilization_percent: f64) -> GpuRow {
    let (health, health_reason) = context.health.together_with(context.device.health());
    GpuRow {
        gpu: context.device.description().clone(),
        sample,
        pool: context.options.pool.clone(),
        incarnation: context.incarnation.clone(),
        host: context.options.host.clone(),
        slots: context.health.limit(context.slots.on_offer()),
        health_reason: if health == Health::Healthy { String::new() } else { health_reason },
        health,
        consuming: *context.consuming.borrow(),
        stopping: context.stop.gently.is_cancelled(),
        kinds: context.executors.kinds(),
        models: context.executors.models(),
        foreign_utilization_percent,
        waiting: context.slots.waiting(),
    }
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
