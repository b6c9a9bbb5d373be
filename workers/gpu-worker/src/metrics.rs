//! What a worker counts and measures. The document's names stand first; units are in the names.

mod models;
mod replies;
mod servers;

use std::sync::Arc;

use executors::Executors;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, Registry, core::Collector, exponential_buckets,
};
use protocol::{GpuId, GpuSample, Kind};
use task_queue::Queue;
use tensors::DataMetrics;

use self::{
    models::{ModelMetrics, ModelSeries},
    replies::ReplyCounters,
    servers::WorkerSeries,
};
use crate::unserved_now::UnservedNow;

/// The metrics of all workers of one process, told apart by the label `gpu_id`.
pub struct WorkerMetrics {
    samples: SampleGauges,
    models: ModelSeries,
    tasks_count: GaugeVec,
    response_time_ms: HistogramVec,
    tasks_total: CounterVec,
    queue_wait_seconds: HistogramVec,
    in_hand_seconds: HistogramVec,
    run_seconds: HistogramVec,
    claim_seconds: HistogramVec,
    claims_total: CounterVec,
    forwarded_total: CounterVec,
    redelivered_total: CounterVec,
    replies: ReplyCounters,
    late_outcomes_total: CounterVec,
    retries_total: CounterVec,
    cancel_ignored_total: CounterVec,
    crashes_total: CounterVec,
    kind_up: GaugeVec,
    quarantined_total: CounterVec,
    gpu_quarantines_total: CounterVec,
    xid_errors_total: CounterVec,
    memory_relief_total: CounterVec,
    progress_total: CounterVec,
    run_batches: RunBatchSeries,
    trace_headers_dropped_total: CounterVec,
    queues: QueueSeries,
    batches: BatchSeries,
    unserved_rounds_total: CounterVec,
    group_members_not_counted_total: CounterVec,
    unserved: Arc<UnservedNow>,
    data: Arc<DataMetrics>,
    worker: WorkerSeries,
}

/// One GPU's own series, looked up once.
pub(crate) struct GpuMetrics {
    samples: SampleGauges,
    pub(crate) models: ModelMetrics,
    tasks_count: Gauge,
    pub(crate) response_time_ms: Histogram,
    tasks_total: CounterVec,
    pub(crate) queue_wait_seconds: Histogram,
    pub(crate) in_hand_seconds: Histogram,
    run_seconds: HistogramVec,
    pub(crate) claim_seconds: Histogram,
    claims_total: CounterVec,
    forwarded_total: CounterVec,
    progress_total: CounterVec,
    xid_errors_total: CounterVec,
    memory_relief_total: CounterVec,
    run_batches: RunBatchSeries,
    queues: QueueSeries,
    batches: BatchSeries,
    pub(crate) slices_unwanted: Counter,
    pub(crate) trace_headers_dropped: Counter,
    replies_put_aside_total: CounterVec,
    pub(crate) redelivered: Counter,
    pub(crate) replies_returned: Counter,
    pub(crate) replies_delivered_late: Counter,
    pub(crate) replies_not_parked: Counter,
    pub(crate) late_outcomes: Counter,
    pub(crate) retries: Counter,
    pub(crate) cancel_ignored: Counter,
    pub(crate) crashes: Counter,
    kind_up: GaugeVec,
    pub(crate) quarantined: Counter,
    pub(crate) gpu_quarantines: Counter,
    pub(crate) unserved_rounds: Counter,
    pub(crate) group_members_not_counted: Counter,
    /// What this process's workers find unserved now.
    pub(crate) unserved: Arc<UnservedNow>,
    /// Where this process's data planes count.
    pub(crate) data: Arc<DataMetrics>,
    worker: WorkerSeries,
    gpu_id: String,
}

struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn gauges(&self, name: &str, help: &str) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(Opts::new(name, help), &["gpu_id"])?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, prometheus::Error> {
        self.add(CounterVec::new(Opts::new(name, help), labels)?)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        let buckets = exponential_buckets(0.000_25, 2.0, 20)?;
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?)
    }
}

