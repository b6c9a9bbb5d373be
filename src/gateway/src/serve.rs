//! From a listener to the end of the last request.

use axum::serve as serve_http;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{Gateway, ServeError, router};

/// Answers on `listener` until `stop`; then takes no new connection, ends the streams of tasks' events, and ends when the last request was
/// answered.
///
/// # Errors
/// [`ServeError::CutOff`] if requests are open when the drain grace is over.
pub async fn serve(listener: TcpListener, gateway: Gateway, stop: CancellationToken) -> Result<(), ServeError> {
    let grace = gateway.options.drain_grace;
    if let Ok(address) = listener.local_addr() {
        info!(%address, "the gateway listens");
    }
    let closing = gateway.closing.clone();
    let stopped = stop.clone();
    let answering = serve_http(listener, router(gateway)).with_graceful_shutdown(async move {
        stopped.cancelled().await;
        closing.cancel();
    });
    let out_of_grace = async {
        stop.cancelled().await;
        sleep(grace).await;
    };
    tokio::select! {
        biased;
        ended = answering.into_future() => ended.map_err(ServeError::Accept),
        () = out_of_grace => Err(ServeError::CutOff { after_ms: grace.as_millis() }),
    }
}
