//! A tiny Llama with random weights, written as a GGUF file and as a directory: the same model twice.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use serde_json::json;
use tokenizers::{Tokenizer, models::bpe::BPE, pre_tokenizers::byte_level::ByteLevel};

const LAYERS: usize = 2;
const HIDDEN: usize = 32;
const INNER: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD: usize = HIDDEN / HEADS;
const MERGES: [(&str, &str); 2] = [("Ġ", "t"), ("h", "e")];
const CONTROL: &str = "<|endoftext|>";

/// What a test changes of the model.
pub(super) struct Tiny {
    pub(super) context: u32,
    /// The declared end of a text.
    pub(super) end: u32,
    pub(super) architecture: &'static str,
    pub(super) tokenizer: &'static str,
    /// A tensor (by its name in safetensors) to leave out.
    pub(super) without: &'static str,
    /// How the GGUF file has its matrices.
    pub(super) format: GgmlDType,
}

impl Default for Tiny {
    fn default() -> Self {
        Self { context: 256, end: 258, architecture: "llama", tokenizer: "gpt2", without: "", format: GgmlDType::F32 }
    }
}

impl Tiny {
    pub(super) fn gguf(&self, directory: &Path) -> PathBuf {
        let path = directory.join("tiny.gguf");
        let tensors: Vec<(String, QTensor)> = self.tensors().iter().map(|(name, tensor)| as_gguf(name, tensor, self.format)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let metadata = self.metadata();
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        gguf_file::write(&mut File::create(&path).unwrap(), &metadata, &tensors).unwrap();
        path
    }

    pub(super) fn directory(&self, parent: &Path) -> PathBuf {
        let path = parent.join("tiny");
        fs::create_dir_all(&path).unwrap();
        let config = json!({
            "model_type": self.architecture, "hidden_size": HIDDEN, "intermediate_size": INNER, "vocab_size": tokens().len(),
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0, "max_position_embeddings": self.context, "eos_token_id": self.end, "tie_word_embeddings": false,
        });
        fs::write(path.join("config.json"), config.to_string()).unwrap();
        fs::write(path.join("tokenizer.json"), tokenizer().to_string(false).unwrap()).unwrap();
        let tensors: HashMap<String, Tensor> = self.tensors().into_iter().collect();
        candle_core::safetensors::save(&tensors, path.join("model.safetensors")).unwrap();
        path
    }

    /// By their names in safetensors.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let (tokens, kv) = (tokens().len(), HEAD * KV_HEADS);
        let mut shapes = vec![
            ("model.embed_tokens".to_owned(), vec![tokens, HIDDEN]),
            ("lm_head".to_owned(), vec![tokens, HIDDEN]),
            ("model.norm".to_owned(), vec![HIDDEN]),
        ];
        for layer in 0..LAYERS {
            let of_layer = [
                ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
                ("self_attn.k_proj", vec![kv, HIDDEN]),
                ("self_attn.v_proj", vec![kv, HIDDEN]),
                ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
                ("mlp.gate_proj", vec![INNER, HIDDEN]),
                ("mlp.up_proj", vec![INNER, HIDDEN]),
                ("mlp.down_proj", vec![HIDDEN, INNER]),
                ("input_layernorm", vec![HIDDEN]),
                ("post_attention_layernorm", vec![HIDDEN]),
            ];
            shapes.extend(of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
        }
        let named = shapes.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape)).zip(1..);
        let kept = named.filter(|((name, _), _)| name != self.without);
        kept.map(|((name, shape), seed)| {
            (name.clone(), if name.starts_with("lm_head") { endless(&random(&shape, seed)) } else { random(&shape, seed) })
        })
        .collect()
    }

    fn metadata(&self) -> Vec<(&'static str, Value)> {
        let tokens = tokens();
        let kinds = tokens.iter().map(|token| Value::I32(if token == CONTROL { 3 } else { 1 })).collect();
        let merges = MERGES.iter().map(|(left, right)| Value::String(format!("{left} {right}"))).collect();
        let number = |number: usize| Value::U32(u32::try_from(number).unwrap());
        vec![
            ("general.architecture", Value::String(self.architecture.to_owned())),
            ("llama.block_count", number(LAYERS)),
            ("llama.embedding_length", number(HIDDEN)),
            ("llama.attention.head_count", number(HEADS)),
            ("llama.attention.head_count_kv", number(KV_HEADS)),
            ("llama.rope.dimension_count", number(HEAD)),
            ("llama.context_length", Value::U32(self.context)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("tokenizer.ggml.model", Value::String(self.tokenizer.to_owned())),
            ("tokenizer.ggml.pre", Value::String("smollm".to_owned())),
            ("tokenizer.ggml.tokens", Value::Array(tokens.into_iter().map(Value::String).collect())),
            ("tokenizer.ggml.token_type", Value::Array(kinds)),
            ("tokenizer.ggml.merges", Value::Array(merges)),
            ("tokenizer.ggml.eos_token_id", Value::U32(self.end)),
        ]
    }
}

fn tokens() -> Vec<String> {
    let mut tokens: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    tokens.sort();
    tokens.extend(MERGES.map(|(left, right)| format!("{left}{right}")));
    tokens.push(CONTROL.to_owned());
    tokens
}

fn tokenizer() -> Tokenizer {
    let merges = MERGES.map(|(left, right)| (left.to_owned(), right.to_owned())).to_vec();
    let vocabulary = tokens().into_iter().zip(0..).collect::<HashMap<String, u32>>();
    let bpe = BPE::builder().vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges).build().unwrap();
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.add_special_tokens([tokenizers::AddedToken::from(CONTROL, true)]).expect("a fresh tokenizer takes a token");
    tokenizer
}

/// Numbers around 0 (around 1 for a norm), the same for the same seed.
fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    if shape.len() == 1 { tensor.affine(0.2, 1.0).unwrap() } else { tensor }
}

/// With a last token (the one that ends texts) that is never the likeliest.
fn endless(head: &Tensor) -> Tensor {
    let last = head.dim(0).unwrap() - 1;
    Tensor::cat(&[head.narrow(0, 0, last).unwrap(), head.narrow(0, last, 1).unwrap().zeros_like().unwrap()], 0).unwrap()
}

/// Name and layout as the GGUF converters write them: rows of Q and K are reordered, because the file's positions turn neighbours and not halves.
fn as_gguf(name: &str, tensor: &Tensor, format: GgmlDType) -> (String, QTensor) {
    let short = [
        ("model.embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    let renamed = short.iter().fold(name.to_owned(), |name, (long, short)| name.replace(long, short));
    let turned = name.contains("q_proj") || name.contains("k_proj");
    let tensor = if turned { interleaved(tensor) } else { tensor.clone() };
    let format = if tensor.rank() == 1 { GgmlDType::F32 } else { format };
    (renamed, QTensor::quantize(&tensor, format).unwrap())
}

fn interleaved(tensor: &Tensor) -> Tensor {
    let (rows, columns) = tensor.dims2().unwrap();
    let halves = tensor.reshape((rows / HEAD, 2, HEAD / 2, columns)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}
