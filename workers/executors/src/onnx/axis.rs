//! The axis along which a model takes several payloads at once: which it is, whether they leave each other alone there, putting together and cutting apart.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use half::{bf16, f16};
use ort::session::Session;
use protocol::DType;

use super::{
    port::{Port, Side},
    session::{Tensors, compute},
    tensor::{Data, Tensor, words},
    trial,
};

/// So many pieces without a byte are gone through; no honest payload has more.
const EMPTY_PIECES_MAX: usize = 1 << 16;

/// The place of the axis in each input and output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Axis {
    inputs: BTreeMap<String, usize>,
    outputs: BTreeMap<String, usize>,
}

impl Axis {
    /// The axis of the configured name; without one, the first side of every input and output, where all are open.
    ///
    /// # Errors
    /// Why the model has none.
    pub(super) fn of(inputs: &[Port], outputs: &[Port], configured: Option<&str>) -> Result<Self, String> {
        let place = |port: &Port| match configured {
            Some(name) => port.sides.iter().position(|side| matches!(side, Side::Named(known) if known == name)),
            None => port.sides.first().filter(|side| !matches!(side, Side::Fixed(_))).map(|_| 0),
        };
        let places = |ports: &[Port]| {
            let each = ports.iter().map(|port| match place(port) {
                Some(at) => Ok((port.name.clone(), at)),
                None => Err(match configured {
                    Some(name) => format!("{} has the shape {port}, without an axis {name}", port.name),
                    None => format!("{} has the shape {port}, whose first side is not open", port.name),
                }),
            });
            each.collect::<Result<BTreeMap<_, _>, _>>()
        };
        Ok(Self { inputs: places(inputs)?, outputs: places(outputs)? })
    }

    /// Whether payloads that run together get what each would get alone. An open side may be anything: the words of a sentence, the pixels of a line.
    ///
    /// # Errors
    /// How they differ.
    pub(super) fn prove(&self, session: &mut Session, inputs: &[Port], size: usize) -> Result<(), String> {
        let members: Vec<Tensors> = (0..3).map(|seed| trial::made_up(inputs, size, seed)).collect();
        let mut alone = Vec::with_capacity(members.len());
        for member in &members {
            alone.push(compute(session, member, None).map_err(|error| error.message)?);
        }
        let (together, rows) = self.together(&members.iter().collect::<Vec<_>>()).ok_or("payloads cannot be put together along it")?;
        let answer = compute(session, &together, None).map_err(|error| format!("three payloads together fail: {}", error.message))?;
        let apart = self.apart(&answer, &rows).ok_or("what three payloads give together has another length along it")?;
        let differs = alone.iter().zip(&apart).any(|(alone, apart)| !is_alike(alone, apart));
        if differs { Err("a payload gives something else beside others than alone".to_owned()) } else { Ok(()) }
    }

    /// How long a payload is along the axis. `None`: its inputs disagree, or it is empty.
    pub(super) fn rows(&self, inputs: &Tensors) -> Option<usize> {
        let mut rows = inputs.iter().map(|(name, tensor)| self.inputs.get(name).and_then(|at| tensor.shape.get(*at)));
        let first = *rows.next()??;
        (first > 0 && rows.all(|rows| rows == Some(&first))).then_some(first)
    }

    /// What two payloads must have in common to run together: types, and sizes but for the axis. `None`: it runs alone.
    pub(super) fn form(&self, inputs: &Tensors) -> Option<Vec<(DType, Vec<usize>)>> {
        self.rows(inputs)?;
        let form = inputs.iter().map(|(name, tensor)| {
            let Data::Numbers(dtype, _) = &tensor.data else { return None };
            let mut shape = tensor.shape.clone();
            *shape.get_mut(*self.inputs.get(name)?)? = 0;
            Some((*dtype, shape))
        });
        form.collect()
    }

