//! A reply: what is published to `reply_to` when a task ends.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Choice, ErrorCode, GpuId, ItemCounts, ItemResult, Json, Kind, Segments, TaskId, TaskStatus, Token, frame, json::with_field};

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran, and `result` holds what it gave.
    Succeeded,
    /// It was refused, or its attempts were used up; `error` says why.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// Its deadline passed before it could start, or before it could end.
    Expired,
}

impl Outcome {
    /// The name on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Why a task did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskError {
    /// A word for programs: `invalid_task`, `invalid_payload`, `unknown_kind`, `unknown_gpu`, `reused_id`, `executor_failed`, `attempt_timeout`,
    /// `deadline`, `out_of_memory`, `cancelled`, `quarantined`, `reply_not_kept`, `dropped`, `unserved`, `unknown_pool`, `reply_too_large`, `tensor_missing`, `tensor_exists`, `tensors_full`,
    /// `transfer_failed`, or one of the executor's own.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// The field that is at fault, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl TaskError {
    /// An error without a field. The code is an [`ErrorCode`], or an executor's own word.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), field: None }
    }

    /// The same error, with the field that is at fault.
    #[must_use]
    pub fn at(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }
}

/// How long the parts of a task took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// From the worker's receipt of the task to the start of the attempt.
    pub waited_ms: f64,
    /// The attempt that ended the task. 0 if it never ran. Of a batch that was split: that of the slice that ran longest.
    pub run_ms: f64,
    /// The part of it that the GPU worked, by the GPU's own clock, where the executor measures it. Of a batch that was split: of all its slices together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_ms: Option<f64>,
    /// How many payloads ran together in the run that this one was in, where the executor takes several at once; of a batch the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
}

/// The JSON body of a reply. Every copy of a task's reply has the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "gpufleet reply")]
pub struct Reply {
    /// The task.
    pub task_id: TaskId,
    /// Its kind, where it had a valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// How it ended.
    pub outcome: Outcome,
    /// What the executor gave, if it succeeded, to the last byte.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub result: Json,
    /// The raw bytes that the result refers to.
    #[serde(skip)]
    pub segments: Segments,
    /// Of a batch: how each item came out, in the order of the items. Absent where the batch has no such list: it was refused, cancelled, expired or failed as a whole.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    #[schemars(with = "Option<Vec<ItemResult>>")]
    pub results: Json,
    /// Of a batch: how many items it has, and how many of them failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// The GPU that ran it, if one did and no more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_id: Option<GpuId>,
    /// Of a batch that was split: the GPUs that ran its slices, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpu_ids: Vec<GpuId>,
    /// The attempt that ended it, from 1.
    pub attempt: u32,
    /// The token under which the outcome was recorded; absent where no claim was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The strategy that chose the GPU, and a fallback if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Choice>,
    /// How long it took.
    pub timings: Timings,
    /// When it ended, in Unix milliseconds, by the worker's clock.
    pub ended_at_ms: u64,
}

impl Reply {
    /// That a task ended so, without anything else.
    #[must_use]
    pub fn ended(task_id: TaskId, outcome: Outcome, ended_at_ms: u64) -> Self {
        Self {
            task_id,
            kind: None,
            outcome,
            result: Json::null(),
            segments: Segments::none(),
            results: Json::null(),
            items: None,
            error: None,
            gpu_id: None,
            gpu_ids: Vec::new(),
            attempt: 1,
            token: None,
            strategy: None,
            timings: Timings::default(),
            ended_at_ms,
        }
    }

    /// What there is to tell of a task that ended so and has no reply in the store: its body is no longer kept, or the task was cancelled before any worker had it.
    #[must_use]
    pub fn without_body(status: TaskStatus, outcome: Outcome) -> Self {
        let error = match outcome {
            Outcome::Cancelled => TaskError::new(ErrorCode::Cancelled, "the task was cancelled"),
            _ => TaskError::new(ErrorCode::ReplyNotKept, "the task ended, and its reply is not kept; only its outcome is known"),
        };
        Self {
            kind: status.kind,
            error: Some(error),
            gpu_id: status.gpu_id,
            attempt: status.attempt,
            ..Self::ended(status.task_id, outcome, status.changed_ms)
        }
    }

    /// Reads a reply's body: JSON, or a frame.
    ///
    /// # Errors
    /// It is neither, or no reply.
    pub fn read(body: &Bytes) -> Result<Self, serde_json::Error> {
        let (json, segments) = frame::read(body).map_err(<serde_json::Error as serde::de::Error>::custom)?;
        Ok(Self { segments, ..serde_json::from_slice(&json)? })
    }

    /// Its text, with the result's bytes as they are; with segments a frame, unless the JSON is longer than a frame's may be ([`frame::JSON_BYTES_MAX`]): such a reply
    /// cannot be sent.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        let (result, results) = (std::mem::take(&mut self.result), std::mem::take(&mut self.results));
        let mut text = serde_json::to_vec(&self).expect("its keys are texts");
        for (name, value) in [("result", result), ("results", results)] {
            if !value.is_null() {
                text = with_field(text, name, &value);
            }
        }
        if self.segments.is_empty() {
            return text.into();
        }
        let text = with_field(text, "segments", &Json::of(&self.segments.lengths()));
        // No frame has more than 16 MiB of JSON. Who sends a body with segments asks whether it became one.
        frame::write(&text, &self.segments).unwrap_or_else(|_| text.into())
    }
}
