//! What a task waits for, or what became of it, in one sentence.

use std::collections::BTreeMap;

use protocol::{
    TaskState, TaskStep,
    insight::{GpuObstacle, Obstacle},
};

use super::{
    Case,
    words::{ago, count, hence, is_or_are, number},
};
use crate::{Observed, index::TaskIndex};

/// The sentence. `ahead`: how many tasks will begin before it, where that is known.
pub(super) fn sentence(observed: &Observed<'_>, index: &TaskIndex, case: &Case, (gpus, ahead): (&[GpuObstacle], Option<u64>)) -> String {
    let now_ms = observed.now_ms;
    let cancel_asked = case.indexed.as_ref().is_some_and(|known| known.cancel_asked);
    let has_ended = case.indexed.as_ref().is_none_or(|known| known.ended_ms.is_some());
    match case.state {
        TaskState::Cancelled if cancel_asked && !has_ended => {
            "It is cancelled; its reply goes out as soon as a worker has it in hand.".to_owned()
        }
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Expired => ended(case, now_ms),
        TaskState::Running => running(index, case, now_ms, cancel_asked),
        _ if cancel_asked => "Somebody asked for its end: it ends as soon as a worker has it in hand.".to_owned(),
        TaskState::Delayed => match case.not_before_ms {
            Some(due_ms) => format!("It is delayed: it must not start before a time that comes {}.", hence(now_ms, due_ms)),
            None => "It is delayed: it must not start before a time that is still to come.".to_owned(),
        },
        TaskState::Retrying => retrying(case, now_ms),
        TaskState::Waiting => waiting(observed, case, gpus, ahead),
    }
}

fn ended(case: &Case, now_ms: u64) -> String {
    let at_ms = case.indexed.as_ref().and_then(|known| known.ended_ms).unwrap_or(case.changed_ms);
    let when = ago(now_ms, at_ms);
    let attempts = if case.attempt > 1 { format!(" at attempt {}", case.attempt) } else { String::new() };
    let on_gpu = case.gpu_id.as_ref().map(|gpu_id| format!(" on GPU {gpu_id}")).unwrap_or_default();
    let error = case.error.as_ref().map(|error| format!(": {}: {}", error.code, error.message.trim_end_matches('.'))).unwrap_or_default();
    match case.state {
        TaskState::Succeeded => format!("It succeeded{on_gpu}{attempts}, {when}."),
        TaskState::Cancelled => format!("It was cancelled, {when}{error}."),
        TaskState::Expired => format!("Its deadline passed, {when}{error}."),
        _ => format!("It failed{on_gpu}{attempts}, {when}{error}."),
    }
}

fn running(index: &TaskIndex, case: &Case, now_ms: u64, cancel_asked: bool) -> String {
    let asked = if cancel_asked { "; somebody asked for its end" } else { "" };
    if case.is_split {
        let slices = index.slices_of(&case.task_id);
        let of = |state: TaskState| slices.iter().filter(|slice| slice.state == state).count() as u64;
        let ended = slices.iter().filter(|slice| slice.state.ended()).count() as u64;
        let (runs, waits) = (of(TaskState::Running), of(TaskState::Waiting) + of(TaskState::Retrying));
        return format!(
            "It was split, and its slices run in its place: {} run, {} wait, {} ended{asked}.",
            number(runs),
            number(waits),
            number(ended)
        );
    }
    let on_gpu = case.gpu_id.as_ref().map(|gpu_id| format!(" on GPU {gpu_id}")).unwrap_or_default();
    let known = case.indexed.as_ref().filter(|known| known.state == TaskState::Running && known.attempt == case.attempt);
    let began_ms = known.and_then(|known| known.began_ms).unwrap_or(case.changed_ms);
    format!("It runs{on_gpu}: attempt {} began {}{asked}.", case.attempt.max(1), ago(now_ms, began_ms))
}

fn retrying(case: &Case, now_ms: u64) -> String {
    let error = case.error.as_ref().map(|error| format!(" ({}: {})", error.code, error.message.trim_end_matches('.'))).unwrap_or_default();
    let next = match case.due_ms {
        Some(due_ms) if due_ms > now_ms => format!("the next one is due {}", hence(now_ms, due_ms)),
        Some(_) => "the next one is due, and waits for a worker".to_owned(),
        None => "another one follows".to_owned(),
    };
    format!("Attempt {} failed{error}, and {next}.", case.attempt.max(1))
}

fn waiting(observed: &Observed<'_>, case: &Case, gpus: &[GpuObstacle], ahead: Option<u64>) -> String {
    let said =
        case.waiting_for.as_deref().map(|reason| reason.strip_prefix(TaskStep::UNSERVED).unwrap_or(reason).trim().trim_end_matches('.'));
    let fitting: Vec<&GpuObstacle> = gpus.iter().filter(|gpu| gpu.fits).collect();
    if observed.ready.is_none() {
        return "The broker does not answer: tasks in its queues cannot be delivered until it does.".to_owned();
    }
    if fitting.is_empty() {
        return nothing_fits(case, gpus, said);
    }
    if case.is_forwarded
        && let Some(gpu_id) = &case.gpu_id
    {
        return format!("It was forwarded to GPU {gpu_id}, and takes the next free slot there.{}", its_obstacle(gpus, gpu_id));
    }
    if let Some(blocked) = blocked(&fitting) {
        return format!("{blocked}.");
    }
    if let Some(said) = said {
        return format!("A worker has had it in hand, and said why it waits: {said}.");
    }
    in_line(observed, &fitting, ahead)
}