    /// Payloads of one form as one, and how long each is.
    pub(super) fn together(&self, members: &[&Tensors]) -> Option<(Tensors, Vec<usize>)> {
        let rows = members.iter().map(|member| self.rows(member)).collect::<Option<Vec<_>>>()?;
        let joined = self.inputs.iter().map(|(name, at)| {
            let parts = members.iter().map(|member| member.get(name)).collect::<Option<Vec<_>>>()?;
            Some((name.clone(), joined(&parts, *at)?))
        });
        Some((joined.collect::<Option<_>>()?, rows))
    }

    /// What came out of them, one by one. `None`: an output is not as long as they are together.
    pub(super) fn apart(&self, answer: &Tensors, rows: &[usize]) -> Option<Vec<Tensors>> {
        let mut members = vec![Tensors::new(); rows.len()];
        for (name, tensor) in answer {
            let parts = cut(tensor, *self.outputs.get(name)?, rows)?;
            members.iter_mut().zip(parts).for_each(|(member, part)| drop(member.insert(name.clone(), part)));
        }
        Some(members)
    }
}

/// How many pieces of one row's bytes follow each other, and how long one is. `None`: no memory holds so much; a shape with a 0 may have any number beside it.
fn strides(shape: &[usize], at: usize, size: usize) -> Option<(usize, usize)> {
    let product = |sides: &[usize]| sides.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
    let (before, row) = (product(shape.get(..at)?)?, product(shape.get(at + 1..)?)?.checked_mul(size)?);
    // No more bytes than that lie in any tensor: what is computed of these has no larger value.
    before.checked_mul(*shape.get(at)?)?.checked_mul(row.max(1))?;
    (row > 0 || before <= EMPTY_PIECES_MAX).then_some((before, row))
}

fn joined(parts: &[&Tensor], at: usize) -> Option<Tensor> {
    let first = parts.first()?;
    let Data::Numbers(dtype, _) = &first.data else { return None };
    let (before, row) = strides(&first.shape, at, dtype.size())?;
    let mut bytes = BytesMut::with_capacity(parts.iter().map(|part| part.bytes()).sum());
    for outer in 0..before {
        for part in parts {
            let Data::Numbers(_, of_part) = &part.data else { return None };
            let length = part.shape.get(at)?.checked_mul(row)?;
            let (from, to) = (outer.checked_mul(length)?, outer.checked_add(1)?.checked_mul(length)?);
            bytes.extend_from_slice(of_part.get(from..to)?);
        }
    }
    let mut shape = first.shape.clone();
    shape[at] = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(*part.shape.get(at)?))?;
    Some(Tensor::numbers(*dtype, shape, bytes))
}

/// Along the first side nothing is copied.
fn cut(tensor: &Tensor, at: usize, rows: &[usize]) -> Option<Vec<Tensor>> {
    let Data::Numbers(dtype, bytes) = &tensor.data else { return None };
    let whole = *tensor.shape.get(at)?;
    if rows.iter().try_fold(0_usize, |sum, rows| sum.checked_add(*rows)) != Some(whole) {
        return None;
    }
    let (before, row) = strides(&tensor.shape, at, dtype.size())?;
    let mut from = 0;
    let parts = rows.iter().map(|length| {
        let piece = |outer: usize| (outer * whole + from) * row..(outer * whole + from + length) * row;
        let part = match before {
            1 => bytes.slice(piece(0)),
            _ => Bytes::from((0..before).flat_map(|outer| &bytes[piece(outer)]).copied().collect::<Vec<_>>()),
        };
        from += length;
        let mut shape = tensor.shape.clone();
        shape[at] = *length;
        Tensor::numbers(*dtype, shape, part)
    });
    Some(parts.collect())
}

