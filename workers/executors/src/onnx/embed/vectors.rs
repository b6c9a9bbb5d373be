//! Runs of the model: which texts go together, and what comes out.

use std::sync::Arc;

use devices::Device;
use protocol::DType;
use tokio_util::sync::CancellationToken;

use super::{
    pooling::{normalised, pooled},
    words::{Text, Words},
};
use crate::{
    Failure,
    models::InUse,
    onnx::{
        model::OnnxModel,
        session::Tensors,
        tensor::{Element, Tensor},
    },
};

/// Most texts of one run, and most places (words, and what shorter texts are filled up with) together.
const TEXTS_MAX: usize = 64;
const PLACES_MAX: usize = 8_192;
/// How far the vectors of a text alone and beside others may be apart.
const APART_MAX: f32 = 1e-5;

/// What came out, in the order of the texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Vectors {
    pub(super) vectors: Vec<Vec<f32>>,
    pub(super) dimensions: usize,
    pub(super) tokens: usize,
    pub(super) truncated: Vec<usize>,
    lengths: Vec<usize>,
}

impl Vectors {
    /// Those of the first texts; the others are left.
    pub(super) fn take_first(&mut self, count: usize) -> Self {
        let (vectors, lengths): (Vec<_>, Vec<_>) = (self.vectors.drain(..count).collect(), self.lengths.drain(..count).collect());
        let (truncated, later): (Vec<_>, Vec<_>) = self.truncated.drain(..).partition(|at| *at < count);
        self.truncated = later.into_iter().map(|at| at - count).collect();
        Self { vectors, dimensions: self.dimensions, tokens: lengths.iter().sum(), truncated, lengths }
    }
}

/// Where and until when runs go on.
pub(super) type Where<'a> = (&'a Arc<dyn Device>, &'a CancellationToken);

/// The vectors of texts.
///
/// # Errors
/// Those of the runs; a model that takes or gives something else than texts.
pub(super) async fn vectors(model: &Arc<InUse<OnnxModel>>, words: &Words, texts: Vec<Text>, place: Where<'_>) -> Result<Vectors, Failure> {
    let may_be_filled = *words.may_be_filled.get_or_try_init(|| try_filling(model, place)).await?;
    let mut order: Vec<usize> = (0..texts.len()).collect();
    // Neighbours of about the same length need little filling.
    order.sort_by_key(|at| texts[*at].len());
    let mut vectors = vec![Vec::new(); texts.len()];
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let count = if model.axis.is_some() { run_size(rest.iter().map(|at| texts[*at].len()), may_be_filled) } else { 1 };
        let (now, later) = rest.split_at(count);
        let run: Vec<&Text> = now.iter().map(|at| &texts[*at]).collect();
        for (at, vector) in now.iter().zip(one_run(model, &run, place).await?) {
            vectors[*at] = vector;
        }
        rest = later;
    }
    let lengths: Vec<usize> = texts.iter().map(Text::len).collect();
    let truncated = (0..texts.len()).filter(|at| texts[*at].is_truncated).collect();
    let dimensions = vectors.first().map_or(0, Vec::len);
    Ok(Vectors { vectors, dimensions, tokens: lengths.iter().sum(), truncated, lengths })
}

/// How many of these texts, the shortest first, go together: at least one.
fn run_size(lengths: impl Iterator<Item = usize>, may_be_filled: bool) -> usize {
    let mut first = None;
    let fits = |(at, length): &(usize, usize)| {
        let first = *first.get_or_insert(*length);
        *at < TEXTS_MAX && (at + 1) * length <= PLACES_MAX && (may_be_filled || *length == first)
    };
    lengths.enumerate().take_while(fits).count().max(1)
}

/// Whether a model leaves out what short texts are filled up with, as its mask tells it. Most do; one that does not gets texts of one length only.
async fn try_filling(model: &Arc<InUse<OnnxModel>>, place: Where<'_>) -> Result<bool, Failure> {
    if model.axis.is_none() {
        return Ok(false);
    }
    let text = |words: &[u32]| Text { words: words.to_vec(), is_truncated: false };
    let (short, long) = (text(&[1, 2, 3]), text(&[3, 2, 1, 3, 2, 1, 3, 2, 1]));
    let alone = one_run(model, &[&short], place).await?;
    let beside = one_run(model, &[&short, &long], place).await?;
    let apart = alone[0].iter().zip(&beside[0]).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
    if apart > APART_MAX {
        tracing::info!(
            model = model.file.name,
            apart,
            "texts of different lengths do not run together: this model does not leave out what short ones are filled up with"
        );
    }
    Ok(apart <= APART_MAX)
}

