//! The queues that a worker needs. It declares them when it starts, and looks after them from then on: what somebody deletes that nobody consumes and nobody publishes
//! to at that moment gives no sign, and an exchange or a binding never does.

use std::sync::Arc;

use task_queue::{Depth, Queue};

use super::waiting;
use crate::{context::Context, me::Me, metrics::GpuMetrics, ports::Ports};

/// Every queue that a worker needs.
pub(crate) fn queues(me: &Me) -> Vec<Queue> {
    let mut queues = vec![Queue::Returned, Queue::Expired, Queue::Unrouted, Queue::Dead, Queue::Parked];
    queues.extend(waiting::queues());
    queues.extend(Queue::where_delayed_tasks_are_looked_at());
    queues.push(Queue::Pool(me.options.pool.clone()));
    queues.push(Queue::Gpu(me.gpu_id.clone()));
    queues
}

/// What looks after them.
pub(crate) struct Warden {
    ports: Ports,
    me: Arc<Me>,
    metrics: Arc<GpuMetrics>,
    /// Whether the dead letters were at their bound at the last look.
    dead_letters_full: bool,
}

impl Warden {
    pub(crate) fn of(context: &Context) -> Self {
        Self { ports: context.ports.clone(), me: Arc::clone(&context.me), metrics: Arc::clone(&context.metrics), dead_letters_full: false }
    }

    /// Looks about once a minute, until the worker stops. One look costs a question for each queue.
    pub(crate) async fn run(mut self) {
        let stop = self.ports.stop.clone();
        loop {
            // Spread, so that a fleet's workers do not look all at once.
            let pause = self.me.options.topology_every.mul_f64(0.75 + self.ports.environment.random.unit() / 2.0);
            let look = async {
                tokio::time::sleep(pause).await;
                self.look_around().await;
            };
            tokio::select! {
                biased;
                () = stop.now.cancelled() => return,
                () = stop.gently.cancelled() => return,
                () = look => {}
            }
        }
    }

    async fn look_around(&mut self) {
        for queue in queues(&self.me) {
            let depth = match self.ports.queue.depth(&queue).await {
                Ok(depth) => depth,
                Err(error) => {
                    tracing::debug!(%queue, %error, "not looked at this time");
                    continue;
                }
            };
            self.look_after(&queue, depth).await;
            self.count(&queue, depth.map_or(0, |depth| depth.ready));
        }
    }

    async fn look_after(&self, queue: &Queue, depth: Option<Depth>) {
        // No client of a broker can look at a binding, so it is declared whether it is there or not.
        let bound = matches!(queue, Queue::Pool(_) | Queue::Unrouted);
        if depth.is_some() && !bound {
            return;
        }
        if depth.is_none() {
            let queue = self.ports.queue.names().queue(queue);
            tracing::warn!(queue, "a queue of the fleet was gone, with what waited in it; it is declared again");
        }
        match self.ports.queue.declare(queue).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => tracing::debug!(%queue, %error, "not declared again this time"),
            Err(error) => tracing::error!(%error, "a queue that the fleet needs cannot be declared"),
        }
    }

    fn count(&mut self, queue: &Queue, ready: u32) {
        if let Some(label) = label(queue) {
            self.metrics.waits(&label, ready);
        }
        if *queue == Queue::Dead {
            let full = ready >= self.me.options.dead_letters_max;
            if full && !self.dead_letters_full {
                tracing::warn!(
                    dead_letters = ready,
                    "the dead letters are at their bound, and the oldest are dropped; look with `gpufleet dead ls`, get rid of them with `gpufleet dead purge`"
                );
            }
            self.dead_letters_full = full;
        }
    }
}

/// The queue in the metric of what waits; `None`: it is not in it.
fn label(queue: &Queue) -> Option<String> {
    let label = match queue {
        Queue::Pool(pool) => return Some(format!("pool.{pool}")),
        Queue::Dead => "dead",
        Queue::Parked => "parked",
        Queue::Unplaceable => "unplaceable",
        Queue::Unrouted => "unrouted",
        Queue::Delayed(delay) => return Some(format!("delayed.{}", delay.as_millis())),
        Queue::Undelivered(delay) => return Some(format!("undelivered.{}", delay.as_millis())),
        Queue::Gpu(_) | Queue::Expired | Queue::Returned | Queue::Retry(_) | Queue::Reply(_) => return None,
    };
    Some(label.to_owned())
}

#[cfg(test)]
mod tests {
    use protocol::PoolName;

    use super::*;

    #[test]
    fn two_pools_of_one_process_have_a_series_each() {
        let of = |pool: &str| label(&Queue::Pool(PoolName::new(pool).expect("a valid name")));
        assert_eq!((of("a"), of("b")), (Some("pool.a".to_owned()), Some("pool.b".to_owned())));
    }
}
