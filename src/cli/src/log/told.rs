//! A step in words.

use protocol::{StepName, TaskStep};

use crate::words::{count, since, span};

/// What happened, with what the step says of it.
pub(super) fn in_words(step: &TaskStep) -> String {
    let (sentence, details) = match step.step {
        StepName::Submitted => (with_items("submitted", step), asked(step)),
        StepName::Delayed => (due(step), asked(step)),
        StepName::Waits => ("waits".to_owned(), Vec::new()),
        StepName::Forwarded => (format!("forwarded{}", to_gpu("to", step)), chosen(step)),
        StepName::Began => (format!("began{}", to_gpu("on", step)), began(step)),
        StepName::Retrying => (format!("attempt failed{}", to_gpu("on", step)), ended(step)),
        StepName::Crashed => (format!("its worker or its process died{}", to_gpu("on", step)), ended(step)),
        StepName::Split => (with_items("split into slices", step), Vec::new()),
        StepName::CancelAsked => ("its end was asked for".to_owned(), Vec::new()),
        StepName::Ended => (step.outcome.map_or("ended", |outcome| outcome.name()).to_owned() + &to_gpu("on", step), ended(step)),
        StepName::ReplyWaits => ("its reply waits".to_owned(), Vec::new()),
        StepName::Buried => ("buried among the dead letters".to_owned(), Vec::new()),
        StepName::Requeued => ("requeued by an operator".to_owned(), Vec::new()),
        StepName::Other => ("a step that this version does not know".to_owned(), Vec::new()),
    };
    let mut text = sentence;
    if !details.is_empty() {
        text.push_str(&format!(" ({})", details.join(", ")));
    }
    if let Some(error) = &step.error {
        text.push_str(&format!(": {}: {}", error.code, error.message));
    }
    if let Some(reason) = &step.reason {
        text.push_str(&format!(": {reason}"));
    }
    if let Some(ms) = step.after_ms {
        text.push_str(&format!("; tried again in {}", span(ms as f64)));
    }
    text
}

fn with_items(word: &str, step: &TaskStep) -> String {
    step.items.map_or_else(|| word.to_owned(), |items| format!("{word}, {}", count(u64::from(items), "item")))
}

fn due(step: &TaskStep) -> String {
    let due = step.not_before_ms.map(|at_ms| format!(", due {} later", since(step.at_ms, at_ms)));
    format!("delayed{}", due.unwrap_or_default())
}

fn to_gpu(word: &str, step: &TaskStep) -> String {
    step.gpu_id.as_ref().map(|gpu_id| format!(" {word} {gpu_id}")).unwrap_or_default()
}

/// What its producer asked for.
fn asked(step: &TaskStep) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(step.kind.as_ref().map(|kind| format!("kind {kind}")));
    parts.extend(step.priority.map(|priority| format!("priority {priority}")));
    parts.extend(step.group.as_ref().map(|group| format!("group {group}")));
    parts.extend(step.specific_gpu_id.as_ref().map(|gpu_id| format!("only on {gpu_id}")));
    parts.extend(step.start_before_ms.map(|at_ms| format!("not after {}", since(step.at_ms, at_ms))));
    parts.extend(step.trace_id.as_ref().map(|trace_id| format!("trace {trace_id}")));
    parts
}

/// By which strategy, among how many.
fn chosen(step: &TaskStep) -> Vec<String> {
    let mut parts = Vec::new();
    match (step.strategy, step.among) {
        (Some(strategy), Some(among)) => parts.push(format!("{strategy} among {}", count(u64::from(among), "GPU"))),
        (Some(strategy), None) => parts.push(strategy.to_string()),
        (None, Some(among)) => parts.push(format!("among {}", count(u64::from(among), "GPU"))),
        (None, None) => {}
    }
    parts
}

fn began(step: &TaskStep) -> Vec<String> {
    let mut parts: Vec<String> = step.attempt.map(|attempt| format!("attempt {attempt}")).into_iter().collect();
    parts.extend(chosen(step));
    parts.extend(step.waited_ms.map(|ms| format!("waited {}", span(ms))));
    parts
}

/// How long the attempt took, and with what.
fn ended(step: &TaskStep) -> Vec<String> {
    let mut parts: Vec<String> = step.attempt.map(|attempt| format!("attempt {attempt}")).into_iter().collect();
    parts.extend(step.run_ms.map(|ms| format!("ran {}", span(ms))));
    parts.extend(step.load_ms.filter(|ms| *ms > 0.0).map(|ms| format!("of it {} loading a model", span(ms))));
    parts.extend(step.transfer_ms.filter(|ms| *ms > 0.0).map(|ms| format!("{} bringing tensors", span(ms))));
    parts
}

#[cfg(test)]
mod tests {
    use protocol::{GpuId, Outcome, PoolName, Strategy, TaskError, TaskId};

    use super::*;

    fn step(name: StepName) -> TaskStep {
        TaskStep::new(name, TaskId::new("t").unwrap(), PoolName::default(), 1_000)
    }

    #[test]
    fn each_step_has_its_words() {
        let submitted = TaskStep { kind: Some("embed".parse().unwrap()), priority: Some(5), items: Some(64), ..step(StepName::Submitted) };
        assert_eq!(in_words(&submitted), "submitted, 64 items (kind embed, priority 5)");
        assert_eq!(in_words(&TaskStep { not_before_ms: Some(6_000), ..step(StepName::Delayed) }), "delayed, due 5.0 s later");
        let waits = TaskStep { reason: Some("every slot is held".to_owned()), ..step(StepName::Waits) };
        assert_eq!(in_words(&waits), "waits: every slot is held");
        let gpu_id = Some(GpuId::new("sim-1").unwrap());
        let began = TaskStep {
            gpu_id: gpu_id.clone(),
            attempt: Some(2),
            strategy: Some(Strategy::LeastLoaded),
            among: Some(4),
            waited_ms: Some(12.0),
            ..step(StepName::Began)
        };
        assert_eq!(in_words(&began), "began on sim-1 (attempt 2, least_loaded among 4 GPUs, waited 12 ms)");
        let retrying = TaskStep {
            gpu_id: gpu_id.clone(),
            attempt: Some(1),
            run_ms: Some(40.0),
            load_ms: Some(20.0),
            error: Some(TaskError::new("broken", "as asked")),
            after_ms: Some(2_000),
            ..step(StepName::Retrying)
        };
        let expected =
            "attempt failed on sim-1 (attempt 1, ran 40 ms, of it 20 ms loading a model): broken: as asked; tried again in 2.0 s";
        assert_eq!(in_words(&retrying), expected);
        let ended = TaskStep { gpu_id, outcome: Some(Outcome::Succeeded), run_ms: Some(7.0), ..step(StepName::Ended) };
        assert_eq!(in_words(&ended), "succeeded on sim-1 (ran 7.0 ms)");
        assert_eq!(in_words(&step(StepName::Other)), "a step that this version does not know");
    }
}