/// One run, with the texts filled up to the longest.
async fn one_run(model: &Arc<InUse<OnnxModel>>, texts: &[&Text], (device, cancel): Where<'_>) -> Result<Vec<Vec<f32>>, Failure> {
    let inputs = inputs(model, texts)?;
    let outputs = model.run(inputs, device.as_ref(), cancel, Arc::clone(model)).await?;
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
    let wrong = |what: &str| Failure { retry: false, ..Failure::transient(format!("model {} {what}", model.file.name)) };
    let first = model.outputs.first().and_then(|port| outputs.get(&port.name));
    let tensor = outputs.get("sentence_embedding").or(first).ok_or_else(|| wrong("gives nothing"))?;
    let numbers = tensor.singles().ok_or_else(|| wrong("gives no f32, so it is no model for `embed`"))?;
    match *tensor.shape.as_slice() {
        [rows, places, dimensions] if rows == texts.len() && places == longest && dimensions > 0 => {
            let each = numbers.chunks_exact(places * dimensions).zip(texts);
            Ok(each.map(|(words, text)| pooled(words, dimensions, text.len())).collect())
        }
        [rows, dimensions] if rows == texts.len() && dimensions > 0 => {
            Ok(numbers.chunks_exact(dimensions).map(|vector| normalised(vector.to_vec())).collect())
        }
        _ => Err(wrong(&format!("gives the shape {:?}, so it is no model for `embed`", tensor.shape))),
    }
}

/// What the model takes, by the names that such models have.
fn inputs(model: &OnnxModel, texts: &[&Text]) -> Result<Tensors, Failure> {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
    let shape = vec![texts.len(), longest];
    let filled = |number: &dyn Fn(&Text, usize) -> i64| -> Vec<i64> {
        texts.iter().flat_map(|text| (0..longest).map(|at| number(text, at)).collect::<Vec<_>>()).collect()
    };
    let input = |(name, element): (&str, Element)| {
        let numbers = match name {
            "input_ids" => filled(&|text, at| text.words.get(at).map_or(0, |word| i64::from(*word))),
            "attention_mask" => filled(&|text, at| i64::from(at < text.len())),
            "token_type_ids" => filled(&|_, _| 0),
            _ => return Err(format!("takes {name:?}, which texts do not give")),
        };
        match element {
            Element::Number(DType::I64) => {
                Ok(Tensor::numbers(DType::I64, shape.clone(), numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>()))
            }
            Element::Number(DType::I32) => {
                let narrow = numbers.iter().flat_map(|number| (*number as i32).to_le_bytes()).collect::<Vec<_>>();
                Ok(Tensor::numbers(DType::I32, shape.clone(), narrow))
            }
            other => Err(format!("takes {name:?} as {other}")),
        }
    };
    let each = model.inputs.iter().map(|port| Ok((port.name.clone(), input((&port.name, port.element))?)));
    each.collect::<Result<_, String>>()
        .map_err(|why| Failure { retry: false, ..Failure::transient(format!("model {} is none for `embed`: it {why}", model.file.name)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_neighbours_of_like_length_within_its_bounds() {
        let size = |lengths: &[usize], may_be_filled| run_size(lengths.iter().copied(), may_be_filled);
        assert_eq!(size(&[3, 4, 9], true), 3);
        assert_eq!(size(&[3, 3, 4], false), 2);
        assert_eq!(size(&[5; 100], true), TEXTS_MAX);
        assert_eq!(size(&[4_000, 4_096, 4_096], true), 2);
        assert_eq!(size(&[PLACES_MAX + 1, PLACES_MAX + 1], true), 1, "alone whatever its length");
    }

    #[test]
    fn what_ran_together_is_given_back_by_payload() {
        let vectors = vec![vec![1.0], vec![2.0], vec![3.0]];
        let mut all = Vectors { vectors, dimensions: 1, tokens: 9, truncated: vec![0, 2], lengths: vec![2, 3, 4] };
        let first = all.take_first(1);
        assert_eq!((first.vectors, first.tokens, first.truncated), (vec![vec![1.0]], 2, vec![0]));
        let second = all.take_first(2);
        assert_eq!((second.vectors.len(), second.tokens, second.truncated), (2, 7, vec![1]));
    }
}
