//! Kinds that need to be told something.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `predict:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PredictSection {
    /// A GGUF file, or a directory with `config.json`, `tokenizer.json` and `*.safetensors`. Default: none; simulated GPUs then use the small model that is part of the program (`tiny`), others
    /// do not offer `predict`.
    pub model: Option<PathBuf>,
    /// `max_length` where a task gives none: tokens to generate. Default: 128.
    #[schemars(range(min = 1))]
    pub max_length: u32,
    /// The largest `max_length` that is accepted. Default: 2,048.
    #[schemars(range(min = 1))]
    pub max_length_max: u32,
}

impl Default for PredictSection {
    fn default() -> Self {
        Self { model: None, max_length: 128, max_length_max: 2_048 }
    }
}

/// `kernel:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KernelSection {
    /// The folder of the CUDA C++ modules (`<name>.cu`) that tasks may use. Default: none; workers then do not offer `kernel`.
    pub directory: Option<PathBuf>,
}
