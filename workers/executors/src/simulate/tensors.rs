//! The tensors of `simulate`: its output is the sum of its inputs, number by number. It is computed on the host, whatever the GPU is.

use std::sync::Arc;

use devices::{Device, DeviceMemory, HostBytes, MemoryError};
use protocol::{DType, Framed, Json, SegmentRef, Segments, TensorRef, TensorShape};
use tensors::Content;

use crate::{Failure, RunTensors, payload::Fields};

/// Most inputs.
const INPUTS_MAX: usize = 64;
/// The most that `add` may be, up or down: up to here a double holds every whole number.
const ADD_MAX: f64 = 9_007_199_254_740_992.0;
/// Most bytes of an input: it lies in the host's memory, and so does the sum.
const INPUT_BYTES_MAX: u64 = 4 << 30;
/// What is added up at once, in bytes, before others have their turn.
const CHUNK_BYTES: usize = 1 << 20;

/// Adds to numbers others of the same type, as their bytes.
type Plus = fn(&mut [u8], &[u8]);

/// What is to be added up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sum {
    inputs: Vec<TensorRef>,
    add: f64,
}

impl Sum {
    /// What the fields `inputs` and `add` ask for. `None`: nothing.
    pub(super) fn read(fields: &mut Fields) -> Result<Option<Self>, Failure> {
        let inputs = inputs(fields)?;
        let add = fields.number("add", -ADD_MAX, ADD_MAX)?;
        match (inputs, add) {
            (Some(inputs), add) => Ok(Some(Self { inputs, add: add.unwrap_or(0.0) })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Failure::invalid(fields.path("add"), "is what is added to inputs, and there are none")),
        }
    }

    /// The sum: kept on the GPU where the task keeps its output, else as a segment.
    pub(super) async fn framed(&self, device: &Arc<dyn Device>, tensors: &RunTensors) -> Result<Framed, Failure> {
        // Said first: a GPU that keeps none has no inputs either.
        tensors.plane()?;
        let memory = device.memory().ok_or_else(|| Failure::transient("this GPU has no memory for tensors"))?;
        let (shape, sum) = self.summed(memory, tensors).await?;
        if tensors.kept_outputs() == 0 {
            let json = Json::of(&SegmentRef::numbers(0, shape.dtype, shape.shape));
            return Ok(Framed { json, segments: Segments::of(vec![sum.into()]) });
        }
        let buffer = memory.allocate(sum.len() as u64).await.map_err(failure)?;
        memory.write(&buffer, 0, HostBytes::Own(sum.into())).await.map_err(failure)?;
        Ok(tensors.keep(0, shape, Content::Gpu(buffer)).await?.into())
    }

    async fn summed(&self, memory: &dyn DeviceMemory, tensors: &RunTensors) -> Result<(TensorShape, Vec<u8>), Failure> {
        let mut sum: Option<(TensorShape, Plus, Vec<u8>)> = None;
        for (at, reference) in self.inputs.iter().enumerate() {
            let field = format!("payload.inputs[{at}]");
            let tensor = tensors.input(reference, &field)?;
            let shape = &tensor.about().shape;
            let length = length_of(tensor.about().bytes(), &field)?;
            let bytes = memory.read(tensor.buffer(), 0, length).await.map_err(failure)?;
            match &mut sum {
                None => {
                    let plus = plus(shape.dtype).ok_or_else(|| cannot_be_added(&field, shape.dtype))?;
                    sum = Some((shape.clone(), plus, bytes.to_vec()));
                }
                Some((first, plus, sum)) if first == shape => add_up(*plus, sum, &bytes).await,
                Some((first, ..)) => return Err(Failure::invalid(field, unlike(shape, first))),
            }
        }
        let (shape, plus, mut sum) = sum.ok_or_else(|| Failure::invalid("payload.inputs", "has no tensors"))?;
        if self.add != 0.0 {
            let number = number(shape.dtype, self.add)
                .ok_or_else(|| Failure::invalid("payload.add", format!("{} is none of the numbers of {}", self.add, shape.dtype.name())))?;
            let numbers = number.repeat(CHUNK_BYTES.min(sum.len()) / number.len());
            add_up(plus, &mut sum, &numbers).await;
        }
        Ok((shape, sum))
    }
}

/// Whether so many outputs can be kept: the sum, and nothing else.
pub(super) fn check_outputs(sum: Option<&Sum>, kept: usize) -> Result<(), Failure> {
    match (sum, kept) {
        (_, 0) | (Some(_), 1) => Ok(()),
        (None, _) => Err(Failure::invalid("payload.inputs", "is missing: what keep_as keeps is the sum of inputs")),
        (Some(_), names) => Err(Failure::invalid("keep_as", format!("has {names} names, and simulate has one output"))),
    }
}

