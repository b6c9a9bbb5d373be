//! Telling the table between heartbeats: that slots are not needed any more, and that offers were taken. Nobody waits for it, and what is lost is told by the next heartbeat.

use std::sync::Arc;

use gpu_table::Telling;
use tokio::time::Instant;

use crate::{
    claim::slots::{Due, Slots},
    me::{Me, Pace},
    ports::Ports,
};

/// Tells until the worker stops.
pub(crate) async fn run(ports: Ports, me: Arc<Me>, slots: Arc<Slots>, pace: Arc<Pace>) {
    loop {
        let until = match slots.due(pace.keep()) {
            Due::Never => None,
            Due::At(until) => Some(until),
            Due::Now(holding, taken) => {
                let telling = Telling {
                    pool: me.options.pool.clone(),
                    gpu_id: me.gpu_id.clone(),
                    incarnation: me.incarnation.clone(),
                    holding,
                    taken,
                };
                match ports.table.tell(&telling).await {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::debug!(%error, "the table did not hear how many slots are held; the next heartbeat says it");
                        Some(Instant::now() + me.options.lease)
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = ports.stop.now.cancelled() => return,
            () = slots.changed() => {}
            () = sleep_until(until) => {}
        }
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
