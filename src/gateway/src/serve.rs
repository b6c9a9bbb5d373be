//! From a listener to the end of the last request.

use std::sync::Arc;

use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Gateway, ServeError, router,
    routes::router_when_full,
    server::{Routers, serve_http},
};

/// Answers on `listener` until `stop`; then takes no new connection, ends the streams of tasks' events, and ends when the last request was
/// answered.
///
/// # Errors
/// [`ServeError::CutOff`] if requests are open when the drain grace is over.
pub async fn serve(listener: TcpListener, gateway: Gateway, stop: CancellationToken) -> Result<(), ServeError> {
    let grace = gateway.options.drain_grace;
    if let Ok(address) = listener.local_addr() {
        // Set once: a gateway has one listener.
        let _set = gateway.listens_on.set(address);
        info!(%address, "the gateway listens");
    }
    // The first payloads are to be checked too.
    drop(gateway.kinds.now());
    let observing = stop.child_token();
    let _ends_with_this = observing.clone().drop_guard();
    let observatory = gateway.observatory.clone();
    tokio::spawn(async move { observatory.run(observing).await });
    let (closing, connections) = (gateway.closing.clone(), Arc::clone(&gateway.connections));
    let routers = Routers { all: router(gateway.clone()), when_full: router_when_full(gateway) };
    let answering = serve_http(listener, routers, connections, stop.clone());
    let out_of_grace = async {
        stop.cancelled().await;
        closing.cancel();
        sleep(grace).await;
    };
    let served = tokio::select! {
        biased;
        () = answering => Ok(()),
        () = out_of_grace => Err(ServeError::CutOff { after_ms: grace.as_millis() }),
    };
    closing.cancel();
    served
}
