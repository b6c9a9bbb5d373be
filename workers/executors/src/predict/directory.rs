//! Loading a model from a directory with `config.json`, `tokenizer.json` and `*.safetensors`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::{
    PredictError,
    arithmetic::Matrix,
    error::{ANOTHER_MODEL, FETCH_AGAIN},
    model::Shape,
    turns::{Stretch, Turns},
    vocabulary::{self, Vocabulary},
    weights::{Layer, Weights},
};

/// What `config.json` says of a Llama.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    vocab_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    rms_norm_eps: f32,
    #[serde(default = "usual_base")]
    rope_theta: f32,
    rope_scaling: Option<Scaling>,
    max_position_embeddings: usize,
    tie_word_embeddings: Option<bool>,
    eos_token_id: Option<Ends>,
}

impl Config {
    /// Whether the embedding is the output too.
    fn is_tied(&self) -> bool {
        self.tie_word_embeddings.unwrap_or(false)
    }
}

const fn usual_base() -> f32 {
    10_000.0
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ends {
    One(u32),
    Several(Vec<u32>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
enum Scaling {
    Default,
    Llama3(Stretch),
}

pub(super) fn load(directory: &Path) -> Result<(Weights, Vocabulary), PredictError> {
    let config_path = directory.join("config.json");
    let (config, shape) = configuration(&config_path)?;
    let ends = match &config.eos_token_id {
        None => Vec::new(),
        Some(Ends::One(id)) => vec![*id],
        Some(Ends::Several(ids)) => ids.clone(),
    };
    let vocabulary = vocabulary::read(&directory.join("tokenizer.json"), &ends)?;
    let tensors = tensors(directory)?;
    check(&tensors, &config, shape).map_err(|problem| PredictError::unusable(directory, problem, FETCH_AGAIN))?;
    let weights = assemble(&tensors, &config, shape).map_err(|error| PredictError::unusable(directory, error, FETCH_AGAIN))?;
    Ok((weights, vocabulary))
}

fn configuration(path: &Path) -> Result<(Config, Shape), PredictError> {
    let bytes = fs::read(path).map_err(|source| PredictError::read(path, source))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| PredictError::unusable(path, error, FETCH_AGAIN))?;
    let family = value.get("model_type").and_then(Value::as_str).unwrap_or("llama");
    if family != "llama" {
        return Err(PredictError::unusable(path, format!("its model_type is {family:?}, only \"llama\" can be run"), ANOTHER_MODEL));
    }
    let config: Config = serde_json::from_value(value).map_err(|error| PredictError::unusable(path, error, ANOTHER_MODEL))?;
    let shape = Shape {
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
        tokens: config.vocab_size,
        context: config.max_position_embeddings,
    };
    let shape = shape.check().map_err(|problem| PredictError::unusable(path, problem, FETCH_AGAIN))?;
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

/// Looks for every tensor, so that the error names the one that is missing.
fn check(tensors: &HashMap<String, Tensor>, config: &Config, shape: Shape) -> Result<(), String> {
    let (hidden, inner, tokens) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    if inner == 0 {
        return Err("config.json declares an intermediate_size of 0".to_owned());
    }
    if config.num_hidden_layers > tensors.len() {
        return Err(format!("config.json declares {} layers, its *.safetensors have {} tensors", config.num_hidden_layers, tensors.len()));
    }
    let kv = shape.kv_width();
    let mut wanted = vec![("model.embed_tokens.weight".to_owned(), vec![tokens, hidden]), ("model.norm.weight".to_owned(), vec![hidden])];
    if !config.is_tied() {
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

fn assemble(tensors: &HashMap<String, Tensor>, config: &Config, shape: Shape) -> candle_core::Result<Weights> {
    let turns = Turns::new(shape.head(), config.rope_theta);
    let turns = match config.rope_scaling {
        None | Some(Scaling::Default) => turns,
        Some(Scaling::Llama3(stretch)) => turns.stretched(stretch),
    };
    let tensors = Tensors { tensors, head: shape.head() };
    Ok(Weights {
        shape,
        embedding: tensors.matrix("model.embed_tokens")?,
        layers: (0..shape.layers).map(|number| tensors.layer(number)).collect::<candle_core::Result<_>>()?,
        norm: tensors.vector("model.norm")?,
        output: if config.is_tied() { None } else { Some(tensors.matrix("lm_head")?) },
        turns,
        epsilon: config.rms_norm_eps,
    })
}

/// The tensors, by their names, all of which were found to be there.
struct Tensors<'a> {
    tensors: &'a HashMap<String, Tensor>,
    head: usize,
}

impl Tensors<'_> {
    fn layer(&self, number: usize) -> candle_core::Result<Layer> {
        let name = |part: &str| format!("model.layers.{number}.{part}");
        Ok(Layer {
            attention_norm: self.vector(&name("input_layernorm"))?,
            queries: self.by_neighbours(&name("self_attn.q_proj"))?,
            keys: self.by_neighbours(&name("self_attn.k_proj"))?,
            values: self.matrix(&name("self_attn.v_proj"))?,
            mixed: self.matrix(&name("self_attn.o_proj"))?,
            inner_norm: self.vector(&name("post_attention_layernorm"))?,
            gate: self.matrix(&name("mlp.gate_proj"))?,
            up: self.matrix(&name("mlp.up_proj"))?,
            down: self.matrix(&name("mlp.down_proj"))?,
        })
    }

    fn matrix(&self, name: &str) -> candle_core::Result<Matrix> {
        let (rows, columns) = self.tensor(name)?.dims2()?;
        Ok(Matrix::float(self.tensor(name)?.flatten_all()?.to_vec1()?, rows, columns))
    }

    /// These files turn the first half of a head with its second half; here neighbours are turned.
    fn by_neighbours(&self, name: &str) -> candle_core::Result<Matrix> {
        let (rows, columns) = self.tensor(name)?.dims2()?;
        let halves = self.tensor(name)?.reshape((rows / self.head, 2, self.head / 2, columns))?;
        Ok(Matrix::float(halves.transpose(1, 2)?.flatten_all()?.to_vec1()?, rows, columns))
    }

    fn vector(&self, name: &str) -> candle_core::Result<Vec<f32>> {
        self.tensor(name)?.to_vec1()
    }

    fn tensor(&self, name: &str) -> candle_core::Result<&Tensor> {
        let name = format!("{name}.weight");
        self.tensors.get(&name).ok_or_else(|| candle_core::Error::CannotFindTensor { path: name })
    }
}
