//! What a model is tried with before it is used: numbers made up for its inputs.

use half::{bf16, f16};
use ort::session::Session;
use protocol::DType;

use super::{
    port::{Port, Side},
    session::{Tensors, compute},
    tensor::{Data, Element, Tensor},
};

/// The sizes that open dimensions are tried with, in this order: some models take no small images.
const SIZES: [usize; 6] = [1, 2, 8, 32, 128, 224];
/// Most bytes of the inputs of a trial.
const BYTES_MAX: usize = 64 << 20;

/// The size of open dimensions with which a model ran.
pub(super) type Tried = usize;

/// Runs a model with made-up inputs of one payload, until a size of its open dimensions is found that it takes.
///
/// # Errors
/// Why the last one failed.
pub(super) fn run(session: &mut Session, inputs: &[Port]) -> Result<Tried, String> {
    let is_open = inputs.iter().flat_map(|port| &port.sides).any(|side| !matches!(side, Side::Fixed(_)));
    let sizes = if is_open { SIZES.as_slice() } else { &SIZES[..1] };
    let mut last = String::new();
    for size in sizes {
        let made = made_up(inputs, *size, 0);
        if made.values().map(Tensor::bytes).sum::<usize>() > BYTES_MAX {
            break;
        }
        match compute(session, &made, None) {
            Ok(_) => return Ok(*size),
            Err(error) => last = error.message,
        }
    }
    Err(if last.is_empty() { "its inputs are too large to be tried".to_owned() } else { format!("its trial run failed: {last}") })
}

/// Inputs of a shape that fits. The first side, where it is open, is 1; `seed` makes other numbers.
pub(super) fn made_up(inputs: &[Port], size: usize, seed: usize) -> Tensors {
    let tensor = |port: &Port| {
        let side = |(at, side): (usize, &Side)| match side {
            Side::Fixed(size) => *size,
            Side::Named(_) | Side::Open if at == 0 => 1,
            Side::Named(_) | Side::Open => size,
        };
        let shape: Vec<usize> = port.sides.iter().enumerate().map(side).collect();
        let count = shape.iter().fold(1_usize, |count, side| count.saturating_mul(*side)).min(BYTES_MAX);
        Tensor { shape, data: elements(port.element, count, seed) }
    };
    inputs.iter().map(|port| (port.name.clone(), tensor(port))).collect()
}

/// Whole numbers are 0 and 1, which every vocabulary and every mask has.
fn elements(element: Element, count: usize, seed: usize) -> Data {
    let dtype = match element {
        Element::Text => return Data::Texts(vec!["a".to_owned(); count]),
        Element::Number(dtype) => dtype,
    };
    let whole = |at: usize| u8::from((at + seed).is_multiple_of(3));
    let float = |at: usize| ((at * 7 + seed * 3) % 11) as f32 / 11.0;
    let bytes: Vec<u8> = match dtype {
        DType::F16 => (0..count).flat_map(|at| f16::from_f32(float(at)).to_le_bytes()).collect(),
        DType::BF16 => (0..count).flat_map(|at| bf16::from_f32(float(at)).to_le_bytes()).collect(),
        DType::F32 => (0..count).flat_map(|at| float(at).to_le_bytes()).collect(),
        DType::F64 => (0..count).flat_map(|at| f64::from(float(at)).to_le_bytes()).collect(),
        _ => {
            let mut bytes = vec![0; count * dtype.size()];
            (0..count).for_each(|at| bytes[at * dtype.size()] = whole(at));
            bytes
        }
    };
    Data::Numbers(dtype, bytes.into())
}
