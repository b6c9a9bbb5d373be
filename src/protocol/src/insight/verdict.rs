//! What holds the fleet back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A cause for which tasks wait longer than they should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Holdup {
    /// Nothing: tasks begin as they come.
    #[default]
    Nothing,
    /// Every slot is busy, and more tasks come than end.
    TooFewGpus,
    /// No GPU lives that takes tasks.
    NoGpus,
    /// Slots are free, and the memory that tasks need is not.
    Memory,
    /// Tasks wait for models to be loaded.
    ModelLoads,
    /// One kind takes most of the time, and others wait behind it.
    OneKind,
    /// Some GPUs are full while others that would fit are idle.
    Imbalance,
    /// Tasks wait for tensors to be brought to their GPU.
    Transfers,
    /// A handler takes much longer than it used to, or is down.
    Handler,
    /// The broker is slow, or blocks publishers.
    Broker,
    /// Redis is slow.
    Redis,
    /// Most of the work is repeated: attempts fail, crash, and are tried again.
    Retries,
    /// Tasks of low priority wait while higher ones keep coming.
    Starvation,
    /// GPUs are drained, quarantined or out of their thresholds while tasks wait.
    UnusableGpus,
    /// Tasks wait that no GPU of the fleet can run.
    Unserved,
    /// A cause that a newer version knows.
    #[serde(other)]
    Other,
}

impl Holdup {
    /// The name on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::TooFewGpus => "too_few_gpus",
            Self::NoGpus => "no_gpus",
            Self::Memory => "memory",
            Self::ModelLoads => "model_loads",
            Self::OneKind => "one_kind",
            Self::Imbalance => "imbalance",
            Self::Transfers => "transfers",
            Self::Handler => "handler",
            Self::Broker => "broker",
            Self::Redis => "redis",
            Self::Retries => "retries",
            Self::Starvation => "starvation",
            Self::UnusableGpus => "unusable_gpus",
            Self::Unserved => "unserved",
            Self::Other => "other",
        }
    }
}

/// What holds the fleet back, with its evidence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The main cause.
    pub holdup: Holdup,
    /// One sentence for people: the cause, its figure, and what to do.
    pub sentence: String,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
    /// Other causes that were found, each a sentence, by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Over how long the evidence was taken, in ms.
    pub window_ms: u64,
}

/// One figure that a verdict rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// What was measured, in words.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// Its unit: `ms`, `%`, `tasks`, `tasks/s`, `GPUs`, `MB`, or empty.
    pub unit: String,
    /// Above (or below) which it counts as evidence, where there is such a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
}
