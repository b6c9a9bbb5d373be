//! Looks at everything every ten seconds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::tests::{
    proc::{broker_pid, connections_to, descendants, descriptors, machine_s, memory_mib, threads},
    statistics::Percentiles,
};
use protocol::{GpuId, PoolName};
use redis::aio::MultiplexedConnection;
use task_queue::{Queue, RabbitMq, TaskQueue};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Fault,
    history::{History, Values},
    keys,
    ledger::Ledger,
    pace::Pace,
    programs::{GATEWAY, NVIDIA_POOL, Programs, Seen, WORKERS, gpus_of},
    servers::{PREFIX, Servers},
    streams::Watch,
};

/// Between two samples.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Channels are listed in one of so many samples: the broker's own tool costs a second of processor time.
const CHANNELS_EVERY: u64 = 6;
/// Longest wait for one server.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is looked at.
pub(crate) struct Sampler {
    pub(crate) servers: Arc<Servers>,
    pub(crate) programs: Arc<Programs>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) queue: Arc<RabbitMq>,
    pub(crate) http: reqwest::Client,
    pub(crate) history: History,
}

impl Sampler {
    /// Samples until it is stopped; gives what it has.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<History, Fault> {
        let (started, mut ticks) = (Instant::now(), interval(EVERY));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut before = (machine_s(), self.ledger.answers(), Instant::now());
        for number in 0_u64.. {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            self.programs.look_for_ended();
            let mut values = self.of_processes();
            self.flow(&mut values, &mut before);
            self.of_depths(&mut values).await;
            self.of_metrics(&mut values).await;
            // While Redis is away there is nothing of it to see.
            let _away = timeout(PATIENCE, self.of_redis(&mut values)).await;
            if number.is_multiple_of(CHANNELS_EVERY) {
                self.of_channels(&mut values).await;
            }
            self.history.add(started.elapsed().as_secs_f64(), values)?;
        }
        Ok(self.history)
    }

    /// Memory, descriptors, threads and connections of each process, its children's apart.
    fn of_processes(&self) -> Values {
        let (mut values, ports) = (Values::new(), self.servers.ports());
        for Seen { name, pid, .. } in self.programs.seen() {
            of_process(&mut values, &name, pid);
            put(&mut values, "connections", &name, connections_to(pid, &ports).map(|open| open.len() as f64));
            let children = descendants(pid);
            if !children.is_empty() {
                put(&mut values, "children", &name, Some(children.len() as f64));
                put(&mut values, "children_memory_mib", &name, children.iter().map(|child| memory_mib(*child)).sum());
            }
        }
        let [broker, redis] = self.servers.lives();
        if let Some(pid) = broker_pid(self.servers.broker_port()) {
            of_process(&mut values, &format!("rabbitmq.{broker}"), pid);
        }
        if let Some(pid) = self.servers.redis_pid() {
            of_process(&mut values, &format!("redis.{redis}"), pid);
        }
        put(&mut values, "own_memory_mib", "soak", memory_mib(std::process::id()));
        values
    }

    /// What came and went since the last sample.
    fn flow(&self, values: &mut Values, before: &mut (Option<f64>, u64, Instant)) {
        let now = (machine_s(), self.ledger.answers(), Instant::now());
        let seconds = (now.2 - before.2).as_secs_f64();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let busy = before.0.zip(now.0).map(|(before, now)| (now - before) / seconds / cores);
        put(values, "busy", "machine", busy);
        put(values, "per_second", "replies", Some((now.1 - before.1) as f64 / seconds));
        put(values, "per_second", "arrivals", Some(self.pace.per_second()));
        put(values, "open", "tasks", Some(self.ledger.open_tasks() as f64));
        put(values, "open", "streams", Some(self.watch.now().open as f64));
        for (priority, Percentiles { p50, p95, p99 }) in self.ledger.latencies_lately().into_iter().enumerate() {
            for (what, value) in [("latency_p50_ms", p50), ("latency_p95_ms", p95), ("latency_p99_ms", p99)] {
                put(values, what, &format!("priority-{priority}"), Some(value));
            }
        }
        *before = now;
    }

    async fn of_depths(&self, values: &mut Values) {
        for queue in queues() {
            let name = self.queue.names().queue(&queue);
            let asked = timeout(PATIENCE, self.queue.depth(&queue)).await;
            let Ok(Ok(depth)) = asked else { return };
            // A queue that nobody has declared yet is empty.
            put(values, "depth", &name, Some(depth.map_or(0.0, |depth| f64::from(depth.ready))));
        }
    }

    /// What the processes show of themselves, and how many series that is.
    async fn of_metrics(&self, values: &mut Values) {
        for Seen { name, metrics, .. } in self.programs.seen() {
            let Some(url) = metrics else { continue };
            let Ok(answer) = self.http.get(&url).send().await else { continue };
            let Ok(text) = answer.text().await else { continue };
            let series = || text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            put(values, "metric_series", &name, Some(series().count() as f64));
            if name.starts_with(GATEWAY) {
                for (series, value) in series().filter_map(shown) {
                    put(values, "gateway", &series, Some(value));
                }
            }
        }
    }

    async fn of_redis(&self, values: &mut Values) -> Result<(), Fault> {
        let mut connection = self.servers.redis_connection().await?;
        let [_, life] = self.servers.lives();
        let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<f64>().ok());
        put(values, "redis_used_mib", &format!("redis.{life}"), field("used_memory").map(|bytes| bytes / 1_048_576.0));
        put(values, "redis_clients", &format!("redis.{life}"), field("connected_clients"));
        put(values, "journal", "entries", entries(&mut connection).await);
        let sorts = keys::sorts(&mut connection).await?;
        put(values, "keys", "all", Some(sorts.values().map(|sort| sort.count as f64).sum()));
        for (sort, keys::Sort { count, kib }) in sorts {
            put(values, "keys", &sort, Some(count as f64));
            put(values, "key_kib", &sort, Some(kib));
        }
        Ok(())
    }

    /// Connections to the broker and channels over them, by process.
    async fn of_channels(&self, values: &mut Values) {
        // The tool waits long for a broker that is away.
        let asked = timeout(PATIENCE * 4, self.servers.channels()).await;
        let listed: BTreeMap<u16, u32> = asked.unwrap_or_default().into_iter().collect();
        if listed.is_empty() {
            return;
        }
        put(values, "broker_connections", "all", Some(listed.len() as f64));
        put(values, "broker_channels", "all", Some(listed.values().map(|channels| f64::from(*channels)).sum()));
        for Seen { name, pid, .. } in self.programs.seen() {
            let own = connections_to(pid, &[self.servers.broker_port()]).unwrap_or_default();
            let channels: u32 = own.iter().filter_map(|port| listed.get(port)).sum();
            put(values, "channels", &name, Some(f64::from(channels)));
        }
    }
}