/// What a sample says of a GPU.
#[derive(Clone)]
struct SampleGauges {
    utilization_percent: GaugeVec,
    memory_used_mb: GaugeVec,
    temperature_celsius: GaugeVec,
    power_watts: GaugeVec,
    sm_clock_mhz: GaugeVec,
    sample_age_seconds: GaugeVec,
}

impl SampleGauges {
    fn new(to: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            utilization_percent: to.gauges("gpu_utilization_percent", "Utilisation of the GPU, in %.")?,
            memory_used_mb: to.gauges("gpu_memory_used_mb", "Memory in use, in MB (10^6 bytes).")?,
            temperature_celsius: to.gauges("gpu_temperature_celsius", "Core temperature, in degrees Celsius.")?,
            power_watts: to.gauges("gpu_power_watts", "Power draw, in W.")?,
            sm_clock_mhz: to.gauges("gpu_sm_clock_mhz", "SM clock, in MHz.")?,
            sample_age_seconds: to.gauges("gpu_sample_age_seconds", "Age of the GPU's last sample, in s.")?,
        })
    }

    fn set(&self, gpu_id: &str, sample: &GpuSample) {
        let values = [
            (&self.utilization_percent, sample.utilization_percent),
            (&self.memory_used_mb, sample.memory_used_mb as f64),
            (&self.temperature_celsius, sample.temperature_celsius),
            (&self.power_watts, sample.power_watts),
            (&self.sm_clock_mhz, sample.sm_clock_mhz),
            (&self.sample_age_seconds, sample.age_ms as f64 / 1_000.0),
        ];
        for (gauge, value) in values {
            gauge.with_label_values(&[gpu_id]).set(value);
        }
    }
}

/// What lies in the queues, and what the broker or a worker took out of them for another reason than to run it.
#[derive(Clone)]
struct QueueSeries {
    messages: GaugeVec,
    held: GaugeVec,
    moved: Counter,
    dropped: CounterVec,
    unrouted: CounterVec,
}

impl QueueSeries {
    fn new(to: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            messages: to.add(GaugeVec::new(
                Opts::new("gpufleet_queue_messages", "Messages that waited in a queue at the last look, about once a minute, by queue (pool.<name> of a pool)."),
                &["queue"],
            )?)?,
            held: to.add(GaugeVec::new(
                Opts::new("gpufleet_held_messages", "Messages of a waiting queue that workers hold until they are due, by queue: they wait too."),
                &["gpu_id", "queue"],
            )?)?,
            moved: to.add(Counter::new("gpufleet_moved_total", "Messages that the mover put back into their pool's queue.")?)?,
            dropped: to.counters(
                "gpufleet_tasks_dropped_total",
                "Tasks that the broker took out of a queue before their time, by reason: maxlen, delivery_limit, rejected.",
                &["gpu_id", "reason"],
            )?,
            unrouted: to.counters(
                "gpufleet_unrouted_total",
                "Tasks that the exchange could lead to no pool: moved (to their pool), waits (its queue is about to be back, or full), refused (no such pool).",
                &["gpu_id", "what"],
            )?,
        })
    }
}

/// Runs of several payloads together.
#[derive(Clone)]
struct RunBatchSeries {
    size: HistogramVec,
    wait_seconds: HistogramVec,
}

impl RunBatchSeries {
    fn new(to: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let labels: &[&str] = &["gpu_id", "kind"];
        let size = HistogramOpts::new("gpufleet_batch_size", "Payloads that ran together, of kinds that take several at once.");
        Ok(Self {
            size: to.add(HistogramVec::new(size.buckets(exponential_buckets(1.0, 2.0, 11)?), labels)?)?,
            wait_seconds: to.seconds(
                "gpufleet_batch_wait_seconds",
                "Wait of a payload for the run that it was in, of kinds that take several at once, in s.",
                labels,
            )?,
        })
    }
}

/// Batches and their slices that ended.
#[derive(Clone)]
struct BatchSeries {
    batches: CounterVec,
    slices: CounterVec,
    unwanted: CounterVec,
}