fn inputs(fields: &mut Fields) -> Result<Option<Vec<TensorRef>>, Failure> {
    let path = fields.path("inputs");
    let Some(value) = fields.value("inputs") else { return Ok(None) };
    let inputs = value.elements().ok().filter(|inputs| (1..=INPUTS_MAX).contains(&inputs.len()));
    let inputs = inputs.ok_or_else(|| Failure::invalid(&path, format!("must be a list of 1 to {INPUTS_MAX} tensors")))?;
    let input = |(at, input): (usize, &Json)| {
        let wrong = || Failure::invalid(format!("{path}[{at}]"), format!("must be {{\"tensor\": name}}, not {}", input.in_brief()));
        TensorRef::read(input).ok_or_else(wrong)
    };
    inputs.iter().enumerate().map(input).collect::<Result<Vec<_>, _>>().map(Some)
}

/// Of an input that has so many bytes.
fn length_of(bytes: u64, field: &str) -> Result<usize, Failure> {
    let length = usize::try_from(bytes).ok().filter(|_| bytes <= INPUT_BYTES_MAX);
    length.ok_or_else(|| Failure::invalid(field, format!("has {bytes} bytes; what is added up on the host has at most {INPUT_BYTES_MAX}")))
}

fn cannot_be_added(field: &str, dtype: DType) -> Failure {
    Failure::invalid(field, format!("is of the dtype {}, which simulate cannot add", dtype.name()))
}

fn unlike(shape: &TensorShape, first: &TensorShape) -> String {
    let written = |shape: &TensorShape| format!("{:?} of {}", shape.shape, shape.dtype.name());
    format!("is {}, and the first one is {}; they must be alike", written(shape), written(first))
}

/// As an attempt fails whose GPU's memory fails.
fn failure(error: MemoryError) -> Failure {
    match error {
        MemoryError::Full { wanted_bytes, .. } => {
            Failure { memory_mb: Some(wanted_bytes.div_ceil(1_000_000)), ..Failure::out_of_memory(error.to_string()) }
        }
        other => Failure::transient(other.to_string()),
    }
}

/// Adds `other`, again and again where it is shorter. Others have their turn in between.
async fn add_up(plus: Plus, sum: &mut [u8], other: &[u8]) {
    if other.is_empty() {
        return;
    }
    for part in sum.chunks_mut(other.len()) {
        for (part, other) in part.chunks_mut(CHUNK_BYTES).zip(other.chunks(CHUNK_BYTES)) {
            plus(part, other);
            tokio::task::yield_now().await;
        }
    }
}

/// How numbers of a type are added: whole ones wrap around, of flags it is whether any is set. `None`: not at all.
fn plus(dtype: DType) -> Option<Plus> {
    let plus: Plus = match dtype {
        DType::Bool => |sum, other| each(sum, other, |one: [u8; 1], other| [one[0] | other[0]]),
        DType::I8 | DType::U8 => {
            |sum, other| each(sum, other, |one, other| [u8::from_le_bytes(one).wrapping_add(u8::from_le_bytes(other))])
        }
        DType::I16 | DType::U16 => {
            |sum, other| each(sum, other, |one, other| u16::from_le_bytes(one).wrapping_add(u16::from_le_bytes(other)).to_le_bytes())
        }
        DType::I32 | DType::U32 => {
            |sum, other| each(sum, other, |one, other| u32::from_le_bytes(one).wrapping_add(u32::from_le_bytes(other)).to_le_bytes())
        }
        DType::I64 | DType::U64 => {
            |sum, other| each(sum, other, |one, other| u64::from_le_bytes(one).wrapping_add(u64::from_le_bytes(other)).to_le_bytes())
        }
        DType::F32 => |sum, other| each(sum, other, |one, other| (f32::from_le_bytes(one) + f32::from_le_bytes(other)).to_le_bytes()),
        DType::F64 => |sum, other| each(sum, other, |one, other| (f64::from_le_bytes(one) + f64::from_le_bytes(other)).to_le_bytes()),
        DType::F16 | DType::BF16 => return None,
    };
    Some(plus)
}

fn each<const N: usize>(sum: &mut [u8], other: &[u8], plus: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    for (one, other) in sum.as_chunks_mut::<N>().0.iter_mut().zip(other.as_chunks::<N>().0) {
        *one = plus(*one, *other);
    }
}

