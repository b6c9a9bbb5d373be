//! Who keeps a process of a handler alive: starts it, sees it through, lets it rest, and starts the next one.

use std::{sync::Arc, time::Duration};

use super::{
    handler::Handler,
    life::{Ended, live},
    line::Phase,
    pauses::Pauses,
};

/// Keeps one of a handler's processes until the handler is stopped.
pub(super) async fn keep(handler: Arc<Handler>, seat: usize) {
    let (mut pauses, mut life) = (Pauses::default(), 0);
    let mut start = Phase::Starting { again: None, from_sleep: false };
    loop {
        if handler.stop_now.is_cancelled() || handler.stop_gently.is_cancelled() {
            break;
        }
        handler.line.set(seat, start);
        handler.tell();
        life += 1;
        start = match live(&handler, seat, life).await {
            Ended::Stopped => break,
            Ended::Idle => {
                tracing::info!(handler = handler.name, gpu_id = %handler.place.gpu.gpu_id, "handler ended: nothing was to be done; the next task starts it");
                if !woken(&handler, seat).await {
                    break;
                }
                Phase::Starting { again: None, from_sleep: true }
            }
            Ended::Renewed(why) => {
                tracing::info!(handler = handler.name, gpu_id = %handler.place.gpu.gpu_id, why, "handler started anew");
                Phase::Starting { again: Some(why), from_sleep: false }
            }
            Ended::Failed { why, ready_for } => {
                let pause = pauses.after(ready_for);
                tracing::warn!(handler = handler.name, gpu_id = %handler.place.gpu.gpu_id, pause_s = pause.as_secs(), "{why}");
                handler.failed_first(&why);
                if !pause.is_zero() && !rested(&handler, seat, &why, pause).await {
                    break;
                }
                Phase::Starting { again: Some(why), from_sleep: false }
            }
        };
    }
    handler.line.set(seat, Phase::Over);
    handler.tell();
}

/// Waits for the next task. Whether there is one, and not the end of the handler.
async fn woken(handler: &Handler, seat: usize) -> bool {
    let wake = handler.line.wake_of(seat);
    tokio::select! {
        biased;
        () = handler.stop_now.cancelled() => false,
        () = handler.stop_gently.cancelled() => false,
        () = wake.notified() => true,
    }
}

/// Rests. Whether it came to its end, and not the handler.
async fn rested(handler: &Handler, seat: usize, why: &str, pause: Duration) -> bool {
    handler.line.set(seat, Phase::Resting { why: why.to_owned(), pause });
    handler.tell();
    tokio::select! {
        biased;
        () = handler.stop_now.cancelled() => false,
        () = handler.stop_gently.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}
