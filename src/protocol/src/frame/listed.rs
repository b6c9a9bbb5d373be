//! Segments as they are shown.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DType, SegmentRef, Segments};
use crate::Json;

/// A segment as it is shown to people, with what a reference to it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListedSegment {
    /// Its number.
    pub number: usize,
    /// Its length, in bytes.
    pub bytes: usize,
    /// The type of its numbers, where a reference says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DType>,
    /// The sizes of its dimensions, where a reference says them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<usize>>,
}

impl ListedSegment {
    /// All of them, in order, by the first reference to each in a value.
    #[must_use]
    pub fn list(value: &Json, segments: &Segments) -> Vec<Self> {
        let references = SegmentRef::all_in(value);
        let listed = segments.iter().enumerate().map(|(number, segment)| {
            let reference = references.iter().find(|reference| reference.number == number);
            let (dtype, shape) = reference.map_or((None, None), |reference| (reference.dtype, reference.shape.clone()));
            Self { number, bytes: segment.len(), dtype, shape }
        });
        listed.collect()
    }
}

impl fmt::Display for ListedSegment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, bytes, dtype, shape } = self;
        write!(formatter, "segment {number}: {bytes} bytes")?;
        if let Some(dtype) = dtype {
            write!(formatter, ", {}", dtype.name())?;
        }
        match shape {
            Some(shape) => write!(formatter, " {shape:?}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn segments_are_listed_with_what_the_first_reference_to_each_says() {
        let value = json!({"a": {"$segment": 1, "dtype": "f32", "shape": [2, 1]}, "b": {"$segment": 1}});
        let segments = Segments::of(vec![Bytes::from_static(b"abc"), Bytes::from_static(&[0; 8])]);
        let shown: Vec<String> = ListedSegment::list(&value.into(), &segments).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["segment 0: 3 bytes", "segment 1: 8 bytes, f32 [2, 1]"]);
    }
}
