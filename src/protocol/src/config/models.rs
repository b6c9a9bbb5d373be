//! Models that GPUs keep between tasks.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Needs;

/// `models:`. Models of the operator's, for the kinds `onnx`, `embed` and `classify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsSection {
    /// The folder of the models: `<name>.onnx`, or `<name>/<version>/model.onnx`, whose highest version is the one that is used. Default: none; workers then do not offer the kinds that need one.
    pub directory: Option<PathBuf>,
    /// The library of ONNX Runtime (`libonnxruntime.so`). Default: it is looked for beside the program, in `models.directory`, and where the system keeps libraries.
    pub onnx_runtime: Option<PathBuf>,
    /// Where models run: on CUDA, or on the CPU. Default: `auto`, CUDA on a real GPU and the CPU on a simulated one.
    pub provider: ModelProvider,
    /// Models that are loaded at the start, tried once before their kind is offered, and never evicted. Default: none.
    pub pinned: Vec<String>,
    /// The model of `embed`. Default: `all-MiniLM-L6-v2`.
    pub embed: Option<String>,
    /// The model of `classify`. Default: `magika`.
    pub classify: Option<String>,
    /// Most that models may take of a simulated GPU's memory, or of the host's where they run on the CPU, in MB (10^6 bytes). Default: none; `gpu.multi_gpu.memory_threshold` bounds them.
    pub memory_mb: Option<u64>,
    /// The axis along which a model takes several payloads at once, by model. Default: its first one, where the model leaves it open.
    pub batch_axis: BTreeMap<String, String>,
    /// Models of the kind `simulate`, which have a size and a time to load and nothing else: to try a fleet that keeps models without having any. Default: none.
    pub simulated: Vec<SimulatedModel>,
}

/// A model of the kind `simulate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulatedModel {
    /// Its name.
    #[schemars(length(min = 1, max = Needs::MODEL_CHARACTERS_MAX))]
    pub name: String,
    /// What it takes of a GPU's memory, in MB (10^6 bytes). Default: 1,000.
    #[serde(default = "SimulatedModel::default_memory_mb")]
    pub memory_mb: u64,
    /// How long a load takes, in ms. Default: 0.
    #[serde(default)]
    pub load_ms: u64,
}

impl SimulatedModel {
    const fn default_memory_mb() -> u64 {
        1_000
    }

    /// One of the usual size that loads at once.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), memory_mb: Self::default_memory_mb(), load_ms: 0 }
    }
}

/// Where models run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelProvider {
    /// CUDA on a real GPU, the CPU on a simulated one.
    #[default]
    Auto,
    /// CUDA; a kind whose model does not run there is not offered.
    Cuda,
    /// The CPU.
    Cpu,
}
