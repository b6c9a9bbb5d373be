//! `tensor.get`: reads a tensor, or a part of its bytes.
//!
//! ```json
//! {"tensor": "x"}
//! {"tensor": "x", "version": 17, "from": 1048576, "bytes": 1048576}
//! ```
//! Gives all of it as a segment, `{"$segment": 0, "dtype": "f32", "shape": [2, 3]}`. With `from` or `bytes` it gives that part, up to the tensor's end: `{"data": {"$segment": 0}, "from": 1048576,
//! "bytes": 1048576, "total_bytes": 4194304, "tensor": "x", "version": 17, "dtype": "f32", "shape": [1024, 1024]}`. One that is larger than a reply may be fails with `reply_too_large`: it is read in
//! parts, all of the version that the first one told.

use std::ops::Range;

use async_trait::async_trait;
use devices::Use;
use protocol::{ErrorCode, Framed, Json, Kind, SegmentRef, Segments, TensorName, TensorRef, TensorShape};
use serde::Serialize;
use tensors::TensorAbout;

use super::{reading, unless_cancelled};
use crate::{Executor, Failure, Run, TakesTensors, occupy::occupy, payload::Fields, schemas};

/// Most bytes that are read at once, for they lie in the host's memory before it shows that no reply carries them. None is so large.
const READ_BYTES_MAX: u64 = 1 << 30;

pub(super) struct Get;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    reference: TensorRef,
    from: Option<u64>,
    bytes: Option<u64>,
}

/// A part, as it is written.
#[derive(Serialize)]
struct Part<'a> {
    data: SegmentRef,
    from: u64,
    bytes: u64,
    total_bytes: u64,
    tensor: &'a TensorName,
    version: u64,
    #[serde(flatten)]
    shape: &'a TensorShape,
}

impl Asked {
    fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let reference = reading::reference(&mut fields)?;
        let from = fields.whole("from", 0, u64::MAX)?;
        let bytes = fields.whole("bytes", 0, u64::MAX)?;
        fields.finish()?;
        Ok(Self { reference, from, bytes })
    }

    /// The bytes that are meant, of so many.
    fn range(&self, total: u64) -> Result<Range<u64>, Failure> {
        let from = self.from.unwrap_or(0);
        if from > total {
            return Err(Failure::invalid("payload.from", format!("is {from}, and the tensor has {total} bytes")));
        }
        let range = from..self.bytes.map_or(total, |bytes| from.saturating_add(bytes).min(total));
        let bytes = range.end - range.start;
        if bytes > READ_BYTES_MAX {
            let message = format!(
                "{bytes} bytes are more than any reply carries, and were not read: read the tensor in parts (from, bytes), or by GET /api/v1/tensors/{}",
                self.reference.tensor
            );
            return Err(Failure { code: ErrorCode::ReplyTooLarge.into(), message, field: Some("result".to_owned()), ..Failure::default() });
        }
        Ok(range)
    }

    /// What the result says of these bytes.
    fn written(&self, about: &TensorAbout, range: &Range<u64>) -> Json {
        let TensorAbout { name, version, shape, .. } = about;
        if self.from.is_none() && self.bytes.is_none() {
            return Json::of(&SegmentRef::numbers(0, shape.dtype, shape.shape.clone()));
        }
        let data = SegmentRef { number: 0, dtype: None, shape: None };
        let (from, bytes) = (range.start, range.end - range.start);
        Json::of(&Part { data, from, bytes, total_bytes: about.bytes(), tensor: name, version: *version, shape })
    }
}

#[async_trait]
impl Executor for Get {
    fn kind(&self) -> Kind {
        Kind::new("tensor.get").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "reads a tensor as raw bytes; one that is larger than a reply may be, in parts (from, bytes)".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::TENSOR_GET))
    }

    fn failures_blame_gpu(&self) -> bool {
        false
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::OnGpu
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let asked = Asked::read(run.payload)?;
        let plane = run.tensors.plane()?;
        let tensor = run.tensors.input(&asked.reference, "payload.tensor")?;
        let range = asked.range(tensor.about().bytes())?;
        let _work = occupy(run.device.as_ref(), Use::default())?;
        let bytes = unless_cancelled(&run.cancel, plane.read(tensor, range.clone())).await?;
        Ok(Framed { json: asked.written(tensor.about(), &range), segments: Segments::of(vec![bytes]) })
    }
}

#[cfg(test)]
mod tests {
    use protocol::DType;
    use serde_json::{Value, json};

    use super::*;

    fn asked(payload: Value) -> Asked {
        Asked::read(&payload.into()).unwrap()
    }

    #[test]
    fn a_part_ends_where_the_tensor_does() {
        for (payload, range) in [
            (json!({"tensor": "x"}), 0..24),
            (json!({"tensor": "x", "from": 8}), 8..24),
            (json!({"tensor": "x", "bytes": 8}), 0..8),
            (json!({"tensor": "x", "from": 20, "bytes": u64::MAX}), 20..24),
            (json!({"tensor": "x", "from": 24, "bytes": 1}), 24..24),
        ] {
            assert_eq!(asked(payload.clone()).range(24), Ok(range), "{payload}");
        }
        let refused = asked(json!({"tensor": "x", "from": 25})).range(24).unwrap_err();
        assert_eq!((refused.field.as_deref(), refused.message.as_str()), (Some("payload.from"), "is 25, and the tensor has 24 bytes"));
    }

    #[test]
    fn what_no_reply_carries_is_not_read() {
        let of_large = |payload| asked(payload).range(100 << 30);
        let refused = of_large(json!({"tensor": "x", "from": 8})).unwrap_err();
        assert_eq!((refused.code.as_str(), refused.field.as_deref(), refused.retry), ("reply_too_large", Some("result"), false));
        assert!(refused.message.contains("/api/v1/tensors/x"), "{}", refused.message);
        assert_eq!(of_large(json!({"tensor": "x", "from": 8, "bytes": READ_BYTES_MAX})), Ok(8..READ_BYTES_MAX + 8));
    }

    #[test]
    fn a_part_says_where_it_belongs() {
        let shape = TensorShape { dtype: DType::F32, shape: vec![2, 3] };
        let name = TensorName::new("x").unwrap();
        let about = TensorAbout { name, version: 17, shape, owner: "task".to_owned(), made_ms: 0, ttl_ms: 1 };
        let whole = asked(json!({"tensor": "x"})).written(&about, &(0..24));
        assert_eq!(whole, json!({"$segment": 0, "dtype": "f32", "shape": [2, 3]}));
        let part = asked(json!({"tensor": "x", "from": 20, "bytes": 100})).written(&about, &(20..24));
        let expected = json!({
            "data": {"$segment": 0}, "from": 20, "bytes": 4, "total_bytes": 24,
            "tensor": "x", "version": 17, "dtype": "f32", "shape": [2, 3],
        });
        assert_eq!(part, expected);
        assert_eq!(SegmentRef::all_in(&part).len(), 1, "readers find the segment");
    }
}
