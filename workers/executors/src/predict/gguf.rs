//! Loading a model from a GGUF file.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::gguf_file::{Content, Value},
};
use candle_transformers::models::quantized_llama::ModelWeights;

use super::{
    PredictError,
    error::{ANOTHER_MODEL, FETCH_AGAIN},
    model::Shape,
    vocabulary::{self, Vocabulary},
    weights::Weights,
};

pub(super) fn load(path: &Path) -> Result<(Weights, Vocabulary, Shape), PredictError> {
    let file = File::open(path).map_err(|source| PredictError::read(path, source))?;
    let mut reader = BufReader::new(file);
    let content = Content::read(&mut reader).map_err(|error| PredictError::unusable(path, error, FETCH_AGAIN))?;
    supported(&content).map_err(|problem| PredictError::unusable(path, problem, ANOTHER_MODEL))?;
    let metadata = Metadata(&content);
    let bytes = std::fs::metadata(path).map_err(|source| PredictError::read(path, source))?.len();
    let shape = shape(&metadata, &content).and_then(|shape| bounded(&metadata, &content, shape, bytes).map(|()| shape));
    let shape = shape.map_err(|problem| PredictError::unusable(path, problem, FETCH_AGAIN))?;
    let vocabulary = vocabulary(path, &metadata)?;
    let weights = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu);
    let weights = weights.map_err(|error| PredictError::unusable(path, error, FETCH_AGAIN))?;
    Ok((Weights::Quantized(Box::new(weights)), vocabulary, shape))
}

/// Refuses what the arithmetic would get silently wrong.
fn supported(content: &Content) -> Result<(), String> {
    let metadata = Metadata(content);
    let architecture = metadata.text("general.architecture")?;
    if architecture != "llama" {
        return Err(format!("its architecture is {architecture:?}, only \"llama\" can be run"));
    }
    let scaling = metadata.text("llama.rope.scaling.type").unwrap_or("none");
    if scaling != "none" || content.tensor_infos.contains_key("rope_freqs.weight") {
        return Err("its positions are scaled (RoPE scaling), which is supported from safetensors only".to_owned());
    }
    Ok(())
}

fn shape(metadata: &Metadata<'_>, content: &Content) -> Result<Shape, String> {
    let embedding = content.tensor_infos.get("token_embd.weight").ok_or("it has no tensor token_embd.weight")?;
    let shape = Shape {
        layers: metadata.whole("llama.block_count")?,
        hidden: metadata.whole("llama.embedding_length")?,
        heads: metadata.whole("llama.attention.head_count")?,
        kv_heads: metadata.whole("llama.attention.head_count_kv")?,
        tokens: embedding.shape.dims().first().copied().unwrap_or(0),
        context: metadata.whole("llama.context_length")?,
    };
    shape.check()
}

/// Refuses counts for which the library would reserve memory before it looks whether the file holds so much.
fn bounded(metadata: &Metadata<'_>, content: &Content, shape: Shape, file_bytes: u64) -> Result<(), String> {
    /// The most numbers that a byte can stand for, in the densest of the formats and a little beyond.
    const NUMBERS_PER_BYTE: usize = 8;
    let tensors = content.tensor_infos.len();
    let experts = metadata.whole("llama.expert_count").unwrap_or(0);
    if shape.layers > tensors || experts > tensors {
        return Err(format!("it declares {} layers and {experts} experts, and has {tensors} tensors", shape.layers));
    }
    let (turned, head) = (metadata.whole("llama.rope.dimension_count")?, shape.hidden / shape.heads);
    if turned == 0 || turned > head {
        return Err(format!("its llama.rope.dimension_count is {turned}, and a head has {head} numbers"));
    }
    let most = usize::try_from(file_bytes).unwrap_or(usize::MAX).saturating_mul(NUMBERS_PER_BYTE);
    for (name, tensor) in &content.tensor_infos {
        let numbers = tensor.shape.dims().iter().try_fold(1_usize, |numbers, dimension| numbers.checked_mul(*dimension));
        // The library reads an empty tensor through a pointer to nowhere.
        if numbers.is_none_or(|numbers| numbers == 0 || numbers > most) {
            return Err(format!("its tensor {name:?} of the shape {:?} is empty, or larger than the file", tensor.shape.dims()));
        }
    }
    Ok(())
}

/// `tokenizer.json` beside the file where there is one, else what the file itself holds.
fn vocabulary(path: &Path, metadata: &Metadata<'_>) -> Result<Vocabulary, PredictError> {
    let beside: PathBuf = path.with_file_name("tokenizer.json");
    let declared = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
    let ends: Vec<u32> = declared.iter().filter_map(|key| metadata.whole(key).ok()).filter_map(|id| u32::try_from(id).ok()).collect();
    if beside.is_file() {
        return vocabulary::read(&beside, &ends);
    }
    const ADVICE: &str = "put the model's tokenizer.json beside it";
    let built = vocabulary::build(metadata).and_then(|(tokenizer, begin)| Vocabulary::new(tokenizer, begin, &ends));
    built.map_err(|problem| PredictError::unusable(path, problem, ADVICE))
}

/// The file's metadata, with errors that name the key.
pub(super) struct Metadata<'a>(pub(super) &'a Content);

impl Metadata<'_> {
    fn get(&self, key: &str) -> Result<&Value, String> {
        self.0.metadata.get(key).ok_or_else(|| format!("its metadata lacks {key}"))
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, String> {
        self.get(key)?.to_string().map(String::as_str).map_err(|_| format!("its {key} is not text"))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).ok()?.to_bool().ok()
    }

    pub(super) fn whole(&self, key: &str) -> Result<usize, String> {
        let number = match self.get(key)? {
            Value::U8(number) => u64::from(*number),
            Value::U16(number) => u64::from(*number),
            Value::U32(number) => u64::from(*number),
            Value::U64(number) => *number,
            Value::I32(number) => u64::try_from(*number).unwrap_or(u64::MAX),
            Value::I64(number) => u64::try_from(*number).unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        usize::try_from(number).ok().filter(|number| *number < 1 << 40).ok_or_else(|| format!("its {key} is not a sensible number"))
    }

    pub(super) fn list(&self, key: &str) -> Result<&[Value], String> {
        self.get(key)?.to_vec().map(Vec::as_slice).map_err(|_| format!("its {key} is not a list"))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, String> {
        let texts = self.list(key)?.iter().map(|value| value.to_string().cloned());
        texts.collect::<candle_core::Result<_>>().map_err(|_| format!("its {key} is not a list of texts"))
    }
}
