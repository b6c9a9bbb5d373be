//! A kernel's arguments, from the payload to the GPU and back.

use std::sync::Arc;

use bytes::Bytes;
use devices::{
    DeviceBuffer,
    nvidia::cuda::{Argument, Buffer, CudaError, Grid, Lane, Scalar},
};
use protocol::{DType, Json, SegmentRef};
use serde::de::DeserializeOwned;
use tensors::Tensor;

use super::outputs::{Back, Outputs, Written};
use crate::{Failure, payload::Fields, tensor_inputs::Inputs};

/// The most arguments that are read.
const ARGUMENTS_MAX: usize = 64;
/// The most bytes that all `out` and `inout` together may give back: no reply carries more.
const OUT_BYTES_MAX: u64 = 32 << 20;
/// The most bytes of one `out` that stays on the GPU: more than any has.
const KEPT_BYTES_MAX: u64 = 1 << 43;

/// What a payload asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) module: String,
    pub(super) kernel: String,
    pub(super) grid: Grid,
    pub(super) arguments: Vec<Given>,
    pub(super) outputs: Outputs,
}

/// The type of a number in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

const NUMBERS: [(&str, Number); 6] =
    [("i32", Number::I32), ("u32", Number::U32), ("i64", Number::I64), ("u64", Number::U64), ("f32", Number::F32), ("f64", Number::F64)];

/// One argument.
#[derive(Debug)]
pub(super) enum Given {
    /// A number.
    Scalar(Scalar),
    /// What the kernel reads, by its bytes; of a segment they are where they came; and what they are, if they are given back.
    Filled(Bytes, Option<Back>),
    /// A tensor that the kernel reads where it lies; or of which it gets a copy, which is given back.
    Tensor(Arc<Tensor>, Option<Back>),
    /// Zeros that the kernel writes: how many bytes, and what they become.
    Zeros(usize, Back),
}