impl BatchSeries {
    fn new(to: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            batches: to.counters(
                "gpufleet_batches_total",
                "Batches whose items ran and that ended, by how: whole (in one slot), split (its slices' results were merged).",
                &["gpu_id", "how"],
            )?,
            slices: to.counters("gpufleet_slices_total", "Slices of batches that ended, by outcome.", &["gpu_id", "outcome"])?,
            unwanted: to.counters(
                "gpufleet_slices_unwanted_total",
                "Deliveries of slices whose batch had ended, was cut otherwise or was not known; they were dropped.",
                &["gpu_id"],
            )?,
        })
    }
}

fn memory_relief(to: &Registrar<'_>) -> Result<CounterVec, prometheus::Error> {
    to.counters(
        "gpufleet_memory_relief_total",
        "What was tried when the GPU had too little memory: halved (fewer payloads together), evicted, split, bigger_gpu, gave_up.",
        &["gpu_id", "what"],
    )
}

fn kind_up(to: &Registrar<'_>) -> Result<GaugeVec, prometheus::Error> {
    let help = "Whether the GPU's worker can run tasks of the kind now: 1, or 0 (its handler is down, for example).";
    to.add(GaugeVec::new(Opts::new("gpufleet_kind_up", help), &["gpu_id", "kind"])?)
}

