//! A task: what a producer asks for.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::reading::object;
use crate::{
    BodyHash, DeliveryId, GpuId, Json, KeepAs, Kind, OnError, OnMissing, Segments, Slice, TaskId,
    batch::{self, ITEMS_MAX},
    frame,
    json::with_field,
};

/// The JSON body of a task message. Everything but `payload`, or `items` in its place, has a default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "gpufleet task")]
pub struct TaskBody {
    /// What the kind's executor is given, to the last byte. Its shape belongs to the kind. `null` if absent.
    #[serde(default)]
    pub payload: Json,
    /// In place of `payload`: many payloads, each of which the kind's executor is given as it would be given one. The reply has a result for each, in this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = ITEMS_MAX))]
    pub items: Option<Vec<Json>>,
    /// With `items`: what becomes of the batch if an item fails. Default: `report`.
    #[serde(default, skip_serializing_if = "OnError::is_default")]
    pub on_error: OnError,
    /// How a GPU is chosen.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "GpuOptions::is_default")]
    pub gpu_options: GpuOptions,
    /// What a GPU must have to run this task.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Needs::is_none")]
    pub needs: Needs,
    /// Time and attempt limits.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    /// Under which names the task's outputs stay on its GPU, for other tasks to use; the result has `{"tensor": "name", ...}` in their place. Those of the items of a batch are kept under the name, a dot
    /// and the item's number (`name.17`). Default: they are part of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_as: Option<KeepAs>,
    /// What becomes of the task if a tensor that it names is nowhere. Default: `fail`.
    #[serde(default, skip_serializing_if = "OnMissing::is_default")]
    pub on_missing: OnMissing,
    /// The raw bytes that the payload refers to.
    #[serde(skip)]
    pub segments: Segments,
}

impl TaskBody {
    /// How many payloads it carries.
    #[must_use]
    pub fn payloads(&self) -> usize {
        self.items.as_ref().map_or(1, Vec::len)
    }

    /// Its text, with the payload's or the items' bytes as they are; with segments a frame, unless the JSON is longer than a frame's may be
    /// ([`frame::JSON_BYTES_MAX`]): such a body is to be refused.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        #[derive(Serialize)]
        struct BesideThePayload<'a> {
            #[serde(skip_serializing_if = "OnError::is_default")]
            on_error: OnError,
            #[serde(skip_serializing_if = "GpuOptions::is_default")]
            gpu_options: &'a GpuOptions,
            #[serde(skip_serializing_if = "Needs::is_none")]
            needs: &'a Needs,
            #[serde(skip_serializing_if = "Limits::is_default")]
            limits: &'a Limits,
            #[serde(skip_serializing_if = "Option::is_none")]
            keep_as: &'a Option<KeepAs>,
            #[serde(skip_serializing_if = "OnMissing::is_default")]
            on_missing: OnMissing,
        }
        let Self { payload, items, on_error, gpu_options, needs, limits, keep_as, on_missing, segments } = self;
        let beside = BesideThePayload { on_error: *on_error, gpu_options, needs, limits, keep_as, on_missing: *on_missing };
        let beside = serde_json::to_vec(&beside).expect("its keys are texts");
        let text = match items {
            None => with_field(beside, "payload", payload),
            Some(items) => with_field(beside, "items", &batch::list(items)),
        };
        if segments.is_empty() {
            return text.into();
        }
        let text = with_field(text, "segments", &Json::of(&segments.lengths()));
        // No frame has more than 16 MiB of JSON. Who sends a body with segments asks whether it became one.
        frame::write(&text, segments).unwrap_or_else(|_| text.into())
    }
}

/// How a GPU is chosen for one task (R-51).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuOptions {
    /// `round_robin`, `least_loaded` or `task_specific`. Default: the fleet's default. An unknown name falls back to the default,
    /// and the reply says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = Self::STRATEGY_CHARACTERS_MAX))]
    pub strategy: Option<String>,
    /// Run on this GPU and no other. An id that the fleet never knew fails at once; a known GPU that is away is waited for
    /// until the queue deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specific_gpu_id: Option<GpuId>,
    /// Whether a task with `items` may be split over several GPUs. Default: the fleet's (`gpu.multi_gpu.batch_split`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_split: Option<bool>,
    /// A model that should be loaded already: with the strategy `task_specific` the task goes where it is, or waits there for a little where loading it elsewhere would take longer. A preference,
    /// never a condition. Default: `needs.model`, or the model that the payload is about, where its kind has models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = Needs::MODEL_CHARACTERS_MAX))]
    pub model: Option<String>,
}

