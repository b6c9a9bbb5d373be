//! A tokenizer from a GGUF file's metadata: byte-level BPE as GPT-2 and its heirs have it.

use tokenizers::{
    AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::super::gguf::Metadata;

/// How Llama 3 cuts text into words.
const LLAMA_3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types of the format.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The tokenizer, and the token that begins a prompt if there is one.
pub(in super::super) fn build(metadata: &Metadata<'_>) -> Result<(Tokenizer, Option<u32>), String> {
    let kind = metadata.text("tokenizer.ggml.model")?;
    if kind != "gpt2" {
        return Err(format!("its tokenizer is of the kind {kind:?}, only \"gpt2\" can be rebuilt"));
    }
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let words = metadata.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
    let mut tokenizer = Tokenizer::new(merging(metadata, &tokens)?);
    tokenizer.with_pre_tokenizer(Some(word_cutter(words)?));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.add_tokens(&added(metadata, &tokens));
    let begins = metadata.flag("tokenizer.ggml.add_bos_token").unwrap_or(words == "llama-bpe");
    let begin = metadata.whole("tokenizer.ggml.bos_token_id").ok().filter(|id| begins && *id < tokens.len());
    Ok((tokenizer, begin.and_then(|id| u32::try_from(id).ok())))
}

fn merging(metadata: &Metadata<'_>, tokens: &[String]) -> Result<BPE, String> {
    let vocabulary: Vocab = (0..).zip(tokens).map(|(id, token)| (token.clone(), id)).collect();
    if vocabulary.len() != tokens.len() {
        return Err("its tokenizer.ggml.tokens has a token twice".to_owned());
    }
    let merges = metadata.texts("tokenizer.ggml.merges")?;
    let merges = merges.iter().map(|merge| merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())));
    let merges = merges.collect::<Option<Vec<_>>>().ok_or("its tokenizer.ggml.merges has a merge that is not a pair")?;
    // Llama 3 takes a word that is a token as it is, without merging up to it.
    let whole_words = metadata.text("tokenizer.ggml.pre").is_ok_and(|words| words == "llama-bpe");
    BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(whole_words).build().map_err(|error| error.to_string())
}

/// How text is cut into words before bytes are merged. A wrong cut gives wrong tokens without any error, so only what is known is taken.
fn word_cutter(words: &str) -> Result<PreTokenizerWrapper, String> {
    let bytes = |cut_words| ByteLevel::new(false, true, cut_words);
    match words {
        "gpt-2" | "gpt2" => Ok(bytes(true).into()),
        "smollm" => Ok(Sequence::new(vec![Digits::new(true).into(), bytes(true).into()]).into()),
        "llama-bpe" => {
            let pattern = SplitPattern::Regex(LLAMA_3.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(|error| error.to_string())?;
            Ok(Sequence::new(vec![split.into(), bytes(false).into()]).into())
        }
        other => Err(format!("it cuts words by {other:?}; known are gpt-2, smollm and llama-bpe")),
    }
}

/// The tokens that are recognised as they stand in a text and never merged.
fn added(metadata: &Metadata<'_>, tokens: &[String]) -> Vec<AddedToken> {
    let types = metadata.list("tokenizer.ggml.token_type").unwrap_or_default();
    let kinds = types.iter().map(|kind| kind.to_i32().map(i64::from).or_else(|_| kind.to_u32().map(i64::from)).unwrap_or(0));
    let added = tokens.iter().zip(kinds).filter(|(_, kind)| matches!(*kind, CONTROL | USER_DEFINED));
    added.map(|(token, kind)| AddedToken::from(token.clone(), kind == CONTROL).normalized(false)).collect()
}