fn its_obstacle(gpus: &[GpuObstacle], gpu_id: &protocol::GpuId) -> String {
    match gpus.iter().find(|gpu| gpu.gpu_id == *gpu_id) {
        Some(gpu) if gpu.obstacle != Obstacle::None => format!(" Now {}.", gpu.words),
        Some(_) => String::new(),
        None => " That GPU does not live: the task comes back once its worker's time is over.".to_owned(),
    }
}

/// No GPU could ever run it.
fn nothing_fits(case: &Case, gpus: &[GpuObstacle], said: Option<&str>) -> String {
    let said = said.map(|said| format!(" A worker said: {said}.")).unwrap_or_default();
    if let Some(only) = case.only.as_ref().filter(|only| gpus.iter().all(|gpu| gpu.gpu_id != **only)) {
        return format!("It names GPU {only}, which does not live now: it is waited for.{said}");
    }
    if gpus.is_empty() {
        return format!("No GPU of its pool lives.{said}");
    }
    // What is nearest to a fit says most.
    let nearness = |gpu: &&GpuObstacle| match gpu.obstacle {
        Obstacle::OtherGpu => 0,
        Obstacle::Kind => 1,
        Obstacle::TooSmall => 2,
        _ => 3,
    };
    let nearest = gpus.iter().max_by_key(nearness).map(|gpu| (gpu.obstacle, format!("{} (GPU {})", gpu.words, gpu.gpu_id)));
    let why = match (nearest, &case.kind) {
        (Some((Obstacle::Kind, _)), Some(kind)) if case.only.is_none() => format!("none runs kind {kind}"),
        (Some((_, words)), _) => words,
        (None, _) => String::new(),
    };
    format!("None of the {} of its pool can run it: {why}.{said}", count(gpus.len() as u64, "living GPU"))
}

/// Where no GPU that fits takes tasks, for reasons other than tasks that run. `None`: one takes it, or is busy.
fn blocked(fitting: &[&GpuObstacle]) -> Option<String> {
    if fitting.iter().any(|gpu| matches!(gpu.obstacle, Obstacle::None | Obstacle::Full)) {
        return None;
    }
    if let [only] = fitting {
        return Some(format!("The only GPU that could run it, {}, does not take it now: {}", only.gpu_id, only.words));
    }
    let mut by_obstacle: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for gpu in fitting {
        by_obstacle.entry(name(gpu.obstacle)).or_insert((0, &gpu.words)).0 += 1;
    }
    let total = count(fitting.len() as u64, "GPU");
    if let ([first, ..], [(name, (_, words))]) = (fitting, &Vec::from_iter(&by_obstacle)[..]) {
        return Some(format!("{total} could run it, and none takes it now: all are {name} (GPU {}: {words})", first.gpu_id));
    }
    let parts: Vec<String> = by_obstacle.iter().map(|(name, (of, _))| format!("{} {name}", number(*of))).collect();
    Some(format!("{total} could run it, and none takes it now: {}", parts.join(", ")))
}

const fn name(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::KindDown => "with its kind down",
        Obstacle::Memory => "without the memory free",
        Obstacle::Health => "quarantined or on probation",
        Obstacle::Draining => "drained by an operator",
        Obstacle::Stopping => "stopping",
        Obstacle::NotConsuming => "without the broker",
        Obstacle::Threshold => "over a threshold",
        _ => "otherwise not free",
    }
}

fn in_line(observed: &Observed<'_>, fitting: &[&GpuObstacle], ahead: Option<u64>) -> String {
    let takes = |gpu: &&&GpuObstacle| matches!(gpu.obstacle, Obstacle::None | Obstacle::Full);
    let taking = fitting.iter().filter(takes);
    let slots_of = |gpu: &&GpuObstacle| {
        observed.gpus.iter().find(|view| view.row.gpu.gpu_id == gpu.gpu_id).map_or(0, |view| u64::from(view.row.slots))
    };
    let slots: u64 = taking.clone().map(slots_of).sum();
    let on = format!("{} of {}", count(slots, "slot"), count(taking.count() as u64, "GPU"));
    let is_free = fitting.iter().any(|gpu| gpu.obstacle == Obstacle::None);
    match ahead {
        Some(0) if is_free => "Nothing is in its way: it begins as soon as the broker delivers it.".to_owned(),
        Some(0) => format!("It is the next of those that wait: it begins with the first of {on} that is free."),
        Some(ahead) => format!("It waits its turn: {} {} before it, on {on}.", count(ahead, "task"), is_or_are(ahead)),
        None => format!("It waits its turn on {on}; how many tasks are before it is not known."),
    }
}