impl WorkerMetrics {
    /// Registers the metrics of this process's workers.
    ///
    /// # Errors
    /// If `registry` has metrics of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let to = Registrar(registry);
        let gpu: &[&str] = &["gpu_id"];
        let response = HistogramOpts::new("gpu_response_time_ms", "Receipt of a task by the worker to its reply, in ms.");
        Ok(Self {
            samples: SampleGauges::new(&to)?,
            models: ModelSeries::new(&to)?,
            tasks_count: to.gauges("gpu_tasks_count", "Tasks that the GPU runs now.")?,
            response_time_ms: to.add(HistogramVec::new(response.buckets(exponential_buckets(0.25, 2.0, 20)?), gpu)?)?,
            tasks_total: to.counters("gpufleet_tasks_total", "Tasks that ended, by outcome.", &["gpu_id", "kind", "outcome"])?,
            queue_wait_seconds: to.seconds(
                "gpufleet_queue_wait_seconds",
                "AMQP timestamp of a task (whole seconds) to its start, in s.",
                gpu,
            )?,
            in_hand_seconds: to.seconds("gpufleet_in_hand_seconds", "Receipt of a task to its start, in s.", gpu)?,
            run_seconds: to.seconds("gpufleet_run_seconds", "Run of one attempt, in s.", &["gpu_id", "kind"])?,
            claim_seconds: to.seconds("gpufleet_claim_seconds", "One claim, asked and answered, in s.", gpu)?,
            claims_total: to.counters("gpufleet_claims_total", "Claims, by the table's answer.", &["gpu_id", "answer"])?,
            forwarded_total: to.counters(
                "gpufleet_forwarded_total",
                "Tasks sent on to another queue, by reason.",
                &["gpu_id", "reason"],
            )?,
            redelivered_total: to.counters("gpufleet_redelivered_total", "Deliveries that the broker marks as redelivered.", gpu)?,
            replies: ReplyCounters::new(&to)?,
            late_outcomes_total: to.counters(
                "gpufleet_late_outcomes_refused_total",
                "Outcomes refused because a later holder began.",
                gpu,
            )?,
            retries_total: to.counters("gpufleet_retries_total", "Attempts that failed and are tried again.", gpu)?,
            cancel_ignored_total: to.counters(
                "gpufleet_cancel_ignored_total",
                "Attempts that did not end when asked to, and were dropped.",
                gpu,
            )?,
            crashes_total: to.counters("gpufleet_crashes_total", "Attempts that ended because their worker, or the process that ran them, was gone.", gpu)?,
            kind_up: kind_up(&to)?,
            quarantined_total: to.counters("gpufleet_quarantined_total", "Tasks given up because their workers kept crashing.", gpu)?,
            gpu_quarantines_total: to.counters("gpufleet_gpu_quarantines_total", "Times that the GPU was taken out, or kept out.", gpu)?,
            xid_errors_total: to.counters("xid_errors_total", "Xid events that the driver reported, by number.", &["gpu_id", "xid"])?,
            memory_relief_total: memory_relief(&to)?,
            progress_total: to.counters(
                "gpufleet_progress_total",
                "Progress of running tasks: noted (in the store), refused (there, of a late holder), sent (to producers that asked), dropped (not sent).",
                &["gpu_id", "what"],
            )?,
            run_batches: RunBatchSeries::new(&to)?,
            trace_headers_dropped_total: to.counters("gpufleet_trace_headers_dropped_total", "Unusable traceparents left behind.", gpu)?,
            queues: QueueSeries::new(&to)?,
            batches: BatchSeries::new(&to)?,
            unserved_rounds_total: to.counters(
                "gpufleet_unserved_rounds_total",
                "Looks at a task that no living GPU of the pool can run: its kind or what it needs is served nowhere.",
                gpu,
            )?,
            group_members_not_counted_total: to.counters(
                "gpufleet_group_members_not_counted_total",
                "Tasks that ended and were not counted in their group: it was full, or there were too many groups.",
                gpu,
            )?,
            unserved: Arc::new(UnservedNow::new(to.add(Gauge::new(
                "gpufleet_unserved_kinds",
                "Kinds, and needs of kinds, that this process's workers found lately in tasks and that no living GPU of the pool serves.",
            )?)?)),
            data: Arc::new(DataMetrics::new(registry)?),
            worker: WorkerSeries::new(&to)?,
        })
    }

    pub(crate) fn of(&self, gpu_id: &GpuId) -> GpuMetrics {
        let gpu = &[gpu_id.as_str()];
        GpuMetrics {
            samples: self.samples.clone(),
            models: self.models.of(gpu_id.as_str()),
            tasks_count: self.tasks_count.with_label_values(gpu),
            response_time_ms: self.response_time_ms.with_label_values(gpu),
            tasks_total: self.tasks_total.clone(),
            queue_wait_seconds: self.queue_wait_seconds.with_label_values(gpu),
            in_hand_seconds: self.in_hand_seconds.with_label_values(gpu),
            run_seconds: self.run_seconds.clone(),
            claim_seconds: self.claim_seconds.with_label_values(gpu),
            claims_total: self.claims_total.clone(),
            forwarded_total: self.forwarded_total.clone(),
            progress_total: self.progress_total.clone(),
            xid_errors_total: self.xid_errors_total.clone(),
            memory_relief_total: self.memory_relief_total.clone(),
            run_batches: self.run_batches.clone(),
            queues: self.queues.clone(),
            batches: self.batches.clone(),
            slices_unwanted: self.batches.unwanted.with_label_values(gpu),
            redelivered: self.redelivered_total.with_label_values(gpu),
            replies_returned: self.replies.returned.with_label_values(gpu),
            replies_put_aside_total: self.replies.put_aside.clone(),
            replies_delivered_late: self.replies.delivered_late.with_label_values(gpu),
            replies_not_parked: self.replies.not_parked.with_label_values(gpu),
            late_outcomes: self.late_outcomes_total.with_label_values(gpu),
            retries: self.retries_total.with_label_values(gpu),
            cancel_ignored: self.cancel_ignored_total.with_label_values(gpu),
            crashes: self.crashes_total.with_label_values(gpu),
            kind_up: self.kind_up.clone(),
            quarantined: self.quarantined_total.with_label_values(gpu),
            gpu_quarantines: self.gpu_quarantines_total.with_label_values(gpu),
            trace_headers_dropped: self.trace_headers_dropped_total.with_label_values(gpu),
            unserved_rounds: self.unserved_rounds_total.with_label_values(gpu),
            group_members_not_counted: self.group_members_not_counted_total.with_label_values(gpu),
            unserved: Arc::clone(&self.unserved),
            data: Arc::clone(&self.data),
            worker: self.worker.clone(),
            gpu_id: gpu_id.to_string(),
        }
    }
}

impl GpuMetrics {
    pub(crate) fn sampled(&self, sample: &GpuSample, busy: u32) {
        self.samples.set(&self.gpu_id, sample);
        self.tasks_count.set(f64::from(busy));
    }

