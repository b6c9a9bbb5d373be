//! What a worker without a gateway shows: its metrics, and that it lives.

use axum::{Router, routing::get};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{ServeError, health, metrics};

/// Answers `/metrics` and `/healthz` on `listener` until `stop`.
///
/// # Errors
/// [`ServeError::Accept`].
pub async fn serve_metrics(listener: TcpListener, registry: Registry, stop: CancellationToken) -> Result<(), ServeError> {
    let show = move || std::future::ready(metrics::text(&registry));
    let router = Router::new().route("/metrics", get(show)).route("/healthz", get(health::live));
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await.map_err(ServeError::Accept)
}
