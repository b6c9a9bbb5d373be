//! A kernel's arguments, from the payload to the GPU and back.

use devices::nvidia::cuda::{Argument, Buffer, CudaError, Grid, Lane, Scalar};
use protocol::Json;
use serde::{Serialize, Serializer, de::DeserializeOwned};

use crate::{Failure, cuda::Finite, payload::Fields};

/// The most arguments that are read.
const ARGUMENTS_MAX: usize = 64;
/// The most bytes that all `out` and `inout` together may give back: they come back as JSON.
const OUT_BYTES_MAX: u64 = 32 << 20;

/// What a payload asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) module: String,
    pub(super) kernel: String,
    pub(super) grid: Grid,
    pub(super) arguments: Vec<Given>,
}

/// The type of a number.
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
    /// A list that the kernel reads, as bytes; with its type, if it is given back.
    Filled(Vec<u8>, Option<Number>),
    /// A list of zeros that the kernel writes: its length.
    Zeros(usize, Number),
}

impl Asked {
    pub(super) fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let module = fields.text("module")?.ok_or_else(|| Failure::invalid("payload.module", "is missing"))?;
        let kernel = fields.text("kernel")?.unwrap_or_else(|| module.clone());
        let blocks = sizes(&mut fields, "blocks", 2_147_483_647)?;
        let threads = sizes(&mut fields, "threads", 1_024)?;
        let shared_bytes = fields.whole("shared_bytes", 0, 1 << 20)?.unwrap_or(0) as u32;
        let arguments = match fields.value("arguments").map(|given| given.elements()) {
            None => Vec::new(),
            Some(Ok(given)) if given.len() <= ARGUMENTS_MAX => {
                given.iter().enumerate().map(|(at, value)| Given::read(at, value)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(Failure::invalid("payload.arguments", format!("must be a list of at most {ARGUMENTS_MAX} arguments"))),
        };
        fields.finish()?;
        if arguments.iter().map(Given::bytes_back).fold(0, u64::saturating_add) > OUT_BYTES_MAX {
            return Err(Failure::invalid("payload.arguments", format!("ask for more than {OUT_BYTES_MAX} bytes back")));
        }
        Ok(Self { module, kernel, grid: Grid { blocks, threads, shared_bytes }, arguments })
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
    fn read(at: usize, value: &Json) -> Result<Self, Failure> {
        let wrong = |what: &str| Failure::invalid(format!("payload.arguments[{at}]"), what);
        let Some((name, value)) = single(value) else {
            return Err(wrong("must be an object with one field: a number type, in, inout or out"));
        };
        if let Some(number) = Number::named(&name) {
            return number.scalar(&value).map(Self::Scalar).ok_or_else(|| wrong("is no number of its type"));
        }
        let typed = single(&value).and_then(|(name, value)| Some((Number::named(&name)?, value)));
        let Some((number, value)) = typed else { return Err(wrong("must hold one list by its type, such as {\"f32\": [1, 2]}")) };
        match (name.as_str(), value.as_bytes().first()) {
            ("in" | "inout", Some(b'[')) => {
                let bytes = number.bytes_of(&value).ok_or_else(|| wrong("holds something that is no number of its type"))?;
                Ok(Self::Filled(bytes, (name == "inout").then_some(number)))
            }
            ("out", Some(b'-' | b'0'..=b'9')) => {
                let count = value.to().ok().filter(|count: &u64| count.saturating_mul(number.size() as u64) <= OUT_BYTES_MAX);
                let count =
                    count.ok_or_else(|| wrong(&format!("asks for more than {OUT_BYTES_MAX} bytes back, or for no whole number")))?;
                Ok(Self::Zeros(count as usize, number))
            }
            _ => Err(wrong("must be a number type, in or inout with a list, or out with a length")),
        }
    }

    /// What it takes of the GPU's memory.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Scalar(_) => 0,
            Self::Filled(bytes, _) => bytes.len() as u64,
            Self::Zeros(count, number) => (*count * number.size()) as u64,
        }
    }

