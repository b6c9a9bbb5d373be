//! A body that carries raw bytes beside its JSON. `schemas/frame.md` describes it for producers in any language.
//!
//! ```text
//!  4 bytes            n bytes                                       as the list says
//! ┌──────────────────┬─────────────────────────────────────────────┬───────────┬───────────┐
//! │ n, big-endian    │ {"segments": [4000, 16], "payload": {…}}    │ segment 0 │ segment 1 │
//! └──────────────────┴─────────────────────────────────────────────┴───────────┴───────────┘
//! ```
//! The JSON refers to a segment by its number: `{"$segment": 0}` are bytes, `{"$segment": 0, "dtype": "f32", "shape": [10, 100]}` numbers, little-endian, the last dimension
//! varying fastest. A JSON text never begins with a zero byte and `n` always does, so that a body says itself which of the two it is.

mod listed;

use bytes::{BufMut, Bytes, BytesMut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::listed::ListedSegment;
use crate::{Json, Refusal, json::with_field};

/// The content type of a frame.
pub const FRAME: &str = "application/x-gpufleet-frame";
/// The content type of a body without segments.
pub const JSON: &str = "application/json";
/// The longest JSON of a frame, in bytes: its length begins with a zero byte.
pub const JSON_BYTES_MAX: usize = (1 << 24) - 1;
/// Segments of one frame at most.
pub const SEGMENTS_MAX: usize = 1024;

/// The raw bytes of a frame, by their numbers. They share the memory of the body that they came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments(Vec<Bytes>);

impl Segments {
    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// These, in order.
    #[must_use]
    pub const fn of(segments: Vec<Bytes>) -> Self {
        Self(segments)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// The segment with a number.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&Bytes> {
        self.0.get(number)
    }

    /// Each of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Bytes> {
        self.0.iter()
    }

    /// Their lengths, as a frame's list has them.
    #[must_use]
    pub fn lengths(&self) -> Vec<usize> {
        self.0.iter().map(Bytes::len).collect()
    }

    /// What they take together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }
}

impl<'a> IntoIterator for &'a Segments {
    type Item = &'a Bytes;
    type IntoIter = std::slice::Iter<'a, Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A JSON value and the raw bytes that it refers to: what an executor gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Framed {
    /// The value.
    pub json: Json,
    /// The bytes, by number.
    pub segments: Segments,
}

impl From<Json> for Framed {
    fn from(json: Json) -> Self {
        Self { json, segments: Segments::none() }
    }
}

impl From<serde_json::Value> for Framed {
    fn from(value: serde_json::Value) -> Self {
        Json::from(value).into()
    }
}

/// Whether a body is a frame, and not JSON.
#[must_use]
pub fn is_frame(body: &[u8]) -> bool {
    body.first() == Some(&0)
}

/// The content type of a body that is written here, and that of one that was read where nothing else is known: that of a frame, or of JSON.
#[must_use]
pub fn content_type(body: &[u8]) -> &'static str {
    if is_frame(body) { FRAME } else { JSON }
}

/// Whether a content type names a frame, whatever its parameters.
#[must_use]
pub fn is_named(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FRAME)
}

/// The list in a frame's JSON; whatever else is in it is somebody else's to read.
#[derive(Deserialize)]
struct Lengths {
    #[serde(default)]
    segments: Vec<usize>,
}

/// The JSON of a body and its segments, all of them parts of `body`; a body that is no frame is JSON alone.
///
/// # Errors
/// A [`Refusal`] that says what does not fit: the frame is cut off, or its list and its bytes disagree.
pub fn read(body: &Bytes) -> Result<(Bytes, Segments), Refusal> {
    if !is_frame(body) {
        return Ok((body.clone(), Segments::none()));
    }
    let wrong = |problem: String| Refusal::new("body", problem);
    let Some(length) = body.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) else {
        return Err(wrong(format!("is {} bytes; a frame begins with the length of its JSON in 4 bytes", body.len())));
    };
    let rest = body.len() - 4;
    if length > rest {
        return Err(wrong(format!("is a frame whose JSON has {length} bytes, and only {rest} bytes follow")));
    }
    let json = body.slice(4..4 + length);
    let Lengths { segments } = serde_json::from_slice(&json).map_err(|error| {
        wrong(format!("is a frame whose JSON cannot be read, or has no `segments` (a list of lengths in bytes): {error}"))
    })?;
    if segments.len() > SEGMENTS_MAX {
        return Err(Refusal::new("segments", format!("has {} entries; a frame carries at most {SEGMENTS_MAX}", segments.len())));
    }
    let total = segments.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length));
    if total != Some(rest - length) {
        let said = total.map_or_else(|| "more than can be".to_owned(), |total| total.to_string());
        return Err(Refusal::new("segments", format!("says {said} bytes, and {} bytes follow the JSON", rest - length)));
    }
    let mut from = 4 + length;
    let cut = segments.into_iter().map(|length| {
        from += length;
        body.slice(from - length..from)
    });
    Ok((json, Segments(cut.collect())))
}

