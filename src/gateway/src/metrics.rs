//! What the gateway counts, and where it shows it.

mod fleet;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use producer::Counts;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector, exponential_buckets,
};
use tokio::time::{Instant, timeout};
use tracing::error;

use self::fleet::FleetMetrics;
use crate::{Gateway, Problem, events::STREAMS_MAX, problem::ProblemKind};

/// How long a scrape waits to hear how many groups there are.
const GROUPS_ASKED: Duration = Duration::from_millis(500);
/// How often the store is asked for that at most, whether or not it answers: a scrape costs nothing, and anybody may scrape.
const GROUPS_ASKED_EVERY: Duration = Duration::from_secs(15);

/// The gateway's own metrics, named `gateway_…`, those of bulk requests, and those of the whole fleet.
pub struct GatewayMetrics {
    requests_total: IntCounterVec,
    request_seconds: HistogramVec,
    tasks_waited_for: IntGauge,
    event_streams: IntGauge,
    groups: IntGauge,
    /// When the store was last asked for them.
    groups_asked: Mutex<Option<Instant>>,
    replies_total: IntCounterVec,
    /// Lines of bulk requests, by result.
    pub(crate) bulk_lines_total: IntCounterVec,
    /// Questions to the store about tasks that are waited for by many.
    pub(crate) wait_looks_total: IntCounter,
    fleet: FleetMetrics,
    /// What of the producer's counts is in `replies_total` already.
    counted: Mutex<Counts>,
}

impl GatewayMetrics {
    /// Registers the gateway's metrics.
    ///
    /// # Errors
    /// The registry has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        // 0.5 ms to 65 s: from a status to a long predict.
        let seconds = HistogramOpts::new("gateway_request_seconds", "Time from a request's head to its answer's head, by route.")
            .buckets(exponential_buckets(0.000_5, 2.0, 18)?);
        let requests = Opts::new("gateway_requests_total", "Requests answered, by route, method and status code.");
        let replies =
            Opts::new("gateway_replies_total", "Replies by how they came: arrived, looked_up (in the store), ignored (nobody waited).");
        let lines = Opts::new(
            "gpufleet_bulk_lines_total",
            "Lines of bulk requests by result: accepted, refused (the line is at fault), full, unavailable, failed.",
        );
        Ok(Self {
            requests_total: add(registry, IntCounterVec::new(requests, &["route", "method", "code"])?)?,
            request_seconds: add(registry, HistogramVec::new(seconds, &["route"])?)?,
            tasks_waited_for: add(registry, IntGauge::new("gateway_tasks_waited_for", "Tasks whose reply is awaited now.")?)?,
            event_streams: add(registry, IntGauge::new("gateway_event_streams", "Streams of tasks' events that are open now.")?)?,
            groups: add(registry, IntGauge::new("gateway_groups", "Groups of tasks that the store knew when it was last asked.")?)?,
            groups_asked: Mutex::default(),
            replies_total: add(registry, IntCounterVec::new(replies, &["how"])?)?,
            bulk_lines_total: add(registry, IntCounterVec::new(lines, &["result"])?)?,
            wait_looks_total: add(registry, IntCounter::new("gateway_wait_looks_total", "Questions to the store for tasks:wait.")?)?,
            fleet: FleetMetrics::register(registry)?,
            counted: Mutex::default(),
        })
    }

    /// Whether it is time to ask for the number of groups again; whoever hears so asks.
    fn groups_are_due(&self) -> bool {
        let mut asked = self.groups_asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = asked.is_none_or(|asked| asked.elapsed() >= GROUPS_ASKED_EVERY);
        if is_due {
            *asked = Some(Instant::now());
        }
        is_due
    }

    /// Brings what the producer counts up to date.
    fn follow(&self, counts: Counts) {
        // Two scrapes at once must not count the same reply twice.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = [
            ("arrived", counts.replies, counted.replies),
            ("looked_up", counts.replies_looked_up, counted.replies_looked_up),
            ("ignored", counts.replies_ignored, counted.replies_ignored),
        ];
        for (how, now, before) in grown {
            self.replies_total.with_label_values(&[how]).inc_by(now.saturating_sub(before));
        }
        self.tasks_waited_for.set(i64::try_from(counts.waiting).unwrap_or(i64::MAX));
        *counted = counts;
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Counts and times every request, whatever answers it.
pub(crate) async fn observe(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    // The route's pattern, never the path: a label must not grow with the ids that clients ask for.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = known_method(&request);
    let started = Instant::now();
    let response = next.run(request).await;
    let metrics = &gateway.metrics;
    metrics.request_seconds.with_label_values(&[&route]).observe(started.elapsed().as_secs_f64());
    metrics.requests_total.with_label_values(&[route.as_str(), method, response.status().as_str()]).inc();
    response
}

/// A client may invent methods; a label may not.
fn known_method(request: &Request) -> &'static str {
    ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"]
        .into_iter()
        .find(|known| *known == request.method().as_str())
        .unwrap_or("other")
}

/// `GET /metrics`: everything in the registry.
pub(crate) async fn show(State(gateway): State<Gateway>) -> Result<Response, Problem> {
    gateway.metrics.follow(gateway.ports.producer.counts());
    let streams = STREAMS_MAX.saturating_sub(gateway.streams.available_permits());
    gateway.metrics.event_streams.set(i64::try_from(streams).unwrap_or(i64::MAX));
    // Where the store does not answer soon, what it said last stays.
    if gateway.metrics.groups_are_due()
        && let Ok(Ok(known)) = timeout(GROUPS_ASKED, gateway.groups().known()).await
    {
        gateway.metrics.groups.set(i64::try_from(known).unwrap_or(i64::MAX));
    }
    let _nobody_reads_half_of_it = gateway.metrics.fleet.follow(&gateway.observatory);
    text(&gateway.ports.registry)
}

/// Everything in `registry`, as Prometheus reads it.
pub(crate) fn text(registry: &Registry) -> Result<Response, Problem> {
    let text = TextEncoder::new().encode_to_string(&registry.gather());
    let text = text.map_err(|error| {
        error!(%error, "write the metrics as text");
        Problem::new(ProblemKind::Internal, "the metrics cannot be written as text; the gateway's log has the details")
    })?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
