//! What a kernel gives back: lists of numbers, or raw bytes.

use bytes::Bytes;
use protocol::{DType, Framed, Json, SegmentRef, Segments};
use serde::{Serialize, Serializer};

use super::arguments::Number;
use crate::cuda::Finite;

/// How outputs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outputs {
    /// As lists.
    Numbers,
    /// As segments.
    Segments,
    /// As tensors, which stay on the GPU.
    Kept,
}

/// What is given back of an argument, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Back {
    /// The type of its numbers; `None`: it is bytes.
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Vec<usize>>,
}

/// Contents that are given back.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) back: Back,
    pub(super) bytes: Vec<u8>,
}

/// The result as it is written.
#[derive(Serialize)]
pub(super) struct Listed<T> {
    pub(super) outputs: Vec<T>,
}

impl Outputs {
    /// The result of a kernel that gives these back. What stays on the GPU has no bytes here.
    pub(super) fn written(self, written: Vec<Written>) -> Framed {
        match self {
            Self::Numbers => Json::of(&Listed { outputs: written }).into(),
            Self::Segments | Self::Kept => {
                let reference =
                    |(number, Written { back, .. }): (usize, &Written)| SegmentRef { number, dtype: back.dtype, shape: back.shape.clone() };
                let json = Json::of(&Listed { outputs: written.iter().enumerate().map(reference).collect() });
                Framed { json, segments: Segments::of(written.into_iter().map(|written| Bytes::from(written.bytes)).collect()) }
            }
        }
    }
}

/// As a list. Of a type that has none, which is refused before anything runs, its bytes.
impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = &self.bytes;
        match self.back.dtype.and_then(Number::of) {
            Some(Number::I32) => serializer.collect_seq(words(bytes).map(i32::from_le_bytes)),
            Some(Number::U32) => serializer.collect_seq(words(bytes).map(u32::from_le_bytes)),
            Some(Number::F32) => serializer.collect_seq(words(bytes).map(|word| Finite(f32::from_le_bytes(word)))),
            Some(Number::I64) => serializer.collect_seq(words(bytes).map(i64::from_le_bytes)),
            Some(Number::U64) => serializer.collect_seq(words(bytes).map(u64::from_le_bytes)),
            Some(Number::F64) => serializer.collect_seq(words(bytes).map(|word| Finite(f64::from_le_bytes(word)))),
            None => serializer.collect_seq(bytes),
        }
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(dtype: DType, shape: &[usize], bytes: &[u8]) -> Written {
        Written { back: Back { dtype: Some(dtype), shape: Some(shape.to_vec()) }, bytes: bytes.to_vec() }
    }

    #[test]
    fn outputs_are_lists_or_raw_bytes() {
        let outputs = || vec![written(DType::I32, &[1], &7_i32.to_le_bytes()), written(DType::F32, &[1, 1], &f32::NAN.to_le_bytes())];
        let numbers = Outputs::Numbers.written(outputs());
        assert_eq!(numbers.json, json!({"outputs": [[7], [null]]}));
        assert!(numbers.segments.is_empty());
        let raw = Outputs::Segments.written(outputs());
        let references = json!([{"$segment": 0, "dtype": "i32", "shape": [1]}, {"$segment": 1, "dtype": "f32", "shape": [1, 1]}]);
        assert_eq!(raw.json, json!({ "outputs": references }));
        assert_eq!(raw.segments.get(0).map(|segment| segment.to_vec()), Some(7_i32.to_le_bytes().to_vec()));
        assert_eq!(raw.segments.lengths(), [4, 4]);
    }

    #[test]
    fn bytes_of_no_type_are_given_back_as_they_are() {
        let back = Back { dtype: None, shape: None };
        let raw = Outputs::Segments.written(vec![Written { back, bytes: vec![1, 2, 3] }]);
        assert_eq!((raw.json, raw.segments.lengths()), (Json::from(json!({"outputs": [{"$segment": 0}]})), vec![3]));
    }
}
