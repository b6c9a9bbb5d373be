//! Tensors as nested JSON lists, in both directions.

use bytes::Bytes;
use half::{bf16, f16};
use protocol::{DType, Json};
use serde::Serialize;
use serde_json::{Number, Value};

use super::tensor::{Data, Element, Tensor, words};
use crate::cuda::Finite;

/// Deepest nesting: more dimensions than any model has.
const DEPTH_MAX: usize = 16;
/// Most numbers that are written as JSON: more are asked for as segments.
pub(super) const WRITTEN_MAX: usize = 4_000_000;

/// A tensor out of nested lists; a number by itself has no dimensions.
///
/// # Errors
/// What does not fit, as the rest of a sentence that begins with the field.
pub(super) fn read(json: &Json, element: Element) -> Result<Tensor, String> {
    let value: Value = json.to().map_err(|_| "holds a number that no type can hold".to_owned())?;
    let mut shape = Vec::new();
    let mut inner = &value;
    while let Value::Array(list) = inner {
        shape.push(list.len());
        if shape.len() > DEPTH_MAX {
            return Err(format!("is nested more than {DEPTH_MAX} deep"));
        }
        match list.first() {
            Some(first) => inner = first,
            None => break,
        }
    }
    match element {
        Element::Text => {
            let mut texts = Vec::new();
            walk(&value, &shape, &mut |leaf| {
                texts.push(leaf.as_str().ok_or_else(|| format!("must hold texts, and holds {}", brief(leaf)))?.to_owned());
                Ok(())
            })?;
            Ok(Tensor { shape, data: Data::Texts(texts) })
        }
        Element::Number(dtype) => {
            let mut bytes = Vec::new();
            walk(&value, &shape, &mut |leaf| {
                push(leaf, dtype, &mut bytes).ok_or_else(|| format!("must hold numbers of {}, and holds {}", dtype.name(), brief(leaf)))
            })?;
            Ok(Tensor { shape, data: Data::Numbers(dtype, bytes.into()) })
        }
    }
}

fn brief(value: &Value) -> String {
    Json::of(value).in_brief()
}

/// Each leaf, in order; a list of another length than its neighbours is refused.
fn walk(value: &Value, shape: &[usize], take: &mut impl FnMut(&Value) -> Result<(), String>) -> Result<(), String> {
    match (value, shape) {
        (Value::Array(list), [length, inner @ ..]) if list.len() == *length => list.iter().try_for_each(|value| walk(value, inner, take)),
        (Value::Array(_), _) | (_, [_, ..]) => Err("must be lists of the same lengths: its rows differ".to_owned()),
        (leaf, []) => take(leaf),
    }
}

fn push(leaf: &Value, dtype: DType, bytes: &mut Vec<u8>) -> Option<()> {
    let float = || leaf.as_f64();
    let signed = || leaf.as_i64();
    let unsigned = || leaf.as_u64();
    match dtype {
        DType::Bool => bytes.push(u8::from(leaf.as_bool()?)),
        DType::I8 => bytes.extend(i8::try_from(signed()?).ok()?.to_le_bytes()),
        DType::I16 => bytes.extend(i16::try_from(signed()?).ok()?.to_le_bytes()),
        DType::I32 => bytes.extend(i32::try_from(signed()?).ok()?.to_le_bytes()),
        DType::I64 => bytes.extend(signed()?.to_le_bytes()),
        DType::U8 => bytes.push(u8::try_from(unsigned()?).ok()?),
        DType::U16 => bytes.extend(u16::try_from(unsigned()?).ok()?.to_le_bytes()),
        DType::U32 => bytes.extend(u32::try_from(unsigned()?).ok()?.to_le_bytes()),
        DType::U64 => bytes.extend(unsigned()?.to_le_bytes()),
        DType::F16 => bytes.extend(f16::from_f64(float()?).to_le_bytes()),
        DType::BF16 => bytes.extend(bf16::from_f64(float()?).to_le_bytes()),
        DType::F32 => bytes.extend((float()? as f32).to_le_bytes()),
        DType::F64 => bytes.extend(float()?.to_le_bytes()),
    }
    Some(())
}

/// A tensor as nested lists. JSON has no infinities and no NaN: they are written as `null`.
pub(super) fn written(tensor: &Tensor) -> Json {
    let leaves = match &tensor.data {
        Data::Texts(texts) => texts.iter().map(Json::of).collect(),
        Data::Numbers(dtype, bytes) => numbers(*dtype, bytes),
    };
    let mut text = String::new();
    nest(&mut text, &tensor.shape, &mut leaves.iter());
    Json::parse(text).expect("lists of JSON values are a JSON value")
}

