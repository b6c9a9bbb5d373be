//! The steps of a task's life.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cut;
use crate::{GpuId, GroupName, Kind, Needs, Outcome, PoolName, Strategy, TaskError, TaskId};

/// What happened to a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// A producer of ours published it. What is published over plain AMQP has no such step.
    Submitted,
    /// It must not begin before a time, and waits until then.
    Delayed,
    /// A worker has it in hand, and it cannot run now; `reason` says why, and begins with [`TaskStep::UNSERVED`] where no living GPU of the pool could ever run it.
    Waits,
    /// A claim chose another GPU, and its message went there.
    Forwarded,
    /// An attempt began.
    Began,
    /// An attempt failed, and another one is due.
    Retrying,
    /// A worker, or the process that ran it, died while it ran.
    Crashed,
    /// It was a batch, and its slices run in its place.
    Split,
    /// Somebody asked for its end.
    CancelAsked,
    /// It ended, for good.
    Ended,
    /// Its reply could not be delivered, and waits or is parked; `reason` says why.
    ReplyWaits,
    /// Its original bytes are among the dead letters.
    Buried,
    /// An operator published it again.
    Requeued,
    /// A step that a newer version tells of.
    #[default]
    #[serde(other)]
    Other,
}

impl StepName {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Delayed => "delayed",
            Self::Waits => "waits",
            Self::Forwarded => "forwarded",
            Self::Began => "began",
            Self::Retrying => "retrying",
            Self::Crashed => "crashed",
            Self::Split => "split",
            Self::CancelAsked => "cancel_asked",
            Self::Ended => "ended",
            Self::ReplyWaits => "reply_waits",
            Self::Buried => "buried",
            Self::Requeued => "requeued",
            Self::Other => "other",
        }
    }
}

/// One step of a task's life, as whoever saw it told it. Which fields are there depends on the step; one that a reader does not know is passed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "gpufleet task step")]
#[serde(default)]
pub struct TaskStep {
    /// When, in Unix milliseconds of the clock of who told it.
    pub at_ms: u64,
    /// The task. Of a slice its own id.
    pub task_id: Option<TaskId>,
    /// What happened.
    pub step: StepName,
    /// The pool of its queue.
    #[serde(skip_serializing_if = "is_default_pool")]
    pub pool: PoolName,
    /// Its kind, where it has a valid one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Its priority, 0 to 9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Its group, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// How many items its batch has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<u32>,
    /// Of [`StepName::Submitted`], [`StepName::Delayed`] and [`StepName::Waits`]: what a GPU must have for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Needs>,
    /// The only GPU that it may run on, if it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specific_gpu_id: Option<GpuId>,
    /// Before this time it must not start, in Unix ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// When it stops being worth starting, in Unix ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_before_ms: Option<u64>,
    /// When it was published, in Unix ms, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_ms: Option<u64>,
    /// The attempt, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The GPU that ran it, or to which it was forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_id: Option<GpuId>,
    /// The strategy that chose that GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Of [`StepName::Began`] and [`StepName::Forwarded`]: among how many living GPUs of the pool that fit was chosen, as the worker last saw the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub among: Option<u32>,
    /// Of [`StepName::Began`]: how long it waited since it was published or was due, as far as that is known; else since the worker received it. In ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<f64>,
    /// Of [`StepName::Ended`], [`StepName::Retrying`] and [`StepName::Crashed`]: how long the attempt ran, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<f64>,
    /// Of those: the part of it in which a model was loaded, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<f64>,
    /// Of those: the part of it, or the time before it, in which tensors were brought to its GPU, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_ms: Option<f64>,
    /// Of [`StepName::Ended`]: how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Of [`StepName::Ended`], [`StepName::Retrying`] and [`StepName::Crashed`]: why it did not succeed. Each of its texts is cut to [`TaskStep::TEXT_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// Of [`StepName::Retrying`]: the pause before the next attempt, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// Why, for people, in at most [`TaskStep::TEXT_MAX`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The trace that its producer named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

fn is_default_pool(pool: &PoolName) -> bool {
    *pool == PoolName::default()
}

impl TaskStep {
    /// The longest text of a step, in bytes: what is longer is cut at a character's end.
    pub const TEXT_MAX: usize = 300;
    /// What the reason of a [`StepName::Waits`] begins with where no living GPU of the pool could ever run the task.
    pub const UNSERVED: &str = "unserved:";

    /// A step without details.
    #[must_use]
    pub fn new(step: StepName, task_id: TaskId, pool: PoolName, at_ms: u64) -> Self {
        Self { at_ms, task_id: Some(task_id), step, pool, ..Self::default() }
    }

    /// The same with every text cut to [`TaskStep::TEXT_MAX`].
    #[must_use]
    pub fn bounded(mut self) -> Self {
        if let Some(error) = &mut self.error {
            // An executor's own words, all three.
            for text in [Some(&mut error.code), Some(&mut error.message), error.field.as_mut()].into_iter().flatten() {
                cut(text, Self::TEXT_MAX);
            }
        }
        if let Some(reason) = &mut self.reason {
            cut(reason, Self::TEXT_MAX);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_a_newer_version_is_read_as_far_as_it_is_known() {
        let step: TaskStep = serde_json::from_str(r#"{"at_ms":5,"task_id":"a","step":"teleported","colour":1,"attempt":2}"#).unwrap();
        assert_eq!((step.step, step.attempt, step.at_ms), (StepName::Other, Some(2), 5));
    }

    #[test]
    fn texts_are_cut_at_a_characters_end() {
        let step = TaskStep { reason: Some("ä".repeat(400)), ..TaskStep::default() }.bounded();
        let reason = step.reason.unwrap();
        assert!(reason.len() <= TaskStep::TEXT_MAX && reason.ends_with('…'), "{reason}");
    }

    #[test]
    fn an_error_whose_words_are_long_is_cut_in_each_of_them() {
        let long = || "x".repeat(1_000_000);
        let step = TaskStep { error: Some(TaskError::new(long(), long()).at(long())), ..TaskStep::default() }.bounded();
        assert!(serde_json::to_string(&step).unwrap().len() < 4 * TaskStep::TEXT_MAX);
    }

    #[test]
    fn what_a_step_lacks_is_not_written() {
        let step = TaskStep::new(StepName::Began, TaskId::new("t").unwrap(), PoolName::default(), 7);
        assert_eq!(serde_json::to_string(&step).unwrap(), r#"{"at_ms":7,"task_id":"t","step":"began"}"#);
    }
}
