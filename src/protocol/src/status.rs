//! What the store knows of a task.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GpuId, GroupName, ItemCounts, Kind, Outcome, Progress, Reply, SliceCounts, TaskId, frame};

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It must not start before a time that is still to come.
    Delayed,
    /// Published, not begun.
    Waiting,
    /// An attempt runs.
    Running,
    /// Recorded as to be tried again.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Cancelled, before or while it ran.
    Cancelled,
    /// Its deadline passed.
    Expired,
}

impl TaskState {
    /// Every state, in the order of a task's life.
    pub const ALL: [Self; 8] =
        [Self::Delayed, Self::Waiting, Self::Running, Self::Retrying, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Expired];
    /// Those in which a task has not ended.
    pub const OPEN: [Self; 4] = [Self::Delayed, Self::Waiting, Self::Running, Self::Retrying];

    /// Whether nothing more will happen.
    #[must_use]
    pub const fn ended(self) -> bool {
        self.outcome().is_some()
    }

    /// How it ended, if it did.
    #[must_use]
    pub const fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Delayed | Self::Waiting | Self::Running | Self::Retrying => None,
            Self::Succeeded => Some(Outcome::Succeeded),
            Self::Failed => Some(Outcome::Failed),
            Self::Cancelled => Some(Outcome::Cancelled),
            Self::Expired => Some(Outcome::Expired),
        }
    }

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl From<Outcome> for TaskState {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed => Self::Failed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Expired => Self::Expired,
        }
    }
}

/// A task's status as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "gpufleet task status")]
pub struct TaskStatus {
    /// The task.
    pub task_id: TaskId,
    /// Where it is.
    pub state: TaskState,
    /// Its kind, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The group in which it is counted, if it was submitted with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// The GPU of the latest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_id: Option<GpuId>,
    /// The latest attempt; 0 before the first.
    pub attempt: u32,
    /// How often a worker crashed while it ran the task. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// Why it waits, where the fleet knows (`why`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Before this time it must not start, in Unix milliseconds, as its producer said; its state is `delayed` until then, by the store's clock. Absent where nothing was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// How far it is, while it runs and once its executor said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Of a batch: how many of its items have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// Of a batch that was split: what its slices are at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices: Option<SliceCounts>,
    /// When the store first heard of it, in Unix milliseconds of the store's clock.
    pub first_seen_ms: u64,
    /// When it last changed, in Unix milliseconds of the store's clock.
    pub changed_ms: u64,
    /// The reply, once it ended and while its body is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

impl TaskStatus {
    /// Reads a status: JSON, or a frame with the segments of its reply.
    ///
    /// # Errors
    /// It is neither, or no status.
    pub fn read(body: &Bytes) -> Result<Self, serde_json::Error> {
        let (json, segments) = frame::read(body).map_err(<serde_json::Error as serde::de::Error>::custom)?;
        let mut status: Self = serde_json::from_slice(&json)?;
        if let Some(reply) = &mut status.reply {
            reply.segments = segments;
        }
        Ok(status)
    }

    /// The beginning of the frame of a status whose reply has segments, up to the first of them. `None`: it has more JSON than a frame may have.
    #[must_use]
    pub fn frame_head(&self) -> Option<Bytes> {
        let text = serde_json::to_vec(self).expect("its keys are texts");
        frame::head(text, &self.reply.as_ref().map(|reply| reply.segments.clone()).unwrap_or_default())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