impl Asked {
    pub(super) fn read(payload: &Json, inputs: &Inputs<'_>) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let module = fields.text("module")?.ok_or_else(|| Failure::invalid("payload.module", "is missing"))?;
        let kernel = fields.text("kernel")?.unwrap_or_else(|| module.clone());
        let blocks = sizes(&mut fields, "blocks", 2_147_483_647)?;
        let threads = sizes(&mut fields, "threads", 1_024)?;
        let shared_bytes = fields.whole("shared_bytes", 0, 1 << 20)?.unwrap_or(0) as u32;
        let arguments = match fields.value("arguments").map(|given| given.elements()) {
            None => Vec::new(),
            Some(Ok(given)) if given.len() <= ARGUMENTS_MAX => {
                given.iter().enumerate().map(|(at, value)| Given::read(at, value, inputs)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(Failure::invalid("payload.arguments", format!("must be a list of at most {ARGUMENTS_MAX} arguments"))),
        };
        let any_raw = !inputs.segments.is_empty() || arguments.iter().any(|given| matches!(given, Given::Tensor(..)));
        let asked = outputs(&mut fields, any_raw)?;
        let outputs = if inputs.keeps() { Outputs::Kept } else { asked };
        fields.finish()?;
        inputs.keeps_as_many_as(arguments.iter().filter(|given| given.is_given_back()).count())?;
        if outputs == Outputs::Numbers
            && let Some(at) = arguments.iter().position(Given::has_no_list)
        {
            let message = "is of a type that has no list of numbers; ask for \"outputs\": \"segments\"";
            return Err(Failure::invalid(format!("payload.arguments[{at}]"), message));
        }
        if outputs != Outputs::Kept && arguments.iter().map(Given::bytes_back).fold(0, u64::saturating_add) > OUT_BYTES_MAX {
            return Err(Failure::invalid("payload.arguments", format!("ask for more than {OUT_BYTES_MAX} bytes back")));
        }
        Ok(Self { module, kernel, grid: Grid { blocks, threads, shared_bytes }, arguments, outputs })
    }
}

/// How what is given back is to be written: where nothing is said, as raw bytes if there are any among the arguments.
fn outputs(fields: &mut Fields, any_raw: bool) -> Result<Outputs, Failure> {
    match fields.text("outputs")?.as_deref() {
        None if !any_raw => Ok(Outputs::Numbers),
        None | Some("segments") => Ok(Outputs::Segments),
        Some("numbers") => Ok(Outputs::Numbers),
        Some(other) => Err(Failure::invalid(fields.path("outputs"), format!("must be \"segments\" or \"numbers\", not {other:?}"))),
    }
}

/// One to three sizes; the missing ones are 1.
fn sizes(fields: &mut Fields, name: &'static str, max: u64) -> Result<(u32, u32, u32), Failure> {
    let wrong = || Failure::invalid(format!("payload.{name}"), format!("must be a whole number from 1 to {max}, or a list of up to three"));
    let size = |size: &u64| if (1..=max).contains(size) { Ok(*size as u32) } else { Err(wrong()) };
    let value = fields.value(name).ok_or_else(wrong)?;
    match value.to::<Vec<u64>>() {
        Ok(list) if (1..=3).contains(&list.len()) => {
            let at = |index: usize| list.get(index).map_or(Ok(1), size);
            Ok((at(0)?, at(1)?, at(2)?))
        }
        _ => Ok((size(&value.to().map_err(|_| wrong())?)?, 1, 1)),
    }
}

impl Given {
    fn read(at: usize, value: &Json, inputs: &Inputs<'_>) -> Result<Self, Failure> {
        let path = format!("payload.arguments[{at}]");
        let wrong = |what: &str| Failure::invalid(&path, what);
        let Some((name, value)) = single(value) else {
            return Err(wrong("must be an object with one field: a number type, in, inout or out"));
        };
        if let Some(number) = Number::named(&name) {
            return number.scalar(&value).map(Self::Scalar).ok_or_else(|| wrong("is no number of its type"));
        }
        if matches!(name.as_str(), "in" | "inout")
            && let Some(raw) = Self::raw(&path, &name, &value, inputs)?
        {
            return Ok(raw);
        }
        let typed = single(&value).and_then(|(name, value)| Some((Number::named(&name)?, value)));
        let Some((number, value)) = typed else { return Err(wrong("must hold one list by its type, such as {\"f32\": [1, 2]}")) };
        match (name.as_str(), value.as_bytes().first()) {
            ("in" | "inout", Some(b'[')) => {
                let bytes = number.bytes_of(&value).ok_or_else(|| wrong("holds something that is no number of its type"))?;
                let back = number.times(bytes.len() / number.size());
                Ok(Self::Filled(bytes.into(), (name == "inout").then_some(back)))
            }
            ("out", Some(b'-' | b'0'..=b'9')) => {
                let most = if inputs.keeps() { KEPT_BYTES_MAX } else { OUT_BYTES_MAX };
                let count = value.to().ok().filter(|count: &u64| count.saturating_mul(number.size() as u64) <= most);
                let count = count.ok_or_else(|| wrong(&format!("asks for more than {most} bytes back, or for no whole number")))?;
                let count = count as usize;
                Ok(Self::Zeros(count * number.size(), number.times(count)))
            }
            _ => Err(wrong("must be a number type, in or inout with a list, a segment or a tensor, or out with a length")),
        }
    }

    /// What an `in` or `inout` refers to, if it does.
    fn raw(path: &str, name: &str, value: &Json, inputs: &Inputs<'_>) -> Result<Option<Self>, Failure> {
        let back = |dtype, shape| (name == "inout").then_some(Back { dtype, shape });
        if let Some(reference) = SegmentRef::read(value) {
            let bytes = reference.of(inputs.segments).map_err(|problem| Failure::invalid(path, problem))?.clone();
            return Ok(Some(Self::Filled(bytes, back(reference.dtype, reference.shape))));
        }
        let tensor = inputs.tensor(value, path)?;
        Ok(tensor.map(|tensor| {
            let shape = tensor.about().shape.clone();
            Self::Tensor(tensor, back(Some(shape.dtype), Some(shape.shape)))
        }))
    }

    /// How many bytes the kernel sees.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Scalar(_) => 0,
            Self::Filled(bytes, _) => bytes.len() as u64,
            Self::Tensor(tensor, _) => tensor.buffer().len(),
            Self::Zeros(bytes, _) => *bytes as u64,
        }
    }

