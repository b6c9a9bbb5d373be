//! A GPU's state in words.

use protocol::gpu::{GpuView, WorkerPhase};

use super::one_line;

/// What keeps a GPU from taking tasks, or its health; with the reason, such as an Xid, where it has one.
pub(crate) fn state(view: &GpuView) -> String {
    let row = &view.row;
    let health = match row.health_reason.as_str() {
        "" => row.health.name().to_owned(),
        reason => format!("{} ({})", row.health.name(), one_line(reason)),
    };
    let is_well = row.health_reason.is_empty() && row.health.takes_tasks();
    if let Some(word) = leaving(view) {
        return if is_well { word.to_owned() } else { format!("{word}; {health}") };
    }
    let throttled: Vec<&str> = row.sample.throttled_by.iter().map(|throttle| throttle.name()).collect();
    match view {
        _ if !row.consuming => "no broker".to_owned(),
        _ if !row.health_reason.is_empty() => health,
        _ if !throttled.is_empty() => format!("{health}, throttled: {}", throttled.join(", ")),
        _ if !view.eligible && view.held < row.slots => format!("{health}, over a threshold"),
        _ => health,
    }
}

/// Of a worker that takes no more: by an operator's drain, or because it stops; and whether it is empty already.
fn leaving(view: &GpuView) -> Option<&'static str> {
    match (phase(view), view.row.stopping) {
        (WorkerPhase::Serving, _) => None,
        (WorkerPhase::Draining, false) => Some("draining"),
        (WorkerPhase::Drained, false) => Some("drained"),
        (WorkerPhase::Draining, true) => Some("stopping"),
        (WorkerPhase::Drained, true) => Some("stopping, drained"),
    }
}

/// Where its worker is between taking tasks and its end, whether or not who listed it says so.
pub(crate) fn phase(view: &GpuView) -> WorkerPhase {
    GpuView::phase_of(&view.row, view.held, view.draining)
}
