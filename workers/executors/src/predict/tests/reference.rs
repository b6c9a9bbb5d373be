//! Our arithmetic against the library's own Llama, on the same weights.

use candle_core::{Device, Tensor, quantized::gguf_file::Content};
use candle_transformers::models::quantized_llama::ModelWeights;

use super::*;

/// The library's logits of what follows these tokens.
fn theirs(path: &Path, tokens: &[u32]) -> Vec<f32> {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut weights = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();
    let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    weights.forward(&input, 0).unwrap().squeeze(0).unwrap().to_vec1().unwrap()
}

#[test]
fn logits_are_those_of_the_librarys_llama() {
    let scratch = scratch();
    let path = Tiny::default().gguf(scratch.path());
    let model = Model::load(&path).unwrap();
    for text in ["hello there", "the then", "zażółć 漢字 🙂"] {
        let tokens = model.tokens(text).unwrap();
        for (ours, theirs) in model.logits(&tokens).iter().zip(theirs(&path, &tokens)) {
            assert!((ours - theirs).abs() < 1e-3, "{text}: {ours} and {theirs}");
        }
    }
}
