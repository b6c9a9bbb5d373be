//! What a worker without a gateway shows: its metrics, and that it lives.

use std::sync::Arc;

use axum::{Router, routing::get};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    ConnectionLimits, ServeError, health, metrics,
    server::{Connections, Routers, serve_http},
};

/// Answers `/metrics` and `/healthz` on `listener` until `stop`, within the default limits of a gateway's connections.
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
    serve_http(listener, routers, Arc::new(connections), stop).await;
    Ok(())
}
