//! Gathering spans and sending them.

use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use protocol::traces::Span;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{SpanCounts, written::written};

/// Most spans of one request.
const BATCH_MAX: usize = 512;
/// How long the first span of a batch waits for others.
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// How long one request may take. Meanwhile spans are queued, up to [`super::QUEUED_MAX`].
const SENT_WITHIN: Duration = Duration::from_secs(5);

/// What the queue carries.
pub(super) enum Told {
    Span(Box<Span>),
    /// All that came before it is to be sent now; answered when it was.
    Flush(oneshot::Sender<()>),
}

/// Sends what comes through the queue, one batch after the other.
pub(super) struct Sender {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    /// The collector, for people.
    collector: String,
    counts: SpanCounts,
    /// Of the outage that goes on: spans dropped in it.
    lost: Option<u64>,
}

impl Sender {
    pub(super) fn new(exporter: SpanExporter, collector: String, counts: SpanCounts) -> Self {
        let scope = InstrumentationScope::builder("gpufleet").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { exporter, scope, collector, counts, lost: None }
    }

    /// Ends when nobody can tell spans any more, and the last ones were sent.
    pub(super) async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        while let Some(first) = told.recv().await {
            let (batch, flushed) = self.gather(first, &mut told).await;
            if !batch.is_empty() {
                self.send(batch).await;
            }
            if let Some(flushed) = flushed {
                // Who asked may have gone.
                let _ = flushed.send(());
            }
        }
    }

    /// A batch that begins with what came first, and who waits for its end.
    async fn gather(&self, first: Told, told: &mut mpsc::Receiver<Told>) -> (Vec<SpanData>, Option<oneshot::Sender<()>>) {
        let (mut batch, until) = (Vec::new(), Instant::now() + GATHERED_FOR);
        let mut next = Some(first);
        while let Some(came) = next.take() {
            match came {
                Told::Span(span) => batch.push(written(*span, &self.scope)),
                Told::Flush(flushed) => return (batch, Some(flushed)),
            }
            if batch.len() < BATCH_MAX {
                next = timeout_at(until, told.recv()).await.ok().flatten();
            }
        }
        (batch, None)
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let problem = match timeout(SENT_WITHIN, self.exporter.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", SENT_WITHIN.as_secs())),
        };
        match problem {
            None => {
                self.counts.sent.inc_by(spans);
                if let Some(lost) = self.lost.take() {
                    tracing::info!(collector = self.collector, lost, "the collector takes spans again");
                }
            }
            Some(error) => {
                self.counts.dropped.inc_by(spans);
                if self.lost.is_none() {
                    tracing::warn!(
                        collector = self.collector,
                        error,
                        "the collector does not take spans: they are dropped and counted until it does"
                    );
                }
                self.lost = Some(self.lost.unwrap_or_default() + spans);
            }
        }
    }
}
