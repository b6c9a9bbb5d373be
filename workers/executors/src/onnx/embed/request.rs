//! The payload of `embed`, and its result.

use bytes::Bytes;
use protocol::{DType, Framed, Json, SegmentRef, Segments};
use serde::Serialize;

use super::vectors::Vectors;
use crate::{Failure, cuda::Finite, onnx::model::OnnxModel, payload::Fields};

/// Most texts of one payload.
pub(super) const TEXTS_MAX: usize = 1_024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) texts: Vec<String>,
    is_list: bool,
    as_segment: bool,
}

#[derive(Serialize)]
struct EmbedResult<'a> {
    dimensions: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings: Option<Json>,
    model: &'a str,
    provider: &'static str,
    /// How many words the texts had, as the model counts.
    tokens: usize,
    /// The texts that were too long: of these the beginning was read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<usize>,
    version: &'a str,
}

impl Request {
    pub(super) fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let text = fields.value("text").ok_or_else(|| Failure::invalid("payload.text", "is missing"))?;
        let as_segment = match fields.text("as")?.as_deref() {
            None | Some("numbers") => false,
            Some("segment") => true,
            Some(other) => return Err(Failure::invalid("payload.as", format!("must be \"numbers\" or \"segment\", not {other:?}"))),
        };
        fields.finish()?;
        if let Ok(text) = text.to::<String>() {
            return Ok(Self { texts: vec![text], is_list: false, as_segment });
        }
        let texts = text.to::<Vec<String>>().ok().filter(|texts| (1..=TEXTS_MAX).contains(&texts.len()));
        let wrong =
            || Failure::invalid("payload.text", format!("must be a text, or a list of 1 to {TEXTS_MAX} texts, not {}", text.in_brief()));
        Ok(Self { texts: texts.ok_or_else(wrong)?, is_list: true, as_segment })
    }

    pub(super) fn written(&self, model: &OnnxModel, vectors: Vectors) -> Framed {
        let Vectors { vectors, dimensions, tokens, truncated, .. } = vectors;
        let (value, segments) = if self.as_segment {
            let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
            let shape = if self.is_list { vec![vectors.len(), dimensions] } else { vec![dimensions] };
            let reference = SegmentRef { number: 0, dtype: Some(DType::F32), shape: Some(shape) };
            (Json::of(&reference), Segments::of(vec![Bytes::from(bytes)]))
        } else {
            let rows: Vec<Vec<Finite<f32>>> = vectors.iter().map(|vector| vector.iter().map(|number| Finite(*number)).collect()).collect();
            let value = match rows.as_slice() {
                [only] if !self.is_list => Json::of(only),
                rows => Json::of(rows),
            };
            (value, Segments::none())
        };
        let (embedding, embeddings) = if self.is_list { (None, Some(value)) } else { (Some(value), None) };
        let (file, provider) = (&model.file, model.place.name());
        let result =
            EmbedResult { dimensions, embedding, embeddings, model: &file.name, provider, tokens, truncated, version: &file.version };
        Framed { json: Json::of(&result), segments }
    }
}
