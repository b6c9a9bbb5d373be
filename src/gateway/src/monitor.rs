//! What a worker without a gateway shows: its metrics, and that it lives.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use prometheus::Registry;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    ConnectionLimits, ServeError, health, metrics,
    server::{Connections, Routers, serve_http},
};

/// How long answers that are under way at a stop may go on.
const GRACE: Duration = Duration::from_millis(500);

/// Answers `/metrics` and `/healthz` on `listener` until `stop`, and ends at most half a second after it; within the default limits of a gateway's connections.
///
/// # Errors
/// None so far.
///
/// # Panics
/// Never: the names of the metrics of its connections, which nobody sees, are valid.
pub async fn serve_metrics(listener: TcpListener, registry: Registry, stop: CancellationToken) -> Result<(), ServeError> {
    let show = move || std::future::ready(metrics::text(&registry));
    let router = Router::new().route("/metrics", get(show)).route("/healthz", get(health::live));
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