/// A number of a type, as its bytes. Of a whole one, what is left of it in that type: to add it is to take away where it is negative. `None`: it is none of the type.
fn number(dtype: DType, number: f64) -> Option<Vec<u8>> {
    match dtype {
        DType::F32 => Some((number as f32).to_le_bytes().to_vec()),
        DType::F64 => Some(number.to_le_bytes().to_vec()),
        DType::Bool | DType::F16 | DType::BF16 => None,
        _ if number.fract() != 0.0 => None,
        _ => Some((number as i64).to_le_bytes()[..dtype.size()].to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn inputs_are_read_with_what_is_added() {
        let read = |payload: Value| Sum::read(&mut Fields::of_payload(&payload.into()).unwrap()).map_err(|failure| failure.field.unwrap());
        assert_eq!(read(json!({"duration_ms": 5})), Ok(None));
        let sum = read(json!({"inputs": [{"tensor": "x"}, {"tensor": "y", "version": 7}], "add": -1.5})).unwrap().unwrap();
        assert_eq!((sum.inputs.len(), sum.inputs[1].version, sum.add), (2, Some(7), -1.5));
        for (payload, field) in [
            (json!({"add": 1}), "payload.add"),
            (json!({"inputs": [], "add": 1}), "payload.inputs"),
            (json!({"inputs": {"tensor": "x"}}), "payload.inputs"),
            (json!({"inputs": [{"tensor": "x"}, "y"]}), "payload.inputs[1]"),
            (json!({"inputs": [{"tensor": "x"}], "add": 1e17}), "payload.add"),
        ] {
            assert_eq!(read(payload.clone()), Err(field.to_owned()), "{payload}");
        }
    }

    #[tokio::test]
    async fn numbers_of_each_type_are_added() {
        let whole = |dtype, a: i64, b: i64| (dtype, a.to_le_bytes(), b.to_le_bytes());
        for (dtype, a, b) in [
            whole(DType::I8, 127, 2),
            whole(DType::U8, 255, 2),
            whole(DType::I16, -5, 7),
            whole(DType::U16, 65_535, 65_535),
            whole(DType::I32, i64::from(i32::MAX), 1),
            whole(DType::U32, 4_294_967_295, 1),
            whole(DType::I64, i64::MAX, 1),
            whole(DType::U64, -1, 5),
        ] {
            let size = dtype.size();
            let mut sum = a[..size].repeat(3);
            add_up(plus(dtype).unwrap(), &mut sum, &b[..size].repeat(3)).await;
            let expected = i64::from_le_bytes(a).wrapping_add(i64::from_le_bytes(b)).to_le_bytes()[..size].repeat(3);
            assert_eq!(sum, expected, "{dtype:?}");
        }
        let mut sum = [1.5_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat();
        add_up(plus(DType::F32).unwrap(), &mut sum, &(-1.0_f32).to_le_bytes()).await;
        assert_eq!(sum, [0.5_f32.to_le_bytes(), 1.0_f32.to_le_bytes()].concat(), "what is shorter is added again and again");
        let mut sum = 1e300_f64.to_le_bytes().to_vec();
        add_up(plus(DType::F64).unwrap(), &mut sum, &1e300_f64.to_le_bytes()).await;
        assert_eq!(sum, 2e300_f64.to_le_bytes());
        let mut sum = vec![0, 1, 1];
        add_up(plus(DType::Bool).unwrap(), &mut sum, &[0, 0, 1]).await;
        assert_eq!(sum, [0, 1, 1]);
        assert!(plus(DType::F16).is_none() && plus(DType::BF16).is_none());
    }

    #[tokio::test]
    async fn long_tensors_are_added_in_parts() {
        let mut sum: Vec<u8> = (0..3 * CHUNK_BYTES + 5).map(|at| at as u8).collect();
        let other = sum.clone();
        add_up(plus(DType::U8).unwrap(), &mut sum, &other).await;
        add_up(plus(DType::U8).unwrap(), &mut sum, &[1].repeat(CHUNK_BYTES)).await;
        assert!(sum.iter().zip(&other).all(|(sum, other)| *sum == other.wrapping_mul(2).wrapping_add(1)));
    }

    #[test]
    fn what_is_kept_is_the_sum_and_nothing_else() {
        let sum = Sum { inputs: vec![], add: 0.0 };
        let field = |sum, kept| check_outputs(sum, kept).err().and_then(|failure| failure.field);
        assert_eq!([field(None, 0), field(Some(&sum), 0), field(Some(&sum), 1)], [None, None, None]);
        assert_eq!(field(None, 1).as_deref(), Some("payload.inputs"));
        assert_eq!(field(Some(&sum), 2).as_deref(), Some("keep_as"));
    }

    #[test]
    fn an_input_that_the_hosts_memory_may_not_hold_is_refused() {
        assert_eq!(length_of(INPUT_BYTES_MAX, "payload.inputs[0]"), Ok(4 << 30));
        let refused = length_of(INPUT_BYTES_MAX + 1, "payload.inputs[0]").unwrap_err();
        assert_eq!((refused.field.as_deref(), refused.retry), (Some("payload.inputs[0]"), false));
    }

    #[test]
    fn what_is_added_is_a_number_of_the_type() {
        assert_eq!(number(DType::I8, -1.0), Some(vec![255]));
        assert_eq!(number(DType::U16, 258.0), Some(vec![2, 1]));
        assert_eq!(number(DType::F32, 0.5), Some(0.5_f32.to_le_bytes().to_vec()));
        assert_eq!([number(DType::I32, 0.5), number(DType::Bool, 1.0)], [None, None]);
    }
}