/// Every queue in which something may wait.
pub(crate) fn queues() -> Vec<Queue> {
    let pools = [PoolName::default()].into_iter().chain(PoolName::new(NVIDIA_POOL)).map(Queue::Pool);
    let gpus = (0..WORKERS).flat_map(gpus_of).filter_map(|gpu| gpu.parse::<GpuId>().ok()).map(Queue::Gpu);
    let single = [Queue::Expired, Queue::Unrouted, Queue::Returned, Queue::Parked, Queue::Dead];
    let delays = [Queue::DELAYS_HELD_MS.to_vec(), Queue::DELAYS_LOOKED_AT_MS.to_vec()].concat();
    let delayed = delays.into_iter().map(|ms| Queue::Delayed(Duration::from_millis(ms)));
    let waiting = Queue::where_tasks_wait().into_iter().chain(Queue::where_replies_wait());
    pools.chain(gpus).chain(single).chain(delayed).chain(waiting).collect()
}

fn of_process(values: &mut Values, name: &str, pid: u32) {
    put(values, "memory_mib", name, memory_mib(pid));
    put(values, "descriptors", name, descriptors(pid));
    put(values, "threads", name, threads(pid));
}

fn put(values: &mut Values, what: &str, whose: &str, value: Option<f64>) {
    values.extend(value.map(|value| (format!("{what}/{whose}"), value)));
}

async fn entries(connection: &mut MultiplexedConnection) -> Option<f64> {
    redis::cmd("XLEN").arg(format!("{PREFIX}:store:{{steps}}:told")).query_async(connection).await.ok()
}

/// The gateway's own figures that are worth a series: the name with its labels, and the value.
fn shown(line: &str) -> Option<(String, f64)> {
    const WANTED: [&str; 6] = [
        "gateway_event_streams",
        "gateway_tasks_waited_for",
        "gateway_groups",
        "gpufleet_queue_depth",
        "gpufleet_slots",
        "gpufleet_task_steps_lost_total",
    ];
    let (name, value) = line.rsplit_once(' ')?;
    let bare = name.split('{').next()?;
    let labels: Vec<&str> = name.split('"').skip(1).step_by(2).collect();
    let short = std::iter::once(bare).chain(labels).collect::<Vec<_>>().join(".");
    WANTED.contains(&bare).then_some(())?;
    Some((short, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_figures_are_named_by_their_labels() {
        let line = "gpufleet_queue_depth{pool=\"default\",state=\"running\"} 7";
        assert_eq!(shown(line), Some(("gpufleet_queue_depth.default.running".to_owned(), 7.0)));
        assert_eq!(shown("gateway_groups 3"), Some(("gateway_groups".to_owned(), 3.0)));
        assert_eq!(shown("gateway_requests_total{code=\"200\"} 3"), None);
    }

    #[test]
    fn every_queue_in_which_something_may_wait_is_looked_at() {
        let queues = queues();
        for queue in [Queue::Pool(PoolName::default()), Queue::Gpu("w2-1".parse().unwrap()), Queue::Dead, Queue::Unplaceable] {
            assert!(queues.contains(&queue), "{queue}");
        }
    }
}
