//! Models that GPUs keep between tasks.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
