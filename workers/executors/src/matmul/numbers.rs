//! The numbers of a matrix: a list as JSON had it, or raw bytes where they came.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use devices::{
    CudaError, Device,
    nvidia::cuda::{Buffer, Lane},
};
use protocol::{DType, Json, SegmentRef, TensorShape};
use serde::de::IgnoredAny;
use tensors::Tensor;

use super::{Convert, Precision, SIDE_MAX};
use crate::{
    Failure,
    payload::Fields,
    tensor_inputs::{Inputs, bytes_of},
};

/// The numbers of a matrix, by rows. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Numbers {
    /// Out of a list.
    List(Arc<[f64]>),
    /// Little-endian numbers of the product's precision.
    Raw(Bytes),
    /// Such numbers on the GPU.
    Tensor(Arc<Tensor>),
}

/// A matrix that is to be multiplied.
#[derive(Debug)]
pub(super) struct Factor {
    pub(super) numbers: Numbers,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Of raw bytes, and of a tensor.
    pub(super) precision: Option<Precision>,
}

impl Numbers {
    /// A part of them on the GPU. Raw bytes are copied there from where they came; a tensor is there.
    pub(super) fn upload<'lane, T: Convert>(&self, lane: &'lane Lane, part: Range<usize>) -> Result<Buffer<'lane, T>, CudaError> {
        match self {
            Self::List(numbers) => {
                let converted: Vec<T> = numbers[part].iter().map(|value| T::from_double(*value)).collect();
                lane.upload(&converted)
            }
            Self::Raw(bytes) => lane.upload_bytes(&bytes[part.start * size_of::<T>()..part.end * size_of::<T>()]),
            Self::Tensor(tensor) => lane.resident(tensor.buffer(), part),
        }
    }

    /// The same on the host: those of a tensor are read from the GPU.
    pub(super) async fn on_host(&self, device: &dyn Device) -> Result<Self, Failure> {
        match self {
            Self::Tensor(tensor) => bytes_of(device, tensor.buffer()).await.map(Self::Raw),
            here => Ok(here.clone()),
        }
    }

    /// Whether they are on the GPU already.
    pub(super) const fn are_resident(&self) -> bool {
        matches!(self, Self::Tensor(_))
    }

    /// All of them in double precision. Of a tensor, whose numbers are not here, there are none: see [`on_host`](Self::on_host).
    pub(super) fn doubles(&self, precision: Precision) -> Arc<[f64]> {
        match (self, precision) {
            (Self::List(numbers), _) => Arc::clone(numbers),
            (Self::Raw(bytes), Precision::Single) => words(bytes).map(|word| f64::from(f32::from_le_bytes(word))).collect(),
            (Self::Raw(bytes), Precision::Double) => words(bytes).map(f64::from_le_bytes).collect(),
            (Self::Tensor(_), _) => Arc::default(),
        }
    }

    /// All of them as raw bytes, as of [`doubles`](Self::doubles).
    pub(super) fn bytes(&self, precision: Precision) -> Bytes {
        match (self, precision) {
            (Self::Raw(bytes), _) => bytes.clone(),
            (Self::List(numbers), Precision::Single) => numbers.iter().flat_map(|number| (*number as f32).to_le_bytes()).collect(),
            (Self::List(numbers), Precision::Double) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            (Self::Tensor(_), _) => Bytes::new(),
        }
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// The factor that a field holds: a matrix in JSON, or a reference to a segment or a tensor.
pub(super) fn factor(fields: &mut Fields, name: &'static str, inputs: &Inputs<'_>) -> Result<Factor, Failure> {
    let value = fields.value(name);
    let path = fields.path(name);
    if let Some(reference) = value.as_ref().and_then(SegmentRef::read) {
        return raw(&path, &reference, inputs);
    }
    if let Some(value) = &value
        && let Some(tensor) = inputs.tensor(value, &path)?
    {
        return resident(&path, tensor);
    }
    let (numbers, rows, columns) = matrix(&path, value)?;
    Ok(Factor { numbers: Numbers::List(numbers), rows, columns, precision: None })
}

/// The precision of numbers of a type.
fn precision_of(path: &str, dtype: DType) -> Result<Precision, Failure> {
    match dtype {
        DType::F32 => Ok(Precision::Single),
        DType::F64 => Ok(Precision::Double),
        other => Err(Failure::invalid(path, format!("must be of the dtype f32 or f64, not {}", other.name()))),
    }
}

fn resident(path: &str, tensor: Arc<Tensor>) -> Result<Factor, Failure> {
    let TensorShape { dtype, shape } = &tensor.about().shape;
    let precision = precision_of(path, *dtype)?;
    match shape[..] {
        [rows, columns] if rows.min(columns) >= 1 => {
            Ok(Factor { numbers: Numbers::Tensor(tensor), rows, columns, precision: Some(precision) })
        }
        _ => {
            let name = &tensor.about().name;
            Err(Failure::invalid(path, format!("must be a matrix: a tensor of two sides, each at least 1; {name} has the shape {shape:?}")))
        }
    }
}

fn raw(path: &str, reference: &SegmentRef, inputs: &Inputs<'_>) -> Result<Factor, Failure> {
    let bytes = reference.of(inputs.segments).map_err(|problem| Failure::invalid(path, problem))?.clone();
    let precision = precision_of(path, reference.dtype.unwrap_or(DType::F32))?;
    match (reference.shape.as_deref(), reference.dtype) {
        (Some(&[rows, columns]), Some(_)) if rows.min(columns) >= 1 && rows.max(columns) <= SIDE_MAX => {
            Ok(Factor { numbers: Numbers::Raw(bytes), rows, columns, precision: Some(precision) })
        }
        _ => {
            Err(Failure::invalid(path, format!("must be a matrix: a segment with a dtype and a shape of two sides, each 1 to {SIDE_MAX}")))
        }
    }
}

/// A matrix by rows, with its sizes.
fn matrix(path: &str, value: Option<Json>) -> Result<(Arc<[f64]>, usize, usize), Failure> {
    let wrong = |what: String| Failure::invalid(path, what);
    let no_matrix = || wrong("must be a matrix: a list of rows, each a list of numbers, or a segment, or a tensor".to_owned());
    let rows = value.and_then(|rows| rows.elements().ok()).ok_or_else(no_matrix)?;
    let length = |row: &Json| row.to::<Vec<IgnoredAny>>().ok().map(|row| row.len());
    let columns = rows.first().and_then(length).unwrap_or(0);
    if columns == 0 || rows.len().max(columns) > SIDE_MAX {
        return Err(wrong(format!("must have 1 to {SIDE_MAX} rows and columns")));
    }
    let mut numbers = Vec::with_capacity(rows.len() * columns);
    for (at, row) in rows.iter().enumerate() {
        match row.to::<Vec<f64>>() {
            Ok(row) if row.len() == columns => numbers.extend(row),
            Err(_) if length(row) == Some(columns) => return Err(wrong(format!("row {at} holds something that is no number"))),
            _ => return Err(wrong(format!("row {at} must have {columns} numbers, as the first one has"))),
        }
    }
    Ok((numbers.into(), rows.len(), columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_bytes_and_lists_hold_the_same_numbers() {
        let doubles = [1.5, -2.0, 0.25];
        let list = Numbers::List(doubles.into());
        for precision in [Precision::Single, Precision::Double] {
            let raw = Numbers::Raw(list.bytes(precision));
            assert_eq!(raw.bytes(precision).len(), 3 * precision.dtype().size());
            assert_eq!(raw.doubles(precision)[..], doubles);
        }
    }
}
