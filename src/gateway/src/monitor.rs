//! What a worker without a gateway shows: its metrics, that it lives, and whether it can run every kind that it is to run.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{
    Registry,
    proto::{Metric, MetricFamily},
};
use serde::Serialize;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    ConnectionLimits, ServeError, health, metrics,
    server::{Connections, Routers, serve_http},
};

/// How long answers that are under way at a stop may go on.
const GRACE: Duration = Duration::from_millis(500);

/// The metric in which workers say whether they can run a kind now.
const KIND_UP: &str = "gpufleet_kind_up";
/// The metric in which workers say where they are between taking tasks and their end.
const PHASE: &str = "gpufleet_worker_phase";

/// Whether a worker's process is ready.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Readiness {
    /// `ok`, `starting` (no worker of the process has begun), `draining` (all of them take no more tasks, by an operator's drain or because they stop) or `down`.
    status: &'static str,
    /// The kinds that are down, each with its GPU.
    down: Vec<Down>,
}

/// A kind that a GPU cannot run now.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Down {
    gpu_id: String,
    kind: String,
}

impl Readiness {
    /// As the metrics of the process say.
    fn of(families: &[MetricFamily]) -> Self {
        let kinds: Vec<_> = families.iter().filter(|family| family.name() == KIND_UP).flat_map(MetricFamily::get_metric).collect();
        let is_down = kinds.iter().filter(|metric| metric.get_gauge().get_value() < 0.5);
        let down: Vec<Down> =
            is_down.map(|metric| Down { gpu_id: label(metric, "gpu_id").to_owned(), kind: label(metric, "kind").to_owned() }).collect();
        let status = match (kinds.is_empty(), takes_none(families), down.is_empty()) {
            (true, ..) => "starting",
            (false, true, _) => "draining",
            (false, false, true) => "ok",
            (false, false, false) => "down",
        };
        Self { status, down }
    }
}

fn label<'m>(metric: &'m Metric, name: &str) -> &'m str {
    metric.get_label().iter().find(|label| label.name() == name).map_or("", |label| label.value())
}

/// Whether there are workers, and none of them takes tasks.
fn takes_none(families: &[MetricFamily]) -> bool {
    let phases = families.iter().filter(|family| family.name() == PHASE).flat_map(MetricFamily::get_metric);
    let serving: Vec<bool> =
        phases.filter(|metric| label(metric, "phase") == "serving").map(|metric| metric.get_gauge().get_value() > 0.5).collect();
    !serving.is_empty() && !serving.contains(&true)
}

impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        let code = if self.status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, Json(self)).into_response()
    }
}

/// Answers `/metrics`, `/healthz` and `/readyz` on `listener` until `stop`, and ends at most half a second after it; within the default limits of a gateway's connections.
///
/// # Errors
/// None so far.
///
/// # Panics
/// Never: the names of the metrics of its connections, which nobody sees, are valid.
pub async fn serve_metrics(listener: TcpListener, registry: Registry, stop: CancellationToken) -> Result<(), ServeError> {
    let shown = registry.clone();
    let show = move || std::future::ready(metrics::text(&shown));
    let ready = move || std::future::ready(Readiness::of(&registry.gather()));
    let router = Router::new().route("/metrics", get(show)).route("/healthz", get(health::live)).route("/readyz", get(ready));
    let connections = Connections::new(ConnectionLimits::default()).expect("the names of the metrics are valid");
    let routers = Routers { all: router.clone(), when_full: router };
    // The answers are made at once: only a client that does not take its own would last longer, and a worker that ends waits for none such.
    let out_of_grace = async {
        stop.cancelled().await;
        sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        () = serve_http(listener, routers, Arc::new(connections), stop.clone()) => {}
        () = out_of_grace => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus::{GaugeVec, Opts};

    use super::*;

    #[test]
    fn a_worker_is_ready_once_it_runs_every_kind() {
        let registry = Registry::new();
        let up = GaugeVec::new(Opts::new(KIND_UP, "for the test"), &["gpu_id", "kind"]).expect("a good name");
        registry.register(Box::new(up.clone())).expect("a fresh registry");
        let ready = || Readiness::of(&registry.gather());
        assert_eq!(ready().status, "starting");
        for (kind, value) in [("echo", 1.0), ("embed", 0.0)] {
            up.with_label_values(&["sim-0", kind]).set(value);
        }
        assert_eq!(ready(), Readiness { status: "down", down: vec![Down { gpu_id: "sim-0".to_owned(), kind: "embed".to_owned() }] });
        assert_eq!(ready().into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        up.with_label_values(&["sim-0", "embed"]).set(1.0);
        assert_eq!((ready().status, ready().into_response().status()), ("ok", StatusCode::OK));
    }

    #[test]
    fn a_process_is_not_ready_once_none_of_its_workers_takes_tasks() {
        let registry = Registry::new();
        let gauges = |name, labels: &[&str]| {
            let gauges = GaugeVec::new(Opts::new(name, "for the test"), labels).expect("a good name");
            registry.register(Box::new(gauges.clone())).expect("a fresh registry");
            gauges
        };
        let (up, phase) = (gauges(KIND_UP, &["gpu_id", "kind"]), gauges(PHASE, &["gpu_id", "phase"]));
        let ready = || Readiness::of(&registry.gather());
        for gpu_id in ["sim-0", "sim-1"] {
            up.with_label_values(&[gpu_id, "echo"]).set(1.0);
            phase.with_label_values(&[gpu_id, "serving"]).set(1.0);
            phase.with_label_values(&[gpu_id, "draining"]).set(0.0);
        }
        assert_eq!(ready().status, "ok");
        phase.with_label_values(&["sim-0", "serving"]).set(0.0);
        phase.with_label_values(&["sim-0", "draining"]).set(1.0);
        assert_eq!(ready().status, "ok", "another one takes tasks");
        phase.with_label_values(&["sim-1", "serving"]).set(0.0);
        assert_eq!((ready().status, ready().into_response().status()), ("draining", StatusCode::SERVICE_UNAVAILABLE));
    }
}