    /// Whether the kind can be run now.
    pub(crate) fn kind_is(&self, kind: &Kind, is_up: bool) {
        self.kind_up.with_label_values(&[self.gpu_id.as_str(), kind.as_str()]).set(f64::from(u8::from(is_up)));
    }

    pub(crate) fn ended(&self, kind: &str, outcome: &str) {
        self.tasks_total.with_label_values(&[self.gpu_id.as_str(), kind, outcome]).inc();
    }

    /// A batch has ended whose items ran so.
    pub(crate) fn batch_ended(&self, how: &str) {
        self.batches.batches.with_label_values(&[self.gpu_id.as_str(), how]).inc();
    }

    pub(crate) fn slice_ended(&self, outcome: &str) {
        self.batches.slices.with_label_values(&[self.gpu_id.as_str(), outcome]).inc();
    }

    pub(crate) fn ran(&self, kind: &str, seconds: f64) {
        self.run_seconds.with_label_values(&[self.gpu_id.as_str(), kind]).observe(seconds);
    }

    /// So many payloads of a kind run together.
    pub(crate) fn batch_ran(&self, kind: &str, payloads: usize) {
        self.run_batches.size.with_label_values(&[self.gpu_id.as_str(), kind]).observe(payloads as f64);
    }

    /// How long a payload waited for its run.
    pub(crate) fn batch_waited(&self, kind: &str, seconds: f64) {
        self.run_batches.wait_seconds.with_label_values(&[self.gpu_id.as_str(), kind]).observe(seconds);
    }

    pub(crate) fn claimed(&self, answer: &str) {
        self.claims_total.with_label_values(&[self.gpu_id.as_str(), answer]).inc();
    }

    pub(crate) fn progress(&self, what: &str) {
        self.progress_total.with_label_values(&[self.gpu_id.as_str(), what]).inc();
    }

    pub(crate) fn xid(&self, number: u64) {
        self.xid_errors_total.with_label_values(&[self.gpu_id.as_str(), &number.to_string()]).inc();
    }

    pub(crate) fn memory_relief(&self, what: &str) {
        self.memory_relief_total.with_label_values(&[self.gpu_id.as_str(), what]).inc();
    }

    pub(crate) fn dropped(&self, reason: &str) {
        self.queues.dropped.with_label_values(&[self.gpu_id.as_str(), reason]).inc();
    }

    pub(crate) fn unrouted(&self, what: &str) {
        self.queues.unrouted.with_label_values(&[self.gpu_id.as_str(), what]).inc();
    }

    pub(crate) fn waits(&self, queue: &str, messages: u32) {
        self.queues.messages.with_label_values(&[queue]).set(f64::from(messages));
    }

    /// How many messages of a waiting queue this worker holds.
    pub(crate) fn held(&self, queue: &Queue) -> Gauge {
        let label = match queue {
            Queue::Retry(delay) => format!("wait.{}", delay.as_millis()),
            Queue::Delayed(delay) => format!("delayed.{}", delay.as_millis()),
            Queue::Undelivered(delay) => format!("undelivered.{}", delay.as_millis()),
            _ => "unplaceable".to_owned(),
        };
        self.queues.held.with_label_values(&[self.gpu_id.as_str(), label.as_str()])
    }

    pub(crate) fn moved(&self) {
        self.queues.moved.inc();
    }

    pub(crate) fn reply_put_aside(&self, reason: &str) {
        self.replies_put_aside_total.with_label_values(&[self.gpu_id.as_str(), reason]).inc();
    }

    pub(crate) fn forwarded(&self, reason: &str) {
        self.forwarded_total.with_label_values(&[self.gpu_id.as_str(), reason]).inc();
    }
}

/// A kind as a metric's label: only kinds that this worker runs, so that a producer cannot make up labels.
pub(crate) fn known_kind<'a>(executors: &Executors, kind: Option<&'a Kind>) -> &'a str {
    kind.filter(|kind| executors.get(kind).is_some()).map_or("other", Kind::as_str)
}
