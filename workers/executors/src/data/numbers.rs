//! What a tensor is filled with: a list of numbers, or raw bytes that came beside the payload.

use bytes::Bytes;
use protocol::{DType, Json, SegmentRef, Segments, TensorShape};
use serde::de::DeserializeOwned;

use crate::{Failure, payload::Fields};

/// The bytes that the fields `value`, `dtype` and `shape` say, and what they are.
pub(super) fn read(fields: &mut Fields, segments: &Segments) -> Result<(TensorShape, Bytes), Failure> {
    let dtype = dtype(fields)?;
    let shape = shape(fields)?;
    let path = fields.path("value");
    let Some(value) = fields.value("value") else { return Err(Failure::invalid(path, "is missing; give a segment, or a list of numbers")) };
    let Some(reference) = SegmentRef::read(&value) else { return listed(&path, &value, dtype, shape) };
    if dtype.is_some() || shape.is_some() {
        return Err(Failure::invalid(path, "is a segment, which has its dtype and shape in itself; leave them out beside it"));
    }
    raw(&path, reference, segments)
}

fn dtype(fields: &mut Fields) -> Result<Option<DType>, Failure> {
    let Some(value) = fields.value("dtype") else { return Ok(None) };
    let wrong = |_| Failure::invalid(fields.path("dtype"), format!("must be a type of numbers such as \"f32\", not {}", value.in_brief()));
    value.to().map(Some).map_err(wrong)
}

fn shape(fields: &mut Fields) -> Result<Option<Vec<usize>>, Failure> {
    let Some(value) = fields.value("shape") else { return Ok(None) };
    let wrong = |_| Failure::invalid(fields.path("shape"), format!("must be a list of the sizes of dimensions, not {}", value.in_brief()));
    value.to().map(Some).map_err(wrong)
}

fn raw(path: &str, reference: SegmentRef, segments: &Segments) -> Result<(TensorShape, Bytes), Failure> {
    let bytes = reference.of(segments).map_err(|problem| Failure::invalid(path, problem))?.clone();
    let dtype = reference.dtype.unwrap_or(DType::U8);
    let shape = reference.shape.unwrap_or_else(|| vec![bytes.len() / dtype.size()]);
    Ok((TensorShape { dtype, shape }, bytes))
}

fn listed(path: &str, value: &Json, dtype: Option<DType>, shape: Option<Vec<usize>>) -> Result<(TensorShape, Bytes), Failure> {
    let wrong = |problem: String| Failure::invalid(path, problem);
    if value.as_bytes().first() != Some(&b'[') {
        return Err(wrong(format!("must be a segment or a list of numbers, not {}", value.in_brief())));
    }
    let dtype = dtype.ok_or_else(|| Failure::invalid("payload.dtype", "is missing; say what type the numbers of the list are"))?;
    if matches!(dtype, DType::F16 | DType::BF16) {
        return Err(wrong(format!("cannot be a list where the dtype is {}; send a segment", dtype.name())));
    }
    let bytes = bytes_of(value, dtype).ok_or_else(|| wrong(format!("holds something that is no number of the type {}", dtype.name())))?;
    let count = bytes.len() / dtype.size();
    let shape = TensorShape { dtype, shape: shape.unwrap_or_else(|| vec![count]) };
    if shape.bytes() != Some(bytes.len() as u64) {
        return Err(wrong(format!("has {count} numbers, which are not as many as the shape {:?} has", shape.shape)));
    }
    Ok((shape, bytes.into()))
}

/// The numbers of a list, little-endian. `None`: one of them is none of the type, or the type has no lists.
fn bytes_of(list: &Json, dtype: DType) -> Option<Vec<u8>> {
    match dtype {
        DType::Bool => bytes_by(list, |flag: bool| [u8::from(flag)]),
        DType::I8 => bytes_by(list, i8::to_le_bytes),
        DType::I16 => bytes_by(list, i16::to_le_bytes),
        DType::I32 => bytes_by(list, i32::to_le_bytes),
        DType::I64 => bytes_by(list, i64::to_le_bytes),
        DType::U8 => bytes_by(list, u8::to_le_bytes),
        DType::U16 => bytes_by(list, u16::to_le_bytes),
        DType::U32 => bytes_by(list, u32::to_le_bytes),
        DType::U64 => bytes_by(list, u64::to_le_bytes),
        DType::F32 => bytes_by(list, |number: f64| (number as f32).to_le_bytes()),
        DType::F64 => bytes_by(list, f64::to_le_bytes),
        DType::F16 | DType::BF16 => None,
    }
}