/// A frame of a JSON object, which has the list of the segments' lengths, and the segments. This is the one copy of them.
///
/// # Errors
/// The JSON is longer than [`JSON_BYTES_MAX`].
pub fn write(json: &[u8], segments: &Segments) -> Result<Bytes, Refusal> {
    if json.len() > JSON_BYTES_MAX {
        return Err(Refusal::new("body", format!("has {} bytes of JSON; beside segments there may be {JSON_BYTES_MAX}", json.len())));
    }
    let mut frame = BytesMut::with_capacity(4 + json.len() + segments.bytes());
    frame.put_u32(json.len() as u32);
    frame.put_slice(json);
    segments.iter().for_each(|segment| frame.put_slice(segment));
    Ok(frame.freeze())
}

/// A frame of an object, whose text this is, and segments; the list of their lengths is added to it. `None`: there is more JSON than a frame may have.
#[must_use]
pub fn of(object: Vec<u8>, segments: &Segments) -> Option<Bytes> {
    write(&listing(object, segments), segments).ok()
}

/// The beginning of such a frame, up to its first segment.
#[must_use]
pub fn head(object: Vec<u8>, segments: &Segments) -> Option<Bytes> {
    let json = listing(object, segments);
    write(&json, &Segments::none()).ok()
}

fn listing(object: Vec<u8>, segments: &Segments) -> Vec<u8> {
    with_field(object, "segments", &Json::of(&segments.lengths()))
}

/// What a JSON value has in the place of a segment's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    /// Its number.
    #[serde(rename = "$segment")]
    pub number: usize,
    /// The type of its numbers; absent: it is bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DType>,
    /// The sizes of its dimensions; absent beside a `dtype`: one dimension, as long as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<usize>>,
}

impl SegmentRef {
    /// To numbers of a shape.
    #[must_use]
    pub const fn numbers(number: usize, dtype: DType, shape: Vec<usize>) -> Self {
        Self { number, dtype: Some(dtype), shape: Some(shape) }
    }

    /// Every reference in a value, at any depth. An object with other keys beside `$segment` is none.
    #[must_use]
    pub fn all_in(value: &Json) -> Vec<Self> {
        let mut found = Vec::new();
        if value.as_str().contains("\"$segment\"")
            && let Ok(value) = value.to::<Value>()
        {
            collect(&value, &mut found);
        }
        found
    }

    /// The reference that a value is. `None`: it is none.
    #[must_use]
    pub fn read(value: &Json) -> Option<Self> {
        value.as_str().contains("\"$segment\"").then(|| value.to().ok())?
    }

    /// The bytes that it refers to, checked against its type and shape.
    ///
    /// # Errors
    /// What does not fit, as the rest of a sentence that begins with the field.
    pub fn of<'a>(&self, segments: &'a Segments) -> Result<&'a Bytes, String> {
        let Self { number, dtype, shape } = self;
        let segment = segments.get(*number).ok_or_else(|| format!("refers to segment {number}, and there are {}", segments.len()))?;
        let Some(dtype) = dtype else {
            return if shape.is_none() { Ok(segment) } else { Err("has a shape and no dtype".to_owned()) };
        };
        let size = dtype.size();
        let Some(shape) = shape else {
            let is_whole = segment.len().is_multiple_of(size);
            return if is_whole {
                Ok(segment)
            } else {
                Err(format!("has {} bytes, which is no whole number of {}", segment.len(), dtype.name()))
            };
        };
        let wanted = shape.iter().try_fold(size, |bytes, side| bytes.checked_mul(*side));
        if wanted == Some(segment.len()) {
            return Ok(segment);
        }
        Err(format!("has the shape {shape:?} of {}, and segment {number} has {} bytes", dtype.name(), segment.len()))
    }
}

/// Values are read with a bound on their depth, so this goes no deeper.
fn collect(value: &Value, found: &mut Vec<SegmentRef>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(fields) => match fields.contains_key("$segment").then(|| serde_json::from_value(value.clone())) {
            Some(Ok(reference)) => found.push(reference),
            _ => fields.values().for_each(|value| collect(value, found)),
        },
        _ => {}
    }
}

