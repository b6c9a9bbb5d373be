//! Loading a model from a directory with `config.json`, `tokenizer.json` and `*.safetensors`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig, LlamaEosToks};
use serde_json::Value;

use super::{
    PredictError,
    error::{ANOTHER_MODEL, FETCH_AGAIN},
    model::Shape,
    vocabulary::{self, Vocabulary},
    weights::Weights,
};

pub(super) fn load(directory: &Path) -> Result<(Weights, Vocabulary, Shape), PredictError> {
    let config_path = directory.join("config.json");
    let (config, shape) = configuration(&config_path)?;
    let ends = match &config.eos_token_id {
        None => Vec::new(),
        Some(LlamaEosToks::Single(id)) => vec![*id],
        Some(LlamaEosToks::Multiple(ids)) => ids.clone(),
    };
    let vocabulary = vocabulary::read(&directory.join("tokenizer.json"), &ends)?;
    let tensors = tensors(directory)?;
    check(&tensors, &config).map_err(|problem| PredictError::unusable(directory, problem, FETCH_AGAIN))?;
    let weights = assemble(tensors, &config).map_err(|error| PredictError::unusable(directory, error, FETCH_AGAIN))?;
    Ok((weights, vocabulary, shape))
}

fn configuration(path: &Path) -> Result<(Config, Shape), PredictError> {
    let bytes = fs::read(path).map_err(|source| PredictError::read(path, source))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| PredictError::unusable(path, error, FETCH_AGAIN))?;
    let family = value.get("model_type").and_then(Value::as_str).unwrap_or("llama");
    if family != "llama" {
        return Err(PredictError::unusable(path, format!("its model_type is {family:?}, only \"llama\" can be run"), ANOTHER_MODEL));
    }
    let parsed: LlamaConfig = serde_json::from_value(value).map_err(|error| PredictError::unusable(path, error, ANOTHER_MODEL))?;
    let mut config = parsed.into_config(false);
    let shape = Shape {
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        tokens: config.vocab_size,
        context: config.max_position_embeddings,
    };
    let shape = shape.check().map_err(|problem| PredictError::unusable(path, problem, FETCH_AGAIN))?;
    config.max_position_embeddings = shape.context;
    Ok((config, shape))
}

/// All tensors of all `*.safetensors`, as 32-bit floats: what a CPU computes with.
fn tensors(directory: &Path) -> Result<HashMap<String, Tensor>, PredictError> {
    let entries = fs::read_dir(directory).map_err(|source| PredictError::read(directory, source))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    files.sort();
    if files.is_empty() {
        return Err(PredictError::unusable(directory, "it has no *.safetensors", FETCH_AGAIN));
    }
    let mut tensors = HashMap::new();
    for path in files {
        let loaded = candle_core::safetensors::load(&path, &Device::Cpu);
        for (name, tensor) in loaded.map_err(|error| PredictError::unusable(&path, error, FETCH_AGAIN))? {
            let tensor = tensor.to_dtype(DType::F32).map_err(|error| PredictError::unusable(&path, error, FETCH_AGAIN))?;
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

/// Looks for every tensor before the library does, which panics where one of a layer is missing.
fn check(tensors: &HashMap<String, Tensor>, config: &Config) -> Result<(), String> {
    let (hidden, inner, tokens) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    if config.num_hidden_layers > tensors.len() {
        return Err(format!("config.json declares {} layers, its *.safetensors have {} tensors", config.num_hidden_layers, tensors.len()));
    }
    let kv = hidden / config.num_attention_heads * config.num_key_value_heads;
    let mut wanted = vec![("model.embed_tokens.weight".to_owned(), vec![tokens, hidden]), ("model.norm.weight".to_owned(), vec![hidden])];
    if !config.tie_word_embeddings {
        wanted.push(("lm_head.weight".to_owned(), vec![tokens, hidden]));
    }
    for layer in 0..config.num_hidden_layers {
        let of_layer = [
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ];
        wanted.extend(of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
    }
    for (name, shape) in wanted {
        match tensors.get(&name) {
            None => return Err(format!("its *.safetensors lack the tensor {name}")),
            Some(tensor) if tensor.dims() != shape => {
                return Err(format!("its tensor {name} has the shape {:?}, config.json says {shape:?}", tensor.dims()));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn assemble(tensors: HashMap<String, Tensor>, config: &Config) -> candle_core::Result<Weights> {
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let llama = Llama::load(builder, config)?;
    let cache = Cache::new(true, DType::F32, config, &Device::Cpu)?;
    Ok(Weights::Plain(Arc::new(llama), Box::new(cache)))
}
