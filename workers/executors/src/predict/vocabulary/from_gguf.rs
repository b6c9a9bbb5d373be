//! A tokenizer from a GGUF file's metadata: byte-level BPE as GPT-2 and its heirs have it, or SentencePiece as Llama 1 and 2 have it.

use candle_core::quantized::gguf_file;
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

use super::{super::gguf::Metadata, sentencepiece};

/// How Llama 3 cuts text into words.
const LLAMA_3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types of the format.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The tokenizer, and the token that begins a prompt if there is one.
pub(in super::super) fn build(metadata: &Metadata<'_>) -> Result<(Tokenizer, Option<u32>), String> {
    let kind = metadata.text("tokenizer.ggml.model")?;
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let (mut tokenizer, begins) = match kind {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => pieces(metadata, &tokens)?,
        _ => return Err(format!("its tokenizer is of the kind {kind:?}, only \"gpt2\" and \"llama\" can be rebuilt")),
    };
    tokenizer.add_tokens(added(metadata, &tokens)).map_err(|error| error.to_string())?;
    let begins = metadata.flag("tokenizer.ggml.add_bos_token").unwrap_or(begins);
    let begin = metadata.whole("tokenizer.ggml.bos_token_id").ok().filter(|id| begins && *id < tokens.len());
    Ok((tokenizer, begin.and_then(|id| u32::try_from(id).ok())))
}

/// And whether a prompt begins with the begin token where the file does not say.
fn byte_level(metadata: &Metadata<'_>, tokens: &[String]) -> Result<(Tokenizer, bool), String> {
    let words = metadata.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
    let mut tokenizer = Tokenizer::new(merging(metadata, tokens)?);
    tokenizer.with_pre_tokenizer(Some(word_cutter(words)?));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    Ok((tokenizer, words == "llama-bpe"))
}

fn pieces(metadata: &Metadata<'_>, tokens: &[String]) -> Result<(Tokenizer, bool), String> {
    let scores = metadata.list("tokenizer.ggml.scores")?.iter().map(gguf_file::Value::to_f32);
    let scores: Vec<f32> = scores.collect::<candle_core::Result<_>>().map_err(|_| "its tokenizer.ggml.scores are not numbers")?;
    let unknown = metadata.whole("tokenizer.ggml.unknown_token_id").unwrap_or(0);
    let unknown = tokens.get(unknown).ok_or("its unknown token is not in its vocabulary")?;
    let space_first = metadata.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    Ok((sentencepiece::tokenizer(tokens, &scores, unknown, space_first)?, true))
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::quantized::gguf_file::{Content, Value, VersionedMagic};

    use super::*;

    const PIECES: [(&str, f32); 9] = [
        ("\u{2581}", -9.0),
        ("t", -9.0),
        ("h", -9.0),
        ("e", -9.0),
        ("he", -1.0),
        ("\u{2581}t", -2.0),
        ("th", -3.0),
        ("\u{2581}the", -4.0),
        ("<end>", 0.0),
    ];

    fn vocabulary() -> Content {
        let bytes = (0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6));
        let controls = [("<unk>", 2), ("<s>", 3)].map(|(token, kind)| (token.to_owned(), 0.0, kind));
        let pieces = PIECES.map(|(piece, score)| (piece.to_owned(), score, if piece == "<end>" { 3 } else { 1 }));
        let all: Vec<(String, f32, i32)> = controls.into_iter().chain(bytes).chain(pieces).collect();
        let list = |value: fn(&(String, f32, i32)) -> Value| Value::Array(all.iter().map(value).collect());
        let metadata = [
            ("tokenizer.ggml.model", Value::String("llama".to_owned())),
            ("tokenizer.ggml.tokens", list(|token| Value::String(token.0.clone()))),
            ("tokenizer.ggml.scores", list(|token| Value::F32(token.1))),
            ("tokenizer.ggml.token_type", list(|token| Value::I32(token.2))),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ];
        let metadata: HashMap<String, Value> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        Content { magic: VersionedMagic::GgufV3, metadata, tensor_infos: HashMap::new(), tensor_data_offset: 0 }
    }

    #[test]
    fn pieces_merge_by_score_bytes_stand_in_and_text_comes_back() {
        let content = vocabulary();
        let (tokenizer, begin) = build(&Metadata(&content)).unwrap();
        assert_eq!(begin, Some(1));
        let spelled = |text: &str| tokenizer.encode(text, false).unwrap().get_tokens().to_vec();
        assert_eq!(spelled("the"), ["\u{2581}the"]);
        assert_eq!(spelled("thet"), ["\u{2581}the", "t"]);
        assert_eq!(spelled("hthe"), ["\u{2581}", "h", "t", "he"], "he has a better score than th");
        assert_eq!(spelled("é"), ["\u{2581}", "<0xC3>", "<0xA9>"]);
        assert_eq!(spelled("the<end>"), ["\u{2581}the", "<end>"]);
        for text in ["the the", "é the", " the"] {
            assert_eq!(tokenizer.decode(tokenizer.encode(text, false).unwrap().get_ids(), true).unwrap(), text);
        }
    }
}
