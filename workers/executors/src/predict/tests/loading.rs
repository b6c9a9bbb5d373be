//! What is said of models that cannot be loaded.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::{collection::vec, prelude::*};
use protocol::config::PredictSection;
use serde_json::json;
use tempfile::TempDir;

use super::{super::fixture::Tiny, Model, Predict, PredictError, scratch};

/// The error of a load, with its causes, as an operator reads it.
fn refusal(path: &Path) -> String {
    let error = Model::load(path).unwrap_err();
    match std::error::Error::source(&error) {
        None => error.to_string(),
        Some(source) => format!("{error}: {source}"),
    }
}

#[tokio::test]
async fn without_a_model_or_with_a_missing_one_the_error_says_what_to_do() {
    let none = Predict::load(&PredictSection::default()).await.err().unwrap();
    assert!(matches!(none, PredictError::NoModel) && none.to_string().contains("`predict.model` is not set"), "{none}");
    let missing = PredictSection { model: Some("/nowhere/model.gguf".into()), ..PredictSection::default() };
    let missing = Predict::load(&missing).await.err().unwrap().to_string();
    assert!(missing.contains("/nowhere/model.gguf") && missing.contains("make model"), "{missing}");
}

#[test]
fn a_damaged_or_unsupported_gguf_file_is_refused_by_name() {
    let scratch = scratch();
    let path = Tiny::default().gguf(scratch.path());
    let whole = fs::read(&path).unwrap();
    for (bytes, what) in [(&b""[..], "empty"), (b"GGUF", "only the magic"), (b"what is this?", "another format")] {
        fs::write(&path, bytes).unwrap();
        let said = refusal(&path);
        assert!(said.contains("tiny.gguf is not usable") && said.contains("fetch the model again"), "{what}: {said}");
    }
    for part in 1..20 {
        fs::write(&path, &whole[..whole.len() * part / 20]).unwrap();
        assert!(refusal(&path).contains("tiny.gguf is not usable"), "cut at {part}/20");
    }
    for (tiny, said) in [
        (Tiny { architecture: "mamba", ..Tiny::default() }, "its architecture is \"mamba\", only \"llama\" can be run"),
        (Tiny { tokenizer: "bert", ..Tiny::default() }, "its tokenizer is of the kind \"bert\""),
        (Tiny { tokenizer: "bert", ..Tiny::default() }, "put the model's tokenizer.json beside it"),
        (Tiny { without: "model.layers.1.mlp.up_proj.weight", ..Tiny::default() }, "blk.1.ffn_up.weight"),
    ] {
        let refused = refusal(&tiny.gguf(scratch.path()));
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn a_tokenizer_beside_a_gguf_file_comes_first() {
    let scratch = scratch();
    let path = Tiny { tokenizer: "bert", ..Tiny::default() }.gguf(scratch.path());
    let directory = Tiny::default().directory(scratch.path());
    fs::copy(directory.join("tokenizer.json"), scratch.path().join("tokenizer.json")).unwrap();
    assert!(Model::load(&path).is_ok());
}

#[test]
fn a_damaged_or_unsupported_directory_is_refused_by_file() {
    let scratch = scratch();
    let fresh = || Tiny::default().directory(scratch.path());
    for (file, content, said) in [
        ("config.json", "{", "config.json is not usable: EOF"),
        ("config.json", "{\"model_type\": \"llama\"}", "config.json is not usable: missing field"),
        ("config.json", "{\"model_type\": \"gpt2\"}", "only \"llama\" can be run"),
        ("tokenizer.json", "{}", "tokenizer.json is not usable"),
        ("model.safetensors", "nonsense", "model.safetensors is not usable"),
    ] {
        fs::write(fresh().join(file), content).unwrap();
        let refused = refusal(&fresh_path(&scratch));
        assert!(refused.contains(said), "{file}: {refused}");
    }
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::remove_file(fresh().join(file)).unwrap();
        let refused = refusal(&fresh_path(&scratch));
        assert!(refused.contains(file) || refused.contains("no *.safetensors"), "{file}: {refused}");
    }
    let refused = refusal(&Tiny { without: "model.layers.1.mlp.up_proj.weight", ..Tiny::default() }.directory(scratch.path()));
    assert!(refused.contains("lack the tensor model.layers.1.mlp.up_proj.weight"), "{refused}");
}

#[test]
fn sizes_that_do_not_go_together_are_refused_before_the_arithmetic() {
    let scratch = scratch();
    for (field, value, said) in [
        ("num_attention_heads", 0, "sizes do not go together"),
        ("num_key_value_heads", 3, "sizes do not go together"),
        ("intermediate_size", 65, "config.json says"),
        ("vocab_size", 20, "config.json says"),
    ] {
        let path = Tiny::default().directory(scratch.path());
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap();
        config[field] = json!(value);
        fs::write(path.join("config.json"), config.to_string()).unwrap();
        let refused = refusal(&path);
        assert!(refused.contains(said), "{field}: {refused}");
    }
}

#[test]
fn counts_beyond_the_file_are_refused_before_any_memory_is_reserved() {
    let scratch = scratch();
    let path = Tiny::default().gguf(scratch.path());
    let whole = fs::read(&path).unwrap();
    let after = |key: &str| whole.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len();
    // A number's type stands between its key and itself, four bytes.
    for (key, number, said) in [
        ("llama.block_count", u32::MAX, "it declares 4294967295 layers"),
        ("llama.rope.dimension_count", u32::MAX, "llama.rope.dimension_count is 4294967295"),
        ("llama.rope.dimension_count", 0, "llama.rope.dimension_count is 0"),
        ("llama.attention.head_count", u32::MAX, "sizes do not go together"),
        ("llama.embedding_length", 0, "sizes do not go together"),
    ] {
        let mut bytes = whole.clone();
        let place = after(key) + 4;
        bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let refused = refusal(&path);
        assert!(refused.contains(said), "{key}: {refused}");
    }
    // The first of two dimensions, after the tensor's name and their number.
    let mut bytes = whole.clone();
    let place = after("token_embd.weight") + 4;
    bytes[place + 8..place + 16].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(refusal(&path).contains("\"token_embd.weight\" of the shape"), "{}", refusal(&path));

    let directory = Tiny::default().directory(scratch.path());
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    config["num_hidden_layers"] = json!(1_u64 << 40);
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    assert!(refusal(&directory).contains("declares 1099511627776 layers"), "{}", refusal(&directory));
}

/// A file with a few of its bytes overwritten, most of them in its header.
fn damaged(whole: &[u8], damage: &[(prop::sample::Index, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for (place, written) in damage {
        let place = place.index(bytes.len() - written.len());
        bytes[place..place + written.len()].copy_from_slice(written);
    }
    bytes
}

fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, Vec<u8>)>> {
    let written = prop_oneof![
        vec(any::<u8>(), 1..9),
        prop::sample::select(vec![vec![0_u8; 8], vec![0xff; 8], vec![0xff; 4], vec![0, 0, 0, 0x80], vec![9, 0, 0, 0]]),
    ];
    vec((any::<prop::sample::Index>(), written), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The load may find that the loader crashed; what it must not do is to end the process, or to hang.
    #[test]
    fn a_gguf_file_with_damage_in_its_header_is_loaded_or_refused(damage in damage()) {
        let scratch = scratch();
        let path = Tiny::default().gguf(scratch.path());
        let whole = fs::read(&path).unwrap();
        // Metadata and the tensors' names come first; the numbers of the weights are as good as any.
        let header = whole.len().min(9_000);
        let bytes = [damaged(&whole[..header], &damage), whole[header..].to_vec()].concat();
        fs::write(&path, bytes).unwrap();
        let section = PredictSection { model: Some(path), ..PredictSection::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if let Err(error) = runtime.block_on(Predict::load(&section)) {
            prop_assert!(error.to_string().contains("tiny.gguf"), "{error}");
        }
    }

    #[test]
    fn a_damaged_tokenizer_is_loaded_or_refused(damage in damage()) {
        let scratch = scratch();
        let path = Tiny::default().directory(scratch.path());
        let file = path.join("tokenizer.json");
        let bytes = damaged(&fs::read(&file).unwrap(), &damage);
        fs::write(&file, bytes).unwrap();
        let section = PredictSection { model: Some(path), ..PredictSection::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if let Err(error) = runtime.block_on(Predict::load(&section)) {
            prop_assert!(error.to_string().contains("tiny"), "{error}");
        }
    }
}

fn fresh_path(scratch: &TempDir) -> PathBuf {
    scratch.path().join("tiny")
}
