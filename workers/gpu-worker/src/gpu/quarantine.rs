//! Taking a GPU out of its pool, and back in once its canary passes.

use std::{sync::Arc, time::Duration};

use protocol::TaskId;

use super::health::Cause;
use crate::context::Context;

/// The longest that a canary may take.
const CANARY_LIMIT: Duration = Duration::from_secs(30);

/// An attempt failed in a way that another try may mend: on this GPU, or only on another one.
pub(crate) async fn failed(context: &Arc<Context>, task_id: &TaskId, error: &str) {
    let failures_max = context.me.options.failures_to_quarantine;
    if failures_max == 0 || !context.gpu.health.suspect(task_id, error, failures_max) {
        return;
    }
    if others_can_take_over(context).await != Some(true) {
        return context.gpu.health.stays();
    }
    let reason = context.gpu.health.reason();
    take_out(context, reason, Cause::Failures);
}

/// Takes the GPU out of the pool until its canary passes.
pub(crate) fn take_out(context: &Arc<Context>, reason: String, cause: Cause) {
    context.ports.environment.spawn("quarantine", context.lives.track_future(quarantine(Arc::clone(context), reason, cause)));
}

/// Tasks that fail everywhere say nothing of a GPU: it is only taken out while most of the others take tasks. `None`: not known.
async fn others_can_take_over(context: &Context) -> Option<bool> {
    let rows = context.ports.table.rows(&context.me.options.pool).await.ok()?;
    let others: Vec<bool> = rows
        .iter()
        .filter(|view| view.row.gpu.gpu_id != context.me.gpu_id)
        .map(|view| view.eligible && view.row.health.takes_tasks())
        .collect();
    let taking = others.iter().filter(|taking| **taking).count();
    Some(taking > 0 && taking * 2 > others.len())
}

/// Others may have gone at the same moment: once the table shows that this GPU is out, there must still be enough that are not.
async fn shown_and_still_right(context: &Context) -> bool {
    // Two heartbeats: the first may have been under way already, with a row that does not show it.
    for _ in 0..2 {
        let seen = context.signals.beats.now();
        context.signals.nudge.notify_one();
        tokio::select! {
            biased;
            () = context.ports.stop.now.cancelled() => {}
            () = context.ports.stop.gently.cancelled() => {}
            () = context.signals.beats.above(seen) => {}
        }
    }
    others_can_take_over(context).await != Some(false)
}

/// Takes the GPU out, and back in once its canary passes.
async fn quarantine(context: Arc<Context>, reason: String, cause: Cause) {
    let Some(mut pause) = context.gpu.health.take_out(&reason, cause, context.me.options.quarantine) else { return };
    let mut reason = reason;
    loop {
        context.metrics.gpu_quarantines.inc();
        tracing::error!(gpu_id = %context.me.gpu_id, reason, pause_ms = pause.as_millis(), "GPU quarantined: it takes no tasks until its canary passes");
        if !shown_and_still_right(&context).await && context.gpu.health.readmit_unless_certain() {
            tracing::warn!(gpu_id = %context.me.gpu_id, "not quarantined after all: too few of the other GPUs take tasks");
            return context.signals.nudge.notify_one();
        }
        tokio::select! {
            biased;
            () = context.ports.stop.gently.cancelled() => return,
            paused = context.ports.pause(pause) => if paused.is_err() { return },
        }
        context.gpu.health.probation();
        context.signals.nudge.notify_one();
        match tokio::time::timeout(CANARY_LIMIT, context.gpu.device.probe()).await {
            Ok(Ok(())) => break,
            Ok(Err(problem)) => reason = format!("its canary failed: {problem}"),
            Err(_) => reason = format!("its canary gave no answer within {} s", CANARY_LIMIT.as_secs()),
        }
        pause = context.gpu.health.keep_out(&reason, context.me.options.quarantine);
    }
    context.gpu.health.readmit();
    tracing::info!(gpu_id = %context.me.gpu_id, "GPU re-admitted with one slot");
    context.signals.nudge.notify_one();
}