/// The type of the numbers in a segment, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// One byte each, 0 or 1.
    Bool,
    /// 8 bits, signed.
    I8,
    /// 16 bits, signed.
    I16,
    /// 32 bits, signed.
    I32,
    /// 64 bits, signed.
    I64,
    /// 8 bits, unsigned.
    U8,
    /// 16 bits, unsigned.
    U16,
    /// 32 bits, unsigned.
    U32,
    /// 64 bits, unsigned.
    U64,
    /// Half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Bool,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::F16,
        Self::BF16,
        Self::F32,
        Self::F64,
    ];

    /// The type of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bytes of one number.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn framed(json: &serde_json::Value, segments: &[&'static [u8]]) -> Bytes {
        let segments = Segments::of(segments.iter().map(|segment| Bytes::from_static(segment)).collect());
        write(json.to_string().as_bytes(), &segments).unwrap()
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused_with_what_does_not() {
        let good = framed(&json!({"segments": [3, 0]}), &[b"abc", b""]);
        assert_eq!(read(&good).unwrap().1.lengths(), [3, 0]);
        let more = framed(&json!({"segments": [usize::MAX, 2]}), &[b"abc"]);
        let many = framed(&json!({"segments": vec![0; SEGMENTS_MAX + 1]}), &[]);
        for (body, field, says) in [
            (Bytes::from_static(b"\0\0"), "body", "is 2 bytes"),
            (good.slice(..10), "body", "only 6 bytes follow"),
            (good.slice(..good.len() - 1), "segments", "says 3 bytes, and 2 bytes follow"),
            (framed(&json!({"segments": "no"}), &[]), "body", "a list of lengths"),
            (more, "segments", "more than can be"),
            (many, "segments", "at most 1024"),
        ] {
            let refusal = read(&body).unwrap_err();
            assert_eq!(refusal.field, field, "{refusal:?}");
            assert!(refusal.problem.contains(says), "{refusal:?}");
        }
    }

    #[test]
    fn a_body_says_itself_what_its_content_type_is() {
        let frame = framed(&json!({"segments": [1]}), &[b"{"]);
        assert!(is_named(FRAME) && is_named("Application/X-gpufleet-frame; v=1") && !is_named(JSON) && !is_named(""));
        assert_eq!([content_type(&frame), content_type(b"{}"), content_type(b"")], [FRAME, JSON, JSON]);
    }

    #[test]
    fn what_is_read_out_of_a_frame_shares_its_memory() {
        let body = framed(&json!({"segments": [3, 2]}), &[b"abc", b"de"]);
        let (json, segments) = read(&body).unwrap();
        let within = body.as_ptr_range();
        for part in segments.iter().chain([&json]) {
            assert!(within.contains(&part.as_ptr()), "no part is a copy");
        }
        assert_eq!(segments.get(1).unwrap().as_ptr(), body[body.len() - 2..].as_ptr());
    }

    #[test]
    fn the_head_of_a_frame_is_what_stands_before_its_first_segment() {
        let segments = Segments::of(vec![Bytes::from_static(b"abc")]);
        let (whole, begins) = (of(b"{\"a\":1}".to_vec(), &segments).unwrap(), head(b"{\"a\":1}".to_vec(), &segments).unwrap());
        assert_eq!(whole, [&begins[..], b"abc"].concat());
        assert_eq!(read(&whole).unwrap(), (Bytes::from_static(br#"{"a":1,"segments":[3]}"#), segments));
    }

    #[test]
    fn a_reference_is_checked_against_its_segment() {
        let segments = Segments::of(vec![Bytes::from_static(&[0; 24])]);
        let reads = |value: serde_json::Value| SegmentRef::read(&value.into()).unwrap().of(&segments).map(Bytes::len);
        assert_eq!(reads(json!({"$segment": 0})), Ok(24));
        assert_eq!(reads(json!({"$segment": 0, "dtype": "f32"})), Ok(24));
        assert_eq!(reads(json!({"$segment": 0, "dtype": "f64", "shape": [3, 1]})), Ok(24));
        assert_eq!(
            reads(json!({"$segment": 0, "dtype": "f64", "shape": [3, 2]})).unwrap_err(),
            "has the shape [3, 2] of f64, and segment 0 has 24 bytes"
        );
        assert_eq!(reads(json!({"$segment": 1})).unwrap_err(), "refers to segment 1, and there are 1");
        assert_eq!(reads(json!({"$segment": 0, "shape": [24]})).unwrap_err(), "has a shape and no dtype");
        let nested = json!({"a": [{"$segment": 1}, {"b": {"$segment": 0, "dtype": "u8"}}], "c": {"$segment": 2, "more": 1}});
        let numbers: Vec<usize> = SegmentRef::all_in(&nested.into()).iter().map(|reference| reference.number).collect();
        assert_eq!(numbers, [1, 0]);
        for no_reference in [json!(null), json!({"a": 1}), json!("\"$segment\""), json!({"$segment": 0, "more": 1})] {
            assert_eq!(SegmentRef::read(&no_reference.clone().into()), None, "{no_reference}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_to_the_last_byte(segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5)) {
            let segments = Segments::of(segments.into_iter().map(Bytes::from).collect());
            let json = json!({"segments": segments.lengths()}).to_string();
            let frame = write(json.as_bytes(), &segments).unwrap();
            prop_assert!(is_frame(&frame));
            prop_assert_eq!(read(&frame).unwrap(), (Bytes::from(json), segments));
        }

        #[test]
        fn any_bytes_are_a_frame_or_are_refused(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let body = Bytes::from(body);
            if let Ok((json, segments)) = read(&body) {
                prop_assert!(!is_frame(&body) || json.len() + segments.bytes() + 4 == body.len());
            }
        }
    }
}
