//! Spans of tasks, sent to a collector by OTLP over HTTP. What spans there are is the matter of workers and producers; here they get a bounded queue, are gathered and sent.
//!
//! Off unless the configuration, or a standard variable of OpenTelemetry, names a collector. Nobody waits for a span and nothing rests on one: where the queue is full, or the collector is away, spans
//! are dropped and counted.

mod client;
mod sending;
mod target;
mod written;

use std::{sync::Arc, time::Duration};

use prometheus::{IntCounter, Registry};
use protocol::{
    Environment, TraceSink,
    config::TracesSection,
    traces::{Span, TraceId},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use self::{
    sending::{Sender, Told},
    target::Target,
};

/// Most spans that wait to be sent.
pub const QUEUED_MAX: usize = 8_192;
/// How long the end of a program waits for the last spans to be sent.
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);

/// The spans of a process on their way to a collector. Cheap to clone.
#[derive(Clone)]
pub struct Traces {
    queue: Arc<Queue>,
    counts: SpanCounts,
}

/// What became of spans.
#[derive(Debug, Clone)]
pub(crate) struct SpanCounts {
    pub(crate) sent: IntCounter,
    pub(crate) dropped: IntCounter,
}

impl SpanCounts {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            sent: IntCounter::new("gpufleet_trace_spans_sent_total", "Spans that the collector has taken.")?,
            dropped: IntCounter::new(
                "gpufleet_trace_spans_dropped_total",
                "Spans that were dropped: the queue was full, or the collector did not take them.",
            )?,
        })
    }
}

/// What workers and producers see.
struct Queue {
    sender: mpsc::Sender<Told>,
    dropped: IntCounter,
    share: f64,
}

impl TraceSink for Queue {
    fn records(&self, trace_id: TraceId) -> bool {
        trace_id.is_among(self.share)
    }

    fn take(&self, span: Span) {
        if self.sender.try_send(Told::Span(Box::new(span))).is_err() {
            self.dropped.inc();
        }
    }
}

impl Traces {
    /// Begins to send spans, in a background job of `environment`, where the section or this process's variables name a collector; else `None`. A variable that names none that can be used is told in
    /// the log, and nobody traces. Needs a tokio runtime.
    #[must_use]
    pub fn start(section: &TracesSection, environment: &Environment) -> Option<Self> {
        Self::start_with(section, environment, &|name| std::env::var(name).ok())
    }

    /// The same with the variables that `variable` knows.
    #[must_use]
    pub fn start_with(section: &TracesSection, environment: &Environment, variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let opened =
            Target::of(section, variable).and_then(|target| target.map(|target| Self::to(&target, section, environment)).transpose());
        opened.unwrap_or_else(|problem| {
            tracing::warn!(problem, "traces are off");
            None
        })
    }

    fn to(target: &Target, section: &TracesSection, environment: &Environment) -> Result<Self, String> {
        let counts = SpanCounts::new().map_err(|error| error.to_string())?;
        let exporter = target.exporter()?;
        let (sender, told) = mpsc::channel(QUEUED_MAX);
        environment.spawn("send spans", Sender::new(exporter, target.shown.clone(), counts.clone()).run(told));
        tracing::info!(collector = target.shown, sample_ratio = section.sample_ratio, "spans of tasks are sent");
        let queue = Queue { sender, dropped: counts.dropped.clone(), share: section.sample_ratio };
        Ok(Self { queue: Arc::new(queue), counts })
    }

    /// What workers and producers give their spans to, for their [`Environment`].
    #[must_use]
    pub fn sink(&self) -> Arc<dyn TraceSink> {
        Arc::<Queue>::clone(&self.queue)
    }

    /// Adds `gpufleet_trace_spans_sent_total` and `gpufleet_trace_spans_dropped_total`.
    ///
    /// # Errors
    /// The registry has them already.
    pub fn show(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.counts.sent.clone()))?;
        registry.register(Box::new(self.counts.dropped.clone()))
    }

    /// How many spans were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.get()
    }

    /// Waits until what was taken is sent or dropped: up to a second, for a program that ends. Cancel safe.
    pub async fn flush(&self) {
        let flushed = async {
            let (done, sent) = oneshot::channel();
            if self.queue.sender.send(Told::Flush(done)).await.is_ok() {
                let _ = sent.await;
            }
        };
        if timeout(FLUSHED_WITHIN, flushed).await.is_err() {
            tracing::debug!("the last spans were not sent in time");
        }
    }
}
