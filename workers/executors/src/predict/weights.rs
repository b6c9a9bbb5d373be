//! A model's weights and one pass over them. Weights are shared by all runs; what a run remembers (its KV cache) is its own.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use candle_transformers::models::{
    llama::{Cache, Llama},
    quantized_llama::ModelWeights,
};

/// Weights in memory.
pub(super) enum Weights {
    /// From a GGUF file. The library keeps the KV cache inside: cloned for each run, which copies no tensor.
    Quantized(Box<ModelWeights>),
    /// From safetensors, with an empty cache that each run clones.
    Plain(Arc<Llama>, Box<Cache>),
}

impl Weights {
    /// A pass that remembers nothing yet.
    pub(super) fn pass(&self) -> Pass {
        let memory = match self {
            Self::Quantized(weights) => Memory::Quantized(weights.clone()),
            Self::Plain(llama, cache) => Memory::Plain(llama.clone(), cache.clone()),
        };
        Pass { memory, position: 0 }
    }
}

/// One run over the weights, token by token.
pub(super) struct Pass {
    memory: Memory,
    position: usize,
}

enum Memory {
    Quantized(Box<ModelWeights>),
    Plain(Arc<Llama>, Box<Cache>),
}

impl Pass {
    /// Takes in `tokens` (not empty) and gives the logits of what may follow the last of them.
    pub(super) fn advance(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match &mut self.memory {
            Memory::Quantized(weights) => weights.forward(&input, self.position)?,
            Memory::Plain(llama, cache) => llama.forward(&input, self.position, cache)?,
        };
        self.position += tokens.len();
        logits.squeeze(0)?.to_vec1()
    }
}