fn bytes_by<T: DeserializeOwned, const N: usize>(list: &Json, bytes: impl Fn(T) -> [u8; N]) -> Option<Vec<u8>> {
    let numbers: Vec<T> = list.to().ok()?;
    Some(numbers.into_iter().flat_map(bytes).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read_of(payload: Value, segments: &Segments) -> Result<(TensorShape, Vec<u8>), (String, String)> {
        let mut fields = Fields::of_payload(&payload.into()).unwrap();
        let read = read(&mut fields, segments).map_err(|failure| (failure.field.unwrap(), failure.message));
        read.map(|(shape, bytes)| (shape, bytes.to_vec()))
    }

    #[test]
    fn numbers_are_read_from_lists_and_segments() {
        let shape = |dtype, shape: &[usize]| TensorShape { dtype, shape: shape.to_vec() };
        let segments = Segments::of(vec![Bytes::from_static(&[1, 2, 3, 4])]);
        for (payload, expected) in [
            (json!({"value": [1, -2], "dtype": "i8"}), (shape(DType::I8, &[2]), vec![1, 254])),
            (json!({"value": [true, false], "dtype": "bool", "shape": [1, 2]}), (shape(DType::Bool, &[1, 2]), vec![1, 0])),
            (json!({"value": [1.5], "dtype": "f32", "shape": []}), (shape(DType::F32, &[]), 1.5_f32.to_le_bytes().to_vec())),
            (json!({"value": [], "dtype": "u64"}), (shape(DType::U64, &[0]), vec![])),
            (json!({"value": {"$segment": 0}}), (shape(DType::U8, &[4]), vec![1, 2, 3, 4])),
            (json!({"value": {"$segment": 0, "dtype": "bf16"}}), (shape(DType::BF16, &[2]), vec![1, 2, 3, 4])),
            (json!({"value": {"$segment": 0, "dtype": "u16", "shape": [2, 1]}}), (shape(DType::U16, &[2, 1]), vec![1, 2, 3, 4])),
        ] {
            assert_eq!(read_of(payload.clone(), &segments), Ok(expected), "{payload}");
        }
    }

    #[test]
    fn what_is_wrong_with_them_is_said_of_its_field() {
        let segments = Segments::of(vec![Bytes::from_static(&[1, 2, 3])]);
        for (payload, field, says) in [
            (json!({}), "payload.value", "is missing"),
            (json!({"value": 7, "dtype": "i8"}), "payload.value", "not 7"),
            (json!({"value": [1]}), "payload.dtype", "is missing"),
            (json!({"value": [1], "dtype": "i7"}), "payload.dtype", "not \"i7\""),
            (json!({"value": [1], "dtype": "i8", "shape": 1}), "payload.shape", "must be a list of the sizes"),
            (json!({"value": [1], "dtype": "i8", "shape": [2]}), "payload.value", "has 1 numbers"),
            (json!({"value": [1], "dtype": "i8", "shape": [usize::MAX, 2]}), "payload.value", "has 1 numbers"),
            (json!({"value": [256], "dtype": "u8"}), "payload.value", "no number of the type u8"),
            (json!({"value": [1], "dtype": "f16"}), "payload.value", "send a segment"),
            (json!({"value": {"$segment": 0, "dtype": "f32"}}), "payload.value", "no whole number of f32"),
            (json!({"value": {"$segment": 1}}), "payload.value", "refers to segment 1"),
            (json!({"value": {"$segment": 0}, "dtype": "u8"}), "payload.value", "leave them out"),
        ] {
            let (at, message) = read_of(payload.clone(), &segments).unwrap_err();
            assert!(at == field && message.contains(says), "{payload}: {at} {message}");
        }
    }
}
