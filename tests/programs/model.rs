//! A tiny Llama with made-up weights: config.json, tokenizer.json and model.safetensors, written by hand. Nothing is downloaded.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

const HIDDEN: usize = 32;
const INNER: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const CONTROL: &str = "<|endoftext|>";

/// Writes the model into an existing folder.
pub fn write(folder: &Path) {
    let vocabulary = vocabulary();
    let end = vocabulary.len();
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "vocab_size": end + 1, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "max_position_embeddings": 256, "eos_token_id": end, "tie_word_embeddings": false,
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("written");
    fs::write(folder.join("tokenizer.json"), tokenizer(vocabulary, end).to_string()).expect("written");
    fs::write(folder.join("model.safetensors"), weights(end + 1)).expect("written");
}

/// One token for each byte, in the alphabet that byte-level tokenizers use: printable bytes are themselves, the others follow from U+0100.
fn vocabulary() -> Map<String, Value> {
    let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..=255).filter(|byte| !printable(byte)).zip('\u{100}'..).map(|(_, letter)| letter);
    let alphabet = (0..=255).filter(printable).map(char::from).chain(others);
    alphabet.zip(0_usize..).map(|(letter, id)| (letter.to_string(), id.into())).collect()
}

fn tokenizer(mut vocabulary: Map<String, Value>, end: usize) -> Value {
    vocabulary.insert(CONTROL.to_owned(), end.into());
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let control = json!({
        "id": end, "content": CONTROL, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [control], "normalizer": null, "pre_tokenizer": bytes,
        "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": [],
        },
    })
}

/// The format: the length of a JSON header, the header, the numbers.
fn weights(tokens: usize) -> Vec<u8> {
    let kv = HIDDEN / HEADS * KV_HEADS;
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
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![tokens, HIDDEN]),
        ("lm_head".to_owned(), vec![tokens, HIDDEN]),
        ("model.norm".to_owned(), vec![HIDDEN]),
    ];
    shapes.extend(of_layer.map(|(name, shape)| (format!("model.layers.0.{name}"), shape)));
    let (mut header, mut numbers) = (Map::new(), Vec::new());
    for (name, shape) in shapes {
        let begin = numbers.len();
        numbers.extend((0..shape.iter().product()).flat_map(|place: usize| number(begin + place).to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, numbers.len()]});
        header.insert(format!("{name}.weight"), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &numbers].concat()
}

/// Between -0.5 and 0.5, the same for the same place.
fn number(place: usize) -> f32 {
    let mixed = (place as u64 + 1).wrapping_mul(6_364_136_223_846_793_005).rotate_left(32).wrapping_mul(1_442_695_040_888_963_407);
    (mixed >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
}