impl GpuOptions {
    /// The longest name of a strategy that is accepted, in characters.
    pub const STRATEGY_CHARACTERS_MAX: usize = 64;

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a GPU must have to run a task. Absent means: any will do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// Memory that the task will use on the GPU, in MB (10^6 bytes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = Self::MEMORY_MB_MAX))]
    pub memory_mb: Option<u64>,
    /// Lowest CUDA compute capability, as `major.minor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<ComputeCapability>,
    /// A model that should be loaded already. A preference, never a condition. `gpu_options.model` says the same, and wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = Self::MODEL_CHARACTERS_MAX))]
    pub model: Option<String>,
}

impl Needs {
    /// The most memory that may be asked for, in MB.
    pub const MEMORY_MB_MAX: u64 = 100_000_000;
    /// The longest name of a model that is accepted, in characters.
    pub const MODEL_CHARACTERS_MAX: usize = 128;

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A CUDA compute capability, `major.minor` (`9.0` is Hopper). Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = r"^[0-9]{1,2}\.[0-9]$"))]
pub struct ComputeCapability {
    /// The architecture's generation.
    pub major: u8,
    /// The step within it, 0 to 9.
    pub minor: u8,
}

impl ComputeCapability {
    /// One number that orders as the capability does: `9.0` is 90.
    #[must_use]
    pub const fn rank(self) -> u32 {
        self.major as u32 * 10 + self.minor as u32
    }
}

impl TryFrom<String> for ComputeCapability {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.split_once('.').and_then(|(major, minor)| {
            let plain = |s: &str, longest| s.len() <= longest && !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            (plain(major, 2) && plain(minor, 1)).then(|| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }))?
        });
        parsed.ok_or_else(|| format!("a compute capability is major.minor, like \"9.0\", not {text:?}"))
    }
}

impl From<ComputeCapability> for String {
    fn from(capability: ComputeCapability) -> String {
        format!("{}.{}", capability.major, capability.minor)
    }
}

/// Time and attempt limits of one task. Times in milliseconds, at most 30 days.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Longest wait from publishing to the start (schedule-to-start). AMQP `expiration` counts too; the shorter wins. Of a task that must not start before a time
    /// (`not_before_ms`, `delay_ms`) both count from then. Default: none.
    ///
    /// AMQP itself does not say when a message was published. The header `timestamp_in_ms` does, to the millisecond, where RabbitMQ writes it (message interceptor
    /// `set_header_timestamp`); else the property `timestamp` does, in whole seconds, and the time counts from the end of that second. A time more than 5 s in the future or 30 days
    /// back is not believed. A producer whose clock is behind loses that much of its deadline, unless the broker writes the time. Where nothing says when it was, the time counts
    /// from the first delivery to a worker, and before that the wait is bounded by `expiration` alone, as far as the broker keeps it: on a priority queue it may take out an expired
    /// message late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u64))]
    pub queue_deadline_ms: Option<u64>,
    /// Longest run of one attempt (start-to-close). Default: the worker's `attempt_timeout_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u64))]
    pub attempt_timeout_ms: Option<u64>,
    /// Longest time from publishing to the end, over all attempts (schedule-to-close). Of a task that must not start before a time it counts from then. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u64))]
    pub total_deadline_ms: Option<u64>,
    /// How often the task may be tried, 1 to 100. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<u32>,
}

impl Limits {
    /// The longest time limit that is accepted: 30 days, in milliseconds.
    pub const LONGEST_MS: u64 = 30 * 24 * 3_600 * 1_000;
    /// Attempts of a task that sets no `max_attempts`.
    pub const ATTEMPTS: u32 = 3;

    /// How often the task may be tried.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        self.max_attempts.unwrap_or(Self::ATTEMPTS)
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A task as a worker holds it: read, checked and complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its identity; of a slice one that names it ([`TaskId::of_slice`]).
    pub id: TaskId,
    /// The hash of the body as it was published; the same id with another body is refused. Of a slice it says whose it is ([`BodyHash::of_slice`]).
    pub body_hash: BodyHash,
    /// What to run.
    pub kind: Kind,
    /// 0 (lowest) to 9.
    pub priority: u8,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// How often it was forwarded.
    pub hops: u32,
    /// Memory that an earlier attempt found it needs, in MB.
    pub memory_mb: Option<u64>,
    /// When it stops being worth starting, in Unix milliseconds.
    pub start_before_ms: Option<u64>,
    /// When it stops being worth finishing, in Unix milliseconds.
    pub end_before_ms: Option<u64>,
    /// The time before which it must not start, in Unix milliseconds, unless it has waited until then; it may have passed.
    pub not_before_ms: Option<u64>,
    /// What was asked.
    pub body: TaskBody,
    /// The delivery that brought it.
    pub delivery: DeliveryId,
}

impl Task {
    /// The items of its batch that it has, where it is a slice of one.
    #[must_use]
    pub fn slice(&self) -> Option<Slice> {
        self.id.slice()
    }
}
