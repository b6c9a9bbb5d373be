//! What a worker and a handler say to each other: the types of `schemas/handler.md`.
//!
//! A payload, a result and a part of an output stay the text that they came in: they are copied into a message and out of it, and never rebuilt.

mod tensor;

use protocol::{Json, Kind, TaskId, task::ComputeCapability};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::tensor::TaskTensor;

/// The version of the protocol that this worker speaks.
pub const VERSION: u32 = 1;

/// What a handler says. `type` says which it is; a field that is not known is passed over.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromHandler {
    /// The first message.
    Hello(Hello),
    /// Set-up is over.
    Ready(Ready),
    /// Set-up has failed; the process ends.
    SetupFailed(SetupFailed),
    /// A task, or a member of a batch, has succeeded.
    Result(Success),
    /// A task, a member of a batch, or all members without an answer have failed.
    Error(Fault),
    /// How far a run is.
    Progress(Progress),
    /// A piece of the output.
    Part(Part),
    /// A line for the log.
    Log(Log),
    /// The answer to a ping.
    Pong(Pong),
}

/// Who the handler is, before anything slow is imported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// The version of the protocol: 1.
    pub version: u32,
    /// The kinds that it runs.
    pub kinds: Vec<HelloKind>,
    /// What it calls itself, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The language that it is written in, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// How many tasks or batches it runs at once, 1 to 1,024. Default: as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: Option<u32>,
}

/// One kind of a `hello`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HelloKind {
    /// Its name.
    pub kind: Kind,
    /// What it does, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The JSON Schema of its payload, draft 2020-12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
    /// It takes several payloads at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<HelloBatch>,
    /// Tensors that a payload names are given where they lie, with `tensors` of the task's message. Default: false, as raw bytes, like any other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tensors: bool,
}

/// How a kind takes several payloads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HelloBatch {
    /// Most payloads of one batch.
    #[schemars(range(min = 1, max = 1024))]
    pub largest: usize,
    /// How long the first of them may wait for others, in ms. Default: not at all.
    #[serde(default)]
    #[schemars(range(max = 60_000))]
    pub wait_ms: u64,
}

/// Tasks may come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// What the handler keeps on the GPU, in MB (10^6 bytes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// The models that it has in memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

/// Why there will be no `ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetupFailed {
    /// For operators.
    pub message: String,
}

/// An answer that is a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Success {
    /// The run that it answers.
    pub run: u64,
    /// The member of a batch that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<usize>,
    /// Any value; its references are to this message's segments.
    pub result: Json,
    /// The lengths of the segments that follow, in bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<usize>,
}

/// An answer that is a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// The run that it answers.
    pub run: u64,
    /// The member of a batch that it answers. Default: all that have no answer yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<usize>,
    /// A sentence for people.
    pub message: String,
    /// A word for programs. Default: `executor_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Whether another try may help. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<bool>,
    /// How long another try should wait at least, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The path in the payload that is at fault, `payload.text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The GPU's memory was too small; `code` and `retry` need not be given. Default: false.
    #[serde(default)]
    pub out_of_memory: bool,
    /// What it needed, in MB (10^6 bytes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The run.
    pub run: u64,
    /// The member of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<usize>,
    /// The share of the work that is done, 0 to 1.
    pub fraction: f64,
    /// What it does now, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A piece of the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// The run.
    pub run: u64,
    /// The member of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<usize>,
    /// Any value, without segments.
    pub value: Json,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Log {
    /// The line.
    pub message: String,
    /// How much it matters. Default: `info`.
    #[serde(default)]
    pub level: LogLevel,
    /// The run that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    /// The member of a batch that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<usize>,
}

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// For whoever looks for a mistake.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// Something is not as it should be.
    Warn,
    /// Something went wrong.
    Error,
}

/// The answer to a ping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// As the ping had it.
    pub n: u64,
    /// Whether it can go on. Default: true. If it cannot, it is started anew, between tasks.
    #[serde(default = "yes")]
    pub healthy: bool,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

const fn yes() -> bool {
    true
}

/// What a message says of itself before the rest of it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    #[serde(rename = "type")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) segments: Vec<usize>,
}