    /// What it takes of the GPU's memory for as long as the kernel runs. What stays there is counted by itself.
    pub(super) fn bytes_taken(&self, keeps: bool) -> u64 {
        let stays = matches!(self, Self::Tensor(_, None)) || (keeps && self.is_given_back());
        if stays { 0 } else { self.bytes() }
    }

    /// What it is given back as, if it is.
    const fn back(&self) -> Option<&Back> {
        match self {
            Self::Scalar(_) | Self::Filled(_, None) | Self::Tensor(_, None) => None,
            Self::Filled(_, Some(back)) | Self::Tensor(_, Some(back)) | Self::Zeros(_, back) => Some(back),
        }
    }

    /// Whether it is given back.
    pub(super) const fn is_given_back(&self) -> bool {
        self.back().is_some()
    }

    /// Whether it is given back and cannot be as a list of numbers.
    fn has_no_list(&self) -> bool {
        self.back().is_some_and(|back| back.dtype.and_then(Number::of).is_none())
    }

    /// What of it is given back.
    fn bytes_back(&self) -> u64 {
        if self.is_given_back() { self.bytes() } else { 0 }
    }

    /// Its memory on the GPU, if it is a pointer; in `kept`, if it is to stay. A pointer to an empty list still points somewhere.
    pub(super) fn on<'lane>(&self, lane: &'lane Lane, kept: Option<&DeviceBuffer>) -> Result<Option<Buffer<'lane, u8>>, CudaError> {
        let bytes = self.bytes() as usize;
        match (self, kept) {
            (Self::Scalar(_), _) => Ok(None),
            _ if bytes == 0 => lane.zeros(8).map(Some),
            (_, Some(kept)) => {
                let mut buffer = lane.resident(kept, 0..bytes)?;
                self.fill(lane, &mut buffer)?;
                Ok(Some(buffer))
            }
            (Self::Filled(bytes, _), None) => lane.upload(bytes).map(Some),
            (Self::Tensor(tensor, None), None) => lane.resident(tensor.buffer(), 0..bytes).map(Some),
            (Self::Tensor(tensor, Some(_)), None) => {
                let mut copy = lane.zeros(bytes)?;
                lane.copy(&lane.resident(tensor.buffer(), 0..bytes)?, &mut copy)?;
                Ok(Some(copy))
            }
            (Self::Zeros(..), None) => lane.zeros(bytes.max(8)).map(Some),
        }
    }

    /// Puts what the kernel finds there into memory that stays.
    fn fill(&self, lane: &Lane, buffer: &mut Buffer<'_, u8>) -> Result<(), CudaError> {
        match self {
            Self::Scalar(_) => Ok(()),
            Self::Filled(bytes, _) => lane.fill(buffer, bytes),
            Self::Tensor(tensor, _) => lane.copy(&lane.resident(tensor.buffer(), 0..buffer.len())?, buffer),
            Self::Zeros(..) => lane.clear(buffer),
        }
    }

    /// As the kernel takes it.
    pub(super) const fn passed<'a, 'lane>(&self, buffer: Option<&'a Buffer<'lane, u8>>) -> Argument<'a, 'lane> {
        match (self, buffer) {
            (Self::Scalar(scalar), _) => Argument::Scalar(*scalar),
            (_, Some(buffer)) => Argument::Buffer(buffer),
            (_, None) => Argument::Scalar(Scalar::U64(0)),
        }
    }

    /// What the kernel left in it, if it is to be given back. What stays is not read.
    pub(super) fn read_back(&self, lane: &Lane, buffer: &Buffer<'_, u8>, keeps: bool) -> Option<Result<Written, CudaError>> {
        let (back, bytes) = (self.back()?.clone(), self.bytes() as usize);
        if keeps {
            return Some(Ok(Written { back, bytes: Vec::new() }));
        }
        Some(lane.download(buffer).map(|mut read| {
            read.truncate(bytes);
            Written { back, bytes: read }
        }))
    }
}

