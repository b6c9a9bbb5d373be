//! What a run gave, as a result.

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::{Framed, Json, SegmentRef, Segments};
use serde::Serialize;

use super::{
    model::OnnxModel,
    nested,
    request::WrittenAs,
    session::Tensors,
    tensor::{Data, Tensor},
};
use crate::Failure;

#[derive(Serialize)]
struct OnnxResult<'a> {
    model: &'a str,
    outputs: BTreeMap<&'a str, Json>,
    provider: &'static str,
    version: &'a str,
}

/// The outputs that are wanted, as the result of the kind `onnx`.
///
/// # Errors
/// There are more numbers than JSON should carry.
pub(super) fn written(model: &OnnxModel, mut tensors: Tensors, wanted: &[&str], written_as: WrittenAs) -> Result<Framed, Failure> {
    let mut segments = Vec::new();
    let mut outputs = BTreeMap::new();
    for name in wanted {
        let Some(tensor) = tensors.remove(*name) else { continue };
        outputs.insert(*name, value(tensor, written_as, &mut segments)?);
    }
    let result = OnnxResult { model: &model.file.name, outputs, provider: model.place.name(), version: &model.file.version };
    Ok(Framed { json: Json::of(&result), segments: Segments::of(segments) })
}

/// One tensor: as a segment, or as nested lists. Texts are always lists.
pub(super) fn value(tensor: Tensor, written_as: WrittenAs, segments: &mut Vec<Bytes>) -> Result<Json, Failure> {
    match (tensor.data, written_as) {
        (Data::Numbers(dtype, bytes), WrittenAs::Segments) => {
            let reference = SegmentRef { number: segments.len(), dtype: Some(dtype), shape: Some(tensor.shape) };
            segments.push(bytes);
            Ok(Json::of(&reference))
        }
        (data, _) => {
            let count: usize = tensor.shape.iter().product();
            if count > nested::WRITTEN_MAX {
                let message = format!("{count} numbers are too many for JSON, at most {}; ask for \"segments\"", nested::WRITTEN_MAX);
                return Err(Failure::invalid("payload.as", message));
            }
            Ok(nested::written(&Tensor { shape: tensor.shape, data }))
        }
    }
}