impl FromHandler {
    /// Reads a message of this `type`. `Ok(None)`: the type is not known.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn read(name: &str, json: &[u8]) -> Result<Option<Self>, String> {
        fn typed<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
            serde_json::from_slice(json).map_err(|error| error.to_string())
        }
        let read = match name {
            "hello" => typed(json).map(Self::Hello),
            "ready" => typed(json).map(Self::Ready),
            "setup_failed" => typed(json).map(Self::SetupFailed),
            "result" => typed(json).map(Self::Result),
            "error" => typed(json).map(Self::Error),
            "progress" => typed(json).map(Self::Progress),
            "part" => typed(json).map(Self::Part),
            "log" => typed(json).map(Self::Log),
            "pong" => typed(json).map(Self::Pong),
            _ => return Ok(None),
        };
        read.map(Some).map_err(|error| format!("its `{name}` cannot be read: {error}"))
    }
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToHandler {
    /// The answer to `hello`.
    Setup(Setup),
    /// One task.
    Task(TaskMessage),
    /// Several payloads at once.
    Batch(BatchMessage),
    /// Nobody waits for this any more.
    Cancel {
        /// The run.
        run: u64,
        /// The member of a batch. Default: all of the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        member: Option<usize>,
    },
    /// It was cancelled a while ago and still runs.
    Interrupt {
        /// The run.
        run: u64,
    },
    /// To be answered by a `pong`.
    Ping {
        /// What the `pong` is to have.
        n: u64,
    },
    /// No new tasks come.
    Drain {},
}

/// Where the handler is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Setup {
    /// The version of the protocol: 1.
    pub version: u32,
    /// The GPU.
    pub gpu: SetupGpu,
    /// How many tasks the GPU holds at once.
    pub slots: u16,
    /// The handler's configured name.
    pub handler: String,
}

/// The GPU of a handler.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SetupGpu {
    /// Its UUID.
    pub id: String,
    /// The product's name.
    pub name: String,
    /// Total memory, in MB (10^6 bytes).
    pub memory_mb: u64,
    /// CUDA compute capability, `"9.0"`.
    pub compute_capability: ComputeCapability,
    /// Whether it is a simulated one: there is no GPU to be used.
    pub simulated: bool,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TaskMessage {
    /// The number of this run in this process, which every answer names.
    pub run: u64,
    /// What to run.
    pub kind: Kind,
    /// The task.
    pub task_id: TaskId,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// What to run it on; its references are to this message's segments.
    #[serde(skip_serializing)]
    pub payload: Json,
    /// Whether anybody listens to parts.
    pub wants_parts: bool,
    /// How long the attempt may take, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// The lengths of the segments that follow, in bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub segments: Vec<usize>,
    /// The tensors that the payload names, of a kind that takes tensors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub tensors: Vec<TaskTensor>,
    /// How many file descriptors come with the first byte of this message.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(default)]
    pub descriptors: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Several payloads at once.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BatchMessage {
    /// The number of this run in this process, which every answer names.
    pub run: u64,
    /// What to run.
    pub kind: Kind,
    /// The payloads. A member's number is its place in the list, from 0.
    #[serde(skip_serializing)]
    pub members: Vec<BatchMessageMember>,
    /// The lengths of the segments that follow, in bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub segments: Vec<usize>,
}

/// One of several payloads.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BatchMessageMember {
    /// Its task.
    pub task_id: TaskId,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// What to run it on.
    #[serde(skip_serializing)]
    pub payload: Json,
    /// Whether anybody listens to parts.
    pub wants_parts: bool,
    /// Reference number *k* of this payload is segment `segments_from` + *k* of the message.
    pub segments_from: usize,
}

impl ToHandler {
    /// Its text, with the payloads as they are.
    #[must_use]
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = text_of(self);
        match self {
            Self::Task(task) => push_field(&mut text, "payload", &[task.payload.as_bytes()]),
            Self::Batch(batch) => {
                let members: Vec<Vec<u8>> = batch.members.iter().map(BatchMessageMember::to_text).collect();
                let members: Vec<&[u8]> = members.iter().map(Vec::as_slice).collect();
                push_list(&mut text, "members", &members);
            }
            Self::Setup(_) | Self::Cancel { .. } | Self::Interrupt { .. } | Self::Ping { .. } | Self::Drain {} => {}
        }
        text
    }
}

impl BatchMessageMember {
    fn to_text(&self) -> Vec<u8> {
        let mut text = text_of(self);
        push_field(&mut text, "payload", &[self.payload.as_bytes()]);
        text
    }
}

fn text_of(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types have text for keys")
}

/// Adds a field at the end of an object that has fields, its value in pieces.
fn push_field(object: &mut Vec<u8>, name: &str, value: &[&[u8]]) {
    object.pop();
    object.reserve_exact(name.len() + value.iter().map(|piece| piece.len()).sum::<usize>() + ",\"\":}".len());
    object.extend_from_slice(b",\"");
    object.extend_from_slice(name.as_bytes());
    object.extend_from_slice(b"\":");
    value.iter().for_each(|piece| object.extend_from_slice(piece));
    object.push(b'}');
}

fn push_list(object: &mut Vec<u8>, name: &str, elements: &[&[u8]]) {
    let mut pieces: Vec<&[u8]> = vec![b"["];
    for (number, element) in elements.iter().enumerate() {
        if number > 0 {
            pieces.push(b",");
        }
        pieces.push(element);
    }
    pieces.push(b"]");
    push_field(object, name, &pieces);
}

#[cfg(test)]
mod tests;
