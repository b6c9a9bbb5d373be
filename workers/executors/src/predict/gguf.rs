//! Loading a model from a GGUF file.

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::{
        QTensor,
        gguf_file::{Content, Value},
    },
};

use super::{
    PredictError,
    arithmetic::{Matrix, unpacked},
    error::{ANOTHER_MODEL, FETCH_AGAIN},
    model::Shape,
    turns::Turns,
    vocabulary::{self, Vocabulary},
    weights::{Layer, Weights},
};

pub(super) fn load(path: &Path) -> Result<(Weights, Vocabulary), PredictError> {
    let file = File::open(path).map_err(|source| PredictError::read(path, source))?;
    let bytes = file.metadata().map_err(|source| PredictError::read(path, source))?.len();
    let beside = path.with_file_name("tokenizer.json");
    read(path, (&mut BufReader::new(file), bytes), Some(&beside).filter(|beside| beside.is_file()).map(PathBuf::as_path))
}

/// Reads a file of this many bytes; `path` is what it is called, `tokenizer` a `tokenizer.json` that comes before what the file itself holds.
pub(super) fn read(
    path: &Path,
    (reader, bytes): (&mut (impl Read + Seek), u64),
    tokenizer: Option<&Path>,
) -> Result<(Weights, Vocabulary), PredictError> {
    let content = Content::read(reader).map_err(|error| PredictError::unusable(path, error, FETCH_AGAIN))?;
    supported(&content).map_err(|problem| PredictError::unusable(path, problem, ANOTHER_MODEL))?;
    let metadata = Metadata(&content);
    let shape = shape(&metadata, &content).and_then(|shape| bounded(&metadata, &content, shape, bytes).map(|()| shape));
    let shape = shape.map_err(|problem| PredictError::unusable(path, problem, FETCH_AGAIN))?;
    let vocabulary = vocabulary(path, tokenizer, &metadata)?;
    let weights = Tensors { content: &content, reader }.weights(shape, &metadata);
    let weights = weights.map_err(|problem| PredictError::unusable(path, problem, FETCH_AGAIN))?;
    Ok((weights, vocabulary))
}

/// The file's tensors, by their names.
struct Tensors<'a, R> {
    content: &'a Content,
    reader: &'a mut R,
}

impl<R: Read + Seek> Tensors<'_, R> {
    fn weights(&mut self, shape: Shape, metadata: &Metadata<'_>) -> Result<Weights, String> {
        let hidden = shape.hidden;
        let has_output = self.content.tensor_infos.contains_key("output.weight");
        Ok(Weights {
            shape,
            embedding: self.matrix("token_embd", shape.tokens, hidden)?,
            layers: (0..shape.layers).map(|number| self.layer(number, shape)).collect::<Result<_, _>>()?,
            norm: self.vector("output_norm", hidden)?,
            output: if has_output { Some(self.matrix("output", shape.tokens, hidden)?) } else { None },
            turns: Turns::new(metadata.whole("llama.rope.dimension_count")?, metadata.fraction("llama.rope.freq_base").unwrap_or(10_000.0)),
            epsilon: metadata.fraction("llama.attention.layer_norm_rms_epsilon")?,
        })
    }

    fn layer(&mut self, number: usize, shape: Shape) -> Result<Layer, String> {
        let (hidden, kv) = (shape.hidden, shape.kv_width());
        let name = |part: &str| format!("blk.{number}.{part}");
        let inner = self.content.tensor_infos.get(&format!("{}.weight", name("ffn_gate")));
        let inner = inner.and_then(|tensor| tensor.shape.dims().first().copied()).unwrap_or(0);
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm"), hidden)?,
            queries: self.matrix(&name("attn_q"), hidden, hidden)?,
            keys: self.matrix(&name("attn_k"), kv, hidden)?,
            values: self.matrix(&name("attn_v"), kv, hidden)?,
            mixed: self.matrix(&name("attn_output"), hidden, hidden)?,
            inner_norm: self.vector(&name("ffn_norm"), hidden)?,
            gate: self.matrix(&name("ffn_gate"), inner, hidden)?,
            up: self.matrix(&name("ffn_up"), inner, hidden)?,
            down: self.matrix(&name("ffn_down"), hidden, inner)?,
        })
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, String> {
        let tensor = self.tensor(name, &[rows, columns])?;
        unpacked(&tensor).map_err(|error| format!("its tensor {name}.weight: {error}"))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, String> {
        let tensor = self.tensor(name, &[length])?;
        let values = tensor.dequantize(&Device::Cpu).and_then(|tensor| tensor.to_vec1());
        values.map_err(|error| format!("its tensor {name}.weight: {error}"))
    }

    fn tensor(&mut self, name: &str, dimensions: &[usize]) -> Result<QTensor, String> {
        let name = format!("{name}.weight");
        let tensor = self.content.tensor(self.reader, &name, &Device::Cpu).map_err(|error| error.to_string())?;
        if tensor.shape().dims() != dimensions {
            return Err(format!("its tensor {name} has the shape {:?}, its metadata says {dimensions:?}", tensor.shape().dims()));
        }
        Ok(tensor)
    }
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
    if metadata.whole("llama.expert_count").is_ok_and(|experts| experts > 0) {
        return Err("it is a mixture of experts, which is not supported".to_owned());
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
    if shape.layers > tensors {
        return Err(format!("it declares {} layers, and has {tensors} tensors", shape.layers));
    }
    let (turned, head) = (metadata.whole("llama.rope.dimension_count")?, shape.hidden / shape.heads);
    if turned == 0 || turned > head || !turned.is_multiple_of(2) {
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

/// The tokenizer that is given, else what the file itself holds.
fn vocabulary(path: &Path, tokenizer: Option<&Path>, metadata: &Metadata<'_>) -> Result<Vocabulary, PredictError> {
    let declared = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
    let ends: Vec<u32> = declared.iter().filter_map(|key| metadata.whole(key).ok()).filter_map(|id| u32::try_from(id).ok()).collect();
    if let Some(tokenizer) = tokenizer {
        return vocabulary::read(tokenizer, &ends);
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

    fn fraction(&self, key: &str) -> Result<f32, String> {
        self.get(key)?.to_f32().map_err(|_| format!("its {key} is not a 32-bit float"))
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
