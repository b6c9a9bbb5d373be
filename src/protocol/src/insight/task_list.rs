//! Tasks, listed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GpuId, GroupName, Kind, Needs, Outcome, PoolName, Strategy, TaskError, TaskId, TaskState, TaskStep};

/// What the index knows of a task: what its last steps say. The store's record is what counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskSummary {
    /// The task.
    pub task_id: TaskId,
    /// Where it is in its life.
    pub state: TaskState,
    /// The pool of its queue.
    pub pool: PoolName,
    /// Its kind, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Its priority, 0 to 9; as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// How many items its batch has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u32>,
    /// What a GPU must have for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Needs>,
    /// The only GPU that it may run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specific_gpu_id: Option<GpuId>,
    /// The GPU of its latest attempt, or to which it was forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_id: Option<GpuId>,
    /// The strategy that chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// The latest attempt; 0 before the first.
    pub attempt: u32,
    /// Whether its end was asked for.
    #[serde(default)]
    pub cancel_asked: bool,
    /// Whether its original bytes are among the dead letters.
    #[serde(default)]
    pub dead: bool,
    /// When it was first heard of, in Unix ms.
    pub first_seen_ms: u64,
    /// When it was published, in Unix ms, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_ms: Option<u64>,
    /// Before this time it must not start, in Unix ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// When its latest attempt began, in Unix ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_ms: Option<u64>,
    /// When it ended, in Unix ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// When it last changed, in Unix ms.
    pub changed_ms: u64,
    /// How long it waited before its latest attempt, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<f64>,
    /// How long its latest attempt ran, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<f64>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it, or its latest attempt, did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// Why it waits, as its last step said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

/// Which tasks are listed, cancelled or requeued. All that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskFilter {
    /// Any of these states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<TaskState>,
    /// Any of these kinds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kind: Vec<Kind>,
    /// Any of these priorities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priority: Vec<u8>,
    /// This group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// This GPU, by its whole id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_id: Option<GpuId>,
    /// Its id begins with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_prefix: Option<String>,
    /// This text is in its error's code or message, whatever the case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// First heard of at least so long ago, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
    /// First heard of at most so long ago, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_than_ms: Option<u64>,
    /// Only those with (true) or without (false) their bytes among the dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead: Option<bool>,
    /// Also the slices of batches. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub slices: bool,
}

impl TaskFilter {
    /// Whether it lets every task through, slices of batches aside. So does one whose texts and times are there and say nothing, as a script leaves them whose variable is empty.
    #[must_use]
    pub fn lets_all_through(&self) -> bool {
        let said = Self {
            id_prefix: self.id_prefix.clone().filter(|prefix| !prefix.is_empty()),
            older_than_ms: self.older_than_ms.filter(|ms| *ms > 0),
            slices: false,
            ..self.clone()
        };
        said == Self::default()
    }
}

/// Some tasks, those first that were heard of last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<TaskSummary>,
    /// What to ask for as `after` to have those that follow; absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many tasks pass the filter in all.
    pub matching: u64,
    /// How many tasks the index has in all.
    pub indexed: u64,
    /// The time of its oldest one, in Unix ms: what is older was forgotten. Absent where the index is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// The steps of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskLog {
    /// The task.
    pub task_id: TaskId,
    /// Its steps, the oldest first; those of its slices too.
    pub steps: Vec<TaskStep>,
    /// How many older steps of it were forgotten.
    #[serde(default)]
    pub forgotten: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_says_nothing_lets_all_through() {
        let blank = TaskFilter { id_prefix: Some(String::new()), older_than_ms: Some(0), slices: true, ..TaskFilter::default() };
        assert!(TaskFilter::default().lets_all_through() && blank.lets_all_through());
        // Only tasks that have an error pass this one.
        let with_error = TaskFilter { error: Some(String::new()), ..blank.clone() };
        let of_kind = TaskFilter { kind: vec!["a".parse().unwrap()], ..blank };
        assert!(!with_error.lets_all_through() && !of_kind.lets_all_through());
    }
}
