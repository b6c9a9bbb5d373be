//! Tensors as they travel, and as ONNX Runtime takes them: little-endian bytes, copied once in each direction.

use std::fmt;

use bytes::Bytes;
use half::{bf16, f16};
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor as Value, TensorElementType, ValueType};
use protocol::DType;

/// What the elements of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Number(DType),
    Text,
}

/// A named piece of data, without its name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) data: Data,
}

/// The elements, the last dimension varying fastest.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Numbers(DType, Bytes),
    Texts(Vec<String>),
}

impl Element {
    /// `None`: nothing that travels.
    pub(super) const fn of(ty: TensorElementType) -> Option<Self> {
        Some(Self::Number(match ty {
            TensorElementType::Bool => DType::Bool,
            TensorElementType::Int8 => DType::I8,
            TensorElementType::Int16 => DType::I16,
            TensorElementType::Int32 => DType::I32,
            TensorElementType::Int64 => DType::I64,
            TensorElementType::Uint8 => DType::U8,
            TensorElementType::Uint16 => DType::U16,
            TensorElementType::Uint32 => DType::U32,
            TensorElementType::Uint64 => DType::U64,
            TensorElementType::Float16 => DType::F16,
            TensorElementType::Bfloat16 => DType::BF16,
            TensorElementType::Float32 => DType::F32,
            TensorElementType::Float64 => DType::F64,
            TensorElementType::String => return Some(Self::Text),
            _ => return None,
        }))
    }
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Number(dtype) => dtype.name(),
            Self::Text => "texts",
        })
    }
}

impl Tensor {
    pub(super) fn numbers(dtype: DType, shape: Vec<usize>, bytes: impl Into<Bytes>) -> Self {
        Self { shape, data: Data::Numbers(dtype, bytes.into()) }
    }

    pub(super) const fn element(&self) -> Element {
        match &self.data {
            Data::Numbers(dtype, _) => Element::Number(*dtype),
            Data::Texts(_) => Element::Text,
        }
    }

    /// What it takes of memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match &self.data {
            Data::Numbers(_, bytes) => bytes.len(),
            Data::Texts(texts) => texts.iter().map(String::len).sum(),
        }
    }

    /// As single-precision numbers. `None`: it is of another type.
    pub(super) fn singles(&self) -> Option<Vec<f32>> {
        match &self.data {
            Data::Numbers(DType::F32, bytes) => Some(words(bytes).map(f32::from_le_bytes).collect()),
            _ => None,
        }
    }

    /// As ONNX Runtime takes it.
    pub(super) fn value(&self) -> ort::Result<DynValue> {
        let (dtype, bytes) = match &self.data {
            Data::Texts(texts) => return Ok(Value::from_string_array((self.shape.clone(), texts.as_slice()))?.into_dyn()),
            Data::Numbers(dtype, bytes) => (*dtype, bytes),
        };
        match dtype {
            DType::Bool => self.filled(bytes.iter().map(|byte| *byte != 0)),
            DType::U8 => self.filled(bytes.iter().copied()),
            DType::I8 => self.filled(words(bytes).map(i8::from_le_bytes)),
            DType::I16 => self.filled(words(bytes).map(i16::from_le_bytes)),
            DType::I32 => self.filled(words(bytes).map(i32::from_le_bytes)),
            DType::I64 => self.filled(words(bytes).map(i64::from_le_bytes)),
            DType::U16 => self.filled(words(bytes).map(u16::from_le_bytes)),
            DType::U32 => self.filled(words(bytes).map(u32::from_le_bytes)),
            DType::U64 => self.filled(words(bytes).map(u64::from_le_bytes)),
            DType::F16 => self.filled(words(bytes).map(f16::from_le_bytes)),
            DType::BF16 => self.filled(words(bytes).map(bf16::from_le_bytes)),
            DType::F32 => self.filled(words(bytes).map(f32::from_le_bytes)),
            DType::F64 => self.filled(words(bytes).map(f64::from_le_bytes)),
        }
    }

    fn filled<T>(&self, numbers: impl Iterator<Item = T>) -> ort::Result<DynValue>
    where
        T: PrimitiveTensorElementType + fmt::Debug + Clone + 'static,
    {
        Ok(Value::from_array((self.shape.clone(), numbers.collect::<Vec<T>>()))?.into_dyn())
    }

    /// What ONNX Runtime gave.
    ///
    /// # Errors
    /// It is nothing that travels.
    pub(super) fn of(value: &DynValue) -> Result<Self, String> {
        let ValueType::Tensor { ty, shape, .. } = value.dtype() else { return Err("it is no tensor".to_owned()) };
        let element = Element::of(*ty).ok_or_else(|| format!("it is a tensor of {ty}, which has no form in replies"))?;
        let shape = shape.iter().map(|side| usize::try_from(*side).unwrap_or_default()).collect();
        let data = match element {
            Element::Text => Ok(Data::Texts(value.try_extract_strings().map_err(|error| error.to_string())?.1)),
            Element::Number(dtype) => taken(value, dtype).map(|bytes| Data::Numbers(dtype, bytes.into())),
        };
        data.map(|data| Self { shape, data }).map_err(|error: ort::Error| error.to_string())
    }
}

/// The numbers of a value, as bytes.
fn taken(value: &DynValue, dtype: DType) -> ort::Result<Vec<u8>> {
    match dtype {
        DType::Bool => flattened(value, |flag: bool| [u8::from(flag)]),
        DType::U8 => Ok(value.try_extract_tensor::<u8>()?.1.to_vec()),
        DType::I8 => flattened(value, i8::to_le_bytes),
        DType::I16 => flattened(value, i16::to_le_bytes),
        DType::I32 => flattened(value, i32::to_le_bytes),
        DType::I64 => flattened(value, i64::to_le_bytes),
        DType::U16 => flattened(value, u16::to_le_bytes),
        DType::U32 => flattened(value, u32::to_le_bytes),
        DType::U64 => flattened(value, u64::to_le_bytes),
        DType::F16 => flattened(value, f16::to_le_bytes),
        DType::BF16 => flattened(value, bf16::to_le_bytes),
        DType::F32 => flattened(value, f32::to_le_bytes),
        DType::F64 => flattened(value, f64::to_le_bytes),
    }
}

fn flattened<T: PrimitiveTensorElementType + Copy, const N: usize>(value: &DynValue, bytes: impl Fn(T) -> [u8; N]) -> ort::Result<Vec<u8>> {
    Ok(value.try_extract_tensor::<T>()?.1.iter().flat_map(|number| bytes(*number)).collect())
}

/// The bytes in pieces of one number's size.
pub(super) fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