fn nest<'a>(text: &mut String, shape: &[usize], leaves: &mut impl Iterator<Item = &'a Json>) {
    let [length, inner @ ..] = shape else {
        text.push_str(leaves.next().map_or("null", Json::as_str));
        return;
    };
    text.push('[');
    for at in 0..*length {
        if at > 0 {
            text.push(',');
        }
        nest(text, inner, leaves);
    }
    text.push(']');
}

fn numbers(dtype: DType, bytes: &Bytes) -> Vec<Json> {
    fn each<T: Serialize, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<Json> {
        words(bytes).map(|word| Json::of(&number(word))).collect()
    }
    match dtype {
        DType::Bool => each(bytes, |[byte]: [u8; 1]| byte != 0),
        DType::I8 => each(bytes, |word| Number::from(i8::from_le_bytes(word))),
        DType::I16 => each(bytes, |word| Number::from(i16::from_le_bytes(word))),
        DType::I32 => each(bytes, |word| Number::from(i32::from_le_bytes(word))),
        DType::I64 => each(bytes, |word| Number::from(i64::from_le_bytes(word))),
        DType::U8 => each(bytes, |word| Number::from(u8::from_le_bytes(word))),
        DType::U16 => each(bytes, |word| Number::from(u16::from_le_bytes(word))),
        DType::U32 => each(bytes, |word| Number::from(u32::from_le_bytes(word))),
        DType::U64 => each(bytes, |word| Number::from(u64::from_le_bytes(word))),
        DType::F16 => each(bytes, |word| Finite(f16::from_le_bytes(word).to_f32())),
        DType::BF16 => each(bytes, |word| Finite(bf16::from_le_bytes(word).to_f32())),
        DType::F32 => each(bytes, |word| Finite(f32::from_le_bytes(word))),
        DType::F64 => each(bytes, |word| Finite(f64::from_le_bytes(word))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: [DType; 13] = [
        DType::Bool,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
    ];

    #[test]
    fn numbers_of_every_type_come_back_as_they_went() {
        for dtype in ALL {
            let list = match dtype {
                DType::Bool => json!([[true, false], [false, true]]),
                DType::I64 => json!([[i64::MIN, 0], [1, i64::MAX]]),
                DType::U64 => json!([[u64::MAX, 0], [1, 2]]),
                DType::F16 | DType::BF16 | DType::F32 | DType::F64 => json!([[0.5, -1.5], [0.0, 3.0]]),
                _ => json!([[1, 0], [3, 4]]),
            };
            let tensor = read(&list.clone().into(), Element::Number(dtype)).unwrap();
            assert_eq!((tensor.shape.as_slice(), tensor.bytes()), ([2, 2].as_slice(), 4 * dtype.size()), "{}", dtype.name());
            assert_eq!(written(&tensor), list, "{}", dtype.name());
        }
        let texts = json!([["a", "ö"], ["", "\"quoted\""]]);
        assert_eq!(written(&read(&texts.clone().into(), Element::Text).unwrap()), texts);
    }

    #[test]
    fn lists_that_are_no_tensor_are_refused() {
        let refused = |value: Value, dtype| read(&value.into(), Element::Number(dtype)).unwrap_err();
        for uneven in [json!([[1, 2], [3]]), json!([[1], 2]), json!([1, [2]]), json!([[], [1]])] {
            assert!(refused(uneven.clone(), DType::F32).contains("rows differ"), "{uneven}");
        }
        assert_eq!(refused(json!([1, 300]), DType::U8), "must hold numbers of u8, and holds 300");
        assert_eq!(refused(json!([1.5]), DType::I32), "must hold numbers of i32, and holds 1.5");
        assert_eq!(refused(json!(["a"]), DType::F32), "must hold numbers of f32, and holds \"a\"");
        let deep = (0..20).fold(json!(1), |inner, _| json!([inner]));
        assert!(refused(deep, DType::F32).contains("nested more than"));
    }

    #[test]
    fn a_number_has_no_dimensions_and_an_empty_list_has_one() {
        let shape = |value: Value| read(&value.into(), Element::Number(DType::F32)).unwrap().shape;
        assert_eq!(shape(json!(2)), Vec::<usize>::new());
        assert_eq!(shape(json!([])), [0]);
        assert_eq!(shape(json!([[], []])), [2, 0]);
    }

    #[test]
    fn what_json_has_no_word_for_is_null() {
        let bytes: Vec<u8> = [f32::NAN, f32::INFINITY, 1.0].into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(written(&Tensor::numbers(DType::F32, vec![3], bytes)), json!([null, null, 1.0]));
    }
}
