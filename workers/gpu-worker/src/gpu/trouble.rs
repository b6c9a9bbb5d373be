//! What goes wrong with the GPU by itself, whatever its tasks say: it is counted, shown, and acted on.

use std::sync::Arc;

use devices::Consequence;

use super::{health::Cause, quarantine};
use crate::context::Context;

/// Why this process can use its GPU no more.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) reason: String,
    /// A task that runs may have done it: each of them counts as crashed. Otherwise they are handed back, at no cost to them.
    pub(crate) by_a_task: bool,
    /// The Xid that told it, if one did.
    pub(crate) xid: Option<u64>,
}

/// Waits for trouble until the worker stops.
pub(crate) async fn watch(context: Arc<Context>) {
    loop {
        let trouble = tokio::select! {
            biased;
            () = context.ports.stop.now.cancelled() => return,
            trouble = context.gpu.device.trouble() => trouble,
        };
        if let Some(xid) = trouble.xid {
            context.metrics.xid(xid);
        }
        let (gpu_id, reason) = (&context.me.gpu_id, trouble.reason);
        match trouble.what {
            Consequence::Noted => tracing::info!(%gpu_id, reason, "noted"),
            Consequence::Suspected => {
                tracing::warn!(%gpu_id, reason, "the GPU is watched");
                context.gpu.health.doubt(&reason);
            }
            Consequence::Quarantined => quarantine::take_out(&context, reason, Cause::Trouble),
            Consequence::Lost { by_a_task } => {
                tracing::error!(%gpu_id, reason, "this process can use its GPU no more: it ends, and what runs is delivered again");
                let _ = context.gpu.lost.set(Lost { reason, by_a_task, xid: trouble.xid });
                context.ports.stop.now.cancel();
            }
        }
        context.signals.nudge.notify_one();
    }
}
