//! The model of a SentencePiece vocabulary (Llama 1 and 2, TinyLlama, Mistral), rebuilt from a GGUF file's pieces and scores.
//!
//! The format keeps no merges: two neighbours merge where their concatenation is a piece, the best score first. Which is a list of merges, sorted.

use std::collections::HashMap;

use tokenizers::{
    DecoderWrapper, NormalizerWrapper, Tokenizer,
    decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip},
    models::bpe::{BPE, Vocab},
    normalizers::{Prepend, Replace, Sequence as Normalizers},
};

/// What stands for a space in a piece.
const SPACE: &str = "\u{2581}";

/// A tokenizer of `pieces` with their `scores`. `unknown` is the piece for what no other spells; `space_first` puts a space before every text.
pub(super) fn tokenizer(pieces: &[String], scores: &[f32], unknown: &str, space_first: bool) -> Result<Tokenizer, String> {
    if pieces.len() != scores.len() {
        return Err("its tokenizer.ggml.scores are not as many as its tokens".to_owned());
    }
    let vocabulary: Vocab = (0..).zip(pieces).map(|(id, piece)| (piece.clone(), id)).collect();
    let builder = BPE::builder().vocab_and_merges(vocabulary, merges(pieces, scores));
    let model = builder.unk_token(unknown.to_owned()).fuse_unk(true).byte_fallback(true).build().map_err(|error| error.to_string())?;
    let mut tokenizer = Tokenizer::new(model);
    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(|error| error.to_string());
    let mut normalizers: Vec<NormalizerWrapper> = vec![replace(" ", SPACE)?.into()];
    let mut decoders: Vec<DecoderWrapper> = vec![replace(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if space_first {
        normalizers.insert(0, Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(|error| error.to_string())?;
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(tokenizer)
}

/// Every way to put a piece together from two, the piece with the best score first.
fn merges(pieces: &[String], scores: &[f32]) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = pieces.iter().enumerate().map(|(id, piece)| (piece.as_str(), id)).collect();
    let mut found = Vec::new();
    for (piece, score) in pieces.iter().zip(scores) {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                found.push((*score, *left_id, *right_id, left, right));
            }
        }
    }
    found.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| (one.1, one.2).cmp(&(other.1, other.2))));
    found.into_iter().map(|(_, _, _, left, right)| (left.to_owned(), right.to_owned())).collect()
}