    /// What of it is given back.
    fn bytes_back(&self) -> u64 {
        match self {
            Self::Scalar(_) | Self::Filled(_, None) => 0,
            Self::Filled(_, Some(_)) | Self::Zeros(..) => self.bytes(),
        }
    }

    /// Its memory on the GPU, if it is a pointer. A pointer to an empty list still points somewhere.
    pub(super) fn on<'lane>(&self, lane: &'lane Lane) -> Result<Option<Buffer<'lane, u8>>, CudaError> {
        match self {
            Self::Scalar(_) => Ok(None),
            Self::Filled(bytes, _) if !bytes.is_empty() => lane.upload(bytes).map(Some),
            Self::Filled(..) | Self::Zeros(..) => lane.zeros((self.bytes() as usize).max(8)).map(Some),
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

    /// What the kernel left in it, if it is to be given back.
    pub(super) fn read_back(&self, lane: &Lane, buffer: &Buffer<'_, u8>) -> Option<Result<Written, CudaError>> {
        let (number, bytes) = match self {
            Self::Scalar(_) | Self::Filled(_, None) => return None,
            Self::Filled(bytes, Some(number)) => (number, bytes.len()),
            Self::Zeros(count, number) => (number, count * number.size()),
        };
        Some(lane.download(buffer).map(|mut read| {
            read.truncate(bytes);
            Written { number: *number, bytes: read }
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
            Self::I32 => bytes_by(list, i32::to_ne_bytes),
            Self::U32 => bytes_by(list, u32::to_ne_bytes),
            Self::I64 => bytes_by(list, i64::to_ne_bytes),
            Self::U64 => bytes_by(list, u64::to_ne_bytes),
            Self::F32 => bytes_by(list, |number: f64| (number as f32).to_ne_bytes()),
            Self::F64 => bytes_by(list, f64::to_ne_bytes),
        }
    }
}

/// The numbers of a list, each by its bytes.
fn bytes_by<T: DeserializeOwned, const N: usize>(list: &Json, bytes: impl Fn(T) -> [u8; N]) -> Option<Vec<u8>> {
    let numbers: Vec<T> = list.to().ok()?;
    Some(numbers.into_iter().flat_map(bytes).collect())
}

/// Numbers of one type that are given back, written as a list.
#[derive(Debug)]
pub(super) struct Written {
    number: Number,
    bytes: Vec<u8>,
}

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = &self.bytes;
        match self.number {
            Number::I32 => serializer.collect_seq(words(bytes).map(i32::from_ne_bytes)),
            Number::U32 => serializer.collect_seq(words(bytes).map(u32::from_ne_bytes)),
            Number::F32 => serializer.collect_seq(words(bytes).map(|word| Finite(f32::from_ne_bytes(word)))),
            Number::I64 => serializer.collect_seq(words(bytes).map(i64::from_ne_bytes)),
            Number::U64 => serializer.collect_seq(words(bytes).map(u64::from_ne_bytes)),
            Number::F64 => serializer.collect_seq(words(bytes).map(|word| Finite(f64::from_ne_bytes(word)))),
        }
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(payload: &Value) -> String {
        Asked::read(&payload.clone().into()).unwrap_err().field.unwrap()
    }

    #[test]
    fn a_payload_becomes_a_grid_and_arguments() {
        let arguments = json!([{"u32": 3}, {"f32": 0.5}, {"in": {"f64": [1, 2]}}, {"inout": {"i32": [-1]}}, {"out": {"u64": 2}}]);
        let asked = Asked::read(&json!({"module": "m", "blocks": [2, 3], "threads": 64, "arguments": arguments}).into()).unwrap();
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
            assert_eq!(Json::of(&Written { number, bytes }), list);
        }
        let not_a_number = Written { number: Number::F32, bytes: f32::NAN.to_ne_bytes().to_vec() };
        assert_eq!(Json::of(&not_a_number), json!([null]));
    }
}
