//! Outputs that stay on the GPU.

use std::{collections::BTreeMap, sync::Arc};

use executors::{Failure, Keeping, RunTensors};
use protocol::{ErrorCode, Framed, Json, SegmentRef, Segments, TensorRef, TensorShape};
use tensors::{Content, DataPlane};

use super::rewriting::with_replaced;
use crate::data::freeing;

/// The key of a reference to a segment.
const SEGMENT: &str = "$segment";
/// Keeps the raw bytes that a result refers to, in the order in which it does, as many as there are names. What stands in the result for each is a reference to the tensor, and its bytes leave the result.
pub(super) async fn keep_segments(plane: &Arc<DataPlane>, keeping: &Keeping, result: Framed) -> Result<Framed, Failure> {
    let names = keeping.keep_as.names.len();
    let outputs = outputs(&result);
    if outputs.len() < names {
        return Err(too_few(names, outputs.len()));
    }
    if keeping.item.is_some() && result.segments.len() > names {
        let message = format!(
            "has {names} names, and the item gave {} outputs of raw bytes: results of a batch carry none, so give a name for each",
            result.segments.len()
        );
        return Err(Failure::invalid("keep_as", message));
    }
    let keeper = RunTensors::new(Arc::clone(plane), BTreeMap::new(), Some(keeping.clone()));
    let mut kept: BTreeMap<usize, Json> = BTreeMap::new();
    for (output, segment) in outputs.into_iter().take(names).enumerate() {
        let bytes = segment.of(&result.segments).map_err(|problem| wrong_result(&problem))?;
        let shape = shape(&segment, bytes.len());
        kept.insert(segment.number, keeper.keep(output, shape, Content::Host(bytes.clone())).await?);
    }
    Ok(without(&kept, &result))
}

/// Each segment that a result refers to, as it does first, in the order of the text.
fn outputs(result: &Framed) -> Vec<SegmentRef> {
    let mut found: Vec<SegmentRef> = Vec::new();
    let _ = with_replaced(&result.json, SEGMENT, |object| {
        let segment = SegmentRef::read(object)?;
        if !found.iter().any(|known| known.number == segment.number) {
            found.push(segment);
        }
        None
    });
    found
}

/// What the numbers of a segment are, which was checked against its length.
fn shape(segment: &SegmentRef, bytes: usize) -> TensorShape {
    match (segment.dtype, &segment.shape) {
        (None, _) => TensorShape::of_bytes(bytes),
        (Some(dtype), None) => TensorShape { dtype, shape: vec![bytes / dtype.size()] },
        (Some(dtype), Some(shape)) => TensorShape { dtype, shape: shape.clone() },
    }
}

/// The result without the segments that are kept; the others get new numbers.
fn without(kept: &BTreeMap<usize, Json>, result: &Framed) -> Framed {
    let (mut numbers, mut left) = (BTreeMap::new(), Vec::new());
    for (number, segment) in result.segments.iter().enumerate() {
        if !kept.contains_key(&number) {
            numbers.insert(number, left.len());
            left.push(segment.clone());
        }
    }
    let json = with_replaced(&result.json, SEGMENT, |object| {
        let segment = SegmentRef::read(object)?;
        if let Some(tensor) = kept.get(&segment.number) {
            return Some(tensor.clone());
        }
        let number = *numbers.get(&segment.number)?;
        (number != segment.number).then(|| Json::of(&SegmentRef { number, ..segment }))
    });
    Framed { json, segments: Segments::of(left) }
}

/// Checks that an executor which keeps its outputs itself has kept one for each name.
pub(super) fn check_all_kept(keeping: &Keeping) -> Result<(), Failure> {
    let (names, kept) = (keeping.keep_as.names.len(), keeping.kept.versions().len());
    if kept < names { Err(too_few(names, kept)) } else { Ok(()) }
}

/// Frees what a payload has kept that failed all the same: nobody is to take it for the output of a task that has none.
pub(super) async fn let_go(plane: &DataPlane, keeping: &Keeping) {
    for (tensor, version) in keeping.kept.versions() {
        if plane.store().look(&tensor).is_some_and(|stored| stored.about.version == version) {
            freeing::free(plane, TensorRef { tensor, version: Some(version) }).await;
        }
    }
}

fn too_few(names: usize, outputs: usize) -> Failure {
    let message = format!(
        "has {names} names, and the kind gave {outputs} outputs that can stay on the GPU; what can is what its result has as raw bytes, or what the kind says of itself: give as many names"
    );
    Failure::invalid("keep_as", message)
}

fn wrong_result(problem: &str) -> Failure {
    let message = format!("the result {problem}, so that it cannot be kept");
    Failure { code: ErrorCode::ExecutorFailed.into(), message, ..Failure::default() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocol::DType;
    use serde_json::json;

    use super::*;

    fn result(json: &str) -> Framed {
        let segments = [&b"0"[..], b"1111", b"22"].map(Bytes::from_static).to_vec();
        Framed { json: Json::parse(json.to_owned()).unwrap(), segments: Segments::of(segments) }
    }

    #[test]
    fn outputs_come_in_the_order_of_the_text_and_each_once() {
        let given = result(r#"{"z": {"$segment": 2}, "a": [{"$segment": 1, "dtype": "f32", "shape": [1]}, {"$segment": 2}]}"#);
        let found = outputs(&given);
        assert_eq!(found.iter().map(|segment| segment.number).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(shape(&found[0], 2), TensorShape::of_bytes(2));
        assert_eq!(shape(&found[1], 4), TensorShape { dtype: DType::F32, shape: vec![1] });
    }

    #[test]
    fn what_is_kept_leaves_the_result_and_the_rest_is_numbered_anew() {
        let given = result(r#"{"z": {"$segment": 2}, "a": [{"$segment": 1, "dtype": "f32"}, {"$segment": 2}], "b": 1.00}"#);
        let kept = BTreeMap::from([(1, Json::of(&json!({"tensor": "x", "version": 7})))]);
        let left = without(&kept, &given);
        assert_eq!(left.json.as_str(), r#"{"z": {"$segment":1}, "a": [{"tensor":"x","version":7}, {"$segment":1}], "b": 1.00}"#);
        assert_eq!(left.segments.lengths(), [1, 2]);
    }
}