/// Whether two answers are the same but for rounding.
fn is_alike(one: &Tensors, other: &Tensors) -> bool {
    let alike = |one: &Tensor, other: &Tensor| {
        let (Data::Numbers(dtype, left), Data::Numbers(_, right)) = (&one.data, &other.data) else { return one == other };
        let allowed = match dtype {
            DType::F16 | DType::BF16 => 2e-2,
            DType::F32 | DType::F64 => 1e-4,
            _ => return left == right,
        };
        let near =
            |(one, other): (f64, f64)| (one - other).abs() <= allowed * (1.0 + one.abs()) || one.is_nan() && other.is_nan() || one == other;
        one.shape == other.shape && floats(*dtype, left).into_iter().zip(floats(*dtype, right)).all(near)
    };
    one.len() == other.len() && one.iter().all(|(name, tensor)| other.get(name).is_some_and(|other| alike(tensor, other)))
}

fn floats(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DType::F16 => words(bytes).map(|word| f16::from_le_bytes(word).to_f64()).collect(),
        DType::BF16 => words(bytes).map(|word| bf16::from_le_bytes(word).to_f64()).collect(),
        DType::F32 => words(bytes).map(|word| f64::from(f32::from_le_bytes(word))).collect(),
        _ => words(bytes).map(f64::from_le_bytes).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::onnx::tensor::Element;

    fn port(name: &str, sides: &[Side]) -> Port {
        Port { name: name.to_owned(), element: Element::Number(DType::U8), sides: sides.to_vec() }
    }

    #[test]
    fn the_axis_is_the_first_open_side_or_the_one_that_is_named() {
        let named = |name: &str| Side::Named(name.to_owned());
        let (x, y) = (port("x", &[Side::Fixed(3), named("batch")]), port("y", &[named("batch")]));
        let axis = Axis::of(std::slice::from_ref(&x), std::slice::from_ref(&y), Some("batch")).unwrap();
        assert_eq!((axis.inputs["x"], axis.outputs["y"]), (1, 0));
        let refused = |configured| Axis::of(std::slice::from_ref(&x), std::slice::from_ref(&y), configured).unwrap_err();
        assert_eq!(refused(None), "x has the shape [3, batch] of u8, whose first side is not open");
        assert_eq!(refused(Some("n")), "x has the shape [3, batch] of u8, without an axis n");
    }

    #[test]
    fn a_shape_that_no_memory_holds_is_not_put_together_with_others() {
        let axis = Axis { inputs: [("x".to_owned(), 0)].into(), outputs: [("x".to_owned(), 0)].into() };
        for shape in [vec![1, 1 << 62, 4, 0], vec![1, 1 << 63, 2]] {
            let member = Tensors::from([("x".to_owned(), Tensor::numbers(DType::F32, shape.clone(), Vec::new()))]);
            assert!(axis.together(&[&member, &member]).is_none(), "{shape:?}");
            assert!(axis.apart(&member, &[1]).is_none(), "{shape:?}");
        }
        let last = Axis { inputs: [("x".to_owned(), 1)].into(), outputs: [("x".to_owned(), 1)].into() };
        let empty = Tensors::from([("x".to_owned(), Tensor::numbers(DType::F32, vec![1 << 40, 1, 0], Vec::new()))]);
        assert!(last.together(&[&empty, &empty]).is_none(), "nobody goes through so many pieces of nothing");
    }

    proptest! {
        #[test]
        fn what_was_put_together_comes_apart_as_it_was(before in 1_usize..3, after in 1_usize..4, rows in prop::collection::vec(1_usize..4, 1..5)) {
            let axis = Axis { inputs: [("x".to_owned(), 1)].into(), outputs: [("x".to_owned(), 1)].into() };
            let members: Vec<Tensors> = rows.iter().enumerate().map(|(number, rows)| {
                let count = before * rows * after;
                let bytes: Vec<u8> = (0..count * 2).map(|at| (at * 31 + number * 7) as u8).collect();
                Tensors::from([("x".to_owned(), Tensor::numbers(DType::U16, vec![before, *rows, after], bytes))])
            }).collect();
            let (together, lengths) = axis.together(&members.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(&together["x"].shape, &vec![before, rows.iter().sum(), after]);
            prop_assert_eq!(axis.apart(&together, &lengths).unwrap(), members);
        }
    }
}