/// The only field of an object.
fn single(value: &Json) -> Option<(String, Json)> {
    value.fields().ok().filter(|fields| fields.len() == 1)?.pop_first()
}

impl Number {
    fn named(name: &str) -> Option<Self> {
        NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    }

    /// The type of this name, if a list may have it.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        Self::named(dtype.name())
    }

    /// So many of them.
    fn times(self, count: usize) -> Back {
        let dtype = match self {
            Self::I32 => DType::I32,
            Self::U32 => DType::U32,
            Self::I64 => DType::I64,
            Self::U64 => DType::U64,
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
        };
        Back { dtype: Some(dtype), shape: Some(vec![count]) }
    }

    const fn size(self) -> usize {
        match self {
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    fn scalar(self, value: &Json) -> Option<Scalar> {
        match self {
            Self::I32 => value.to().ok().map(Scalar::I32),
            Self::U32 => value.to().ok().map(Scalar::U32),
            Self::I64 => value.to().ok().map(Scalar::I64),
            Self::U64 => value.to().ok().map(Scalar::U64),
            Self::F32 => value.to().ok().map(|number: f64| Scalar::F32(number as f32)),
            Self::F64 => value.to().ok().map(Scalar::F64),
        }
    }

    fn bytes_of(self, list: &Json) -> Option<Vec<u8>> {
        match self {
            Self::I32 => bytes_by(list, i32::to_le_bytes),
            Self::U32 => bytes_by(list, u32::to_le_bytes),
            Self::I64 => bytes_by(list, i64::to_le_bytes),
            Self::U64 => bytes_by(list, u64::to_le_bytes),
            Self::F32 => bytes_by(list, |number: f64| (number as f32).to_le_bytes()),
            Self::F64 => bytes_by(list, f64::to_le_bytes),
        }
    }
}

/// The numbers of a list, each by its bytes.
fn bytes_by<T: DeserializeOwned, const N: usize>(list: &Json, bytes: impl Fn(T) -> [u8; N]) -> Option<Vec<u8>> {
    let numbers: Vec<T> = list.to().ok()?;
    Some(numbers.into_iter().flat_map(bytes).collect())
}

#[cfg(test)]
mod tests {
    use protocol::Segments;
    use serde_json::{Value, json};

    use super::*;

    fn read(payload: Value, segments: &Segments) -> Result<Asked, Failure> {
        Asked::read(&payload.into(), &Inputs::of_segments(segments))
    }

    fn refused(payload: &Value) -> String {
        read(payload.clone(), &Segments::none()).unwrap_err().field.unwrap()
    }

    #[test]
    fn a_payload_becomes_a_grid_and_arguments() {
        let arguments = json!([{"u32": 3}, {"f32": 0.5}, {"in": {"f64": [1, 2]}}, {"inout": {"i32": [-1]}}, {"out": {"u64": 2}}]);
        let asked = read(json!({"module": "m", "blocks": [2, 3], "threads": 64, "arguments": arguments}), &Segments::none()).unwrap();
        assert_eq!(asked.outputs, Outputs::Numbers);
        assert_eq!((asked.kernel.as_str(), asked.grid.blocks, asked.grid.threads), ("m", (2, 3, 1), (64, 1, 1)));
        let bytes: Vec<u64> = asked.arguments.iter().map(Given::bytes).collect();
        assert_eq!(bytes, [0, 0, 16, 4, 16]);
    }

    #[test]
    fn a_refusal_names_the_argument() {
        let with = |argument: Value| json!({"module": "m", "blocks": 1, "threads": 1, "arguments": [{"i32": 1}, argument]});
        for wrong in [
            json!(3),
            json!({}),
            json!({"f16": 1}),
            json!({"u32": -1}),
            json!({"i32": 1.5}),
            json!({"in": [1]}),
            json!({"out": {"f32": [1]}}),
            json!({"in": {"tensor": "not-here"}}),
        ] {
            assert_eq!(refused(&with(wrong.clone())), "payload.arguments[1]", "{wrong}");
        }
        assert_eq!(refused(&with(json!({"out": {"f64": 1_000_000_000}}))), "payload.arguments[1]");
        let many = vec![json!({"out": {"f64": 1_000_000}}); 5];
        assert_eq!(refused(&json!({"module": "m", "blocks": 1, "threads": 1, "arguments": many})), "payload.arguments");
        assert_eq!(refused(&json!({"module": "m", "blocks": 0, "threads": 1})), "payload.blocks");
        assert_eq!(refused(&json!({"module": "m", "blocks": 1, "threads": 2_000})), "payload.threads");
        assert_eq!(refused(&json!({"blocks": 1, "threads": 1})), "payload.module");
    }

    #[test]
    fn numbers_come_back_as_they_went() {
        for (number, list) in [
            (Number::I32, json!([-5, 7])),
            (Number::U64, json!([u64::MAX])),
            (Number::F32, json!([0.1, -3.5])),
            (Number::F64, json!([1e300, 0.1])),
        ] {
            let bytes = number.bytes_of(&list.clone().into()).unwrap();
            let back = number.times(bytes.len() / number.size());
            assert_eq!(Json::of(&Written { back, bytes }), list);
        }
        let not_a_number = Written { back: Number::F32.times(1), bytes: f32::NAN.to_le_bytes().to_vec() };
        assert_eq!(Json::of(&not_a_number), json!([null]));
    }

    fn of_segments(arguments: &Value, outputs: &Value) -> Result<Asked, Failure> {
        let payload = json!({"module": "m", "blocks": 1, "threads": 1, "arguments": arguments, "outputs": outputs});
        read(payload, &Segments::of(vec![Bytes::from_static(&[0; 24]), Bytes::from_static(b"abc")]))
    }

    #[test]
    fn raw_bytes_are_arguments_where_they_came_and_outputs_are_raw_bytes_then() {
        let arguments = json!([{"in": {"$segment": 0, "dtype": "f32", "shape": [2, 3]}}, {"inout": {"$segment": 1}}, {"out": {"f64": 2}}]);
        let asked = of_segments(&arguments, &Value::Null).unwrap();
        assert_eq!((asked.outputs, asked.arguments.iter().map(Given::bytes).collect::<Vec<_>>()), (Outputs::Segments, vec![24, 3, 16]));
        let segments = Segments::of(vec![Bytes::from(vec![1; 24])]);
        let alone = json!({"module": "m", "blocks": 1, "threads": 1, "arguments": [{"in": {"$segment": 0}}]});
        match &read(alone, &segments).unwrap().arguments[..] {
            [Given::Filled(bytes, None)] => assert_eq!(bytes.as_ptr(), segments.get(0).unwrap().as_ptr(), "no copy"),
            other => panic!("{other:?}"),
        }
        let typed = json!([{"inout": {"$segment": 0, "dtype": "f64"}}]);
        assert_eq!(of_segments(&typed, &json!("numbers")).unwrap().outputs, Outputs::Numbers);
    }

    #[test]
    fn a_segment_that_does_not_fit_is_refused_with_its_argument() {
        let number = json!({"i32": 1});
        for (argument, outputs, says) in [
            (json!({"in": {"$segment": 2}}), Value::Null, "refers to segment 2, and there are 2"),
            (json!({"in": {"$segment": 0, "dtype": "f32", "shape": [7]}}), Value::Null, "has the shape [7] of f32"),
            (json!({"in": {"$segment": 1, "dtype": "i32"}}), Value::Null, "no whole number of i32"),
            (json!({"in": {"$segment": 0, "dtype": "f33"}}), Value::Null, "must hold one list by its type"),
            (json!({"inout": {"$segment": 1}}), json!("numbers"), "\"outputs\": \"segments\""),
            (json!({"inout": {"$segment": 0, "dtype": "bf16"}}), json!("numbers"), "has no list of numbers"),
        ] {
            let refused = of_segments(&json!([number, argument]), &outputs).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("payload.arguments[1]"), "{argument}");
            assert!(refused.message.contains(says), "{}", refused.message);
        }
        let refused = of_segments(&json!([]), &json!("both")).unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("payload.outputs"));
    }
}
