//! Tensors in payloads and results.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TensorShape;
use crate::{GpuId, Json, TensorName};

/// The key that makes an object of a payload a reference to a tensor.
const KEY: &str = "tensor";

/// What a payload has in the place of a tensor's content: `{"tensor": "name"}`. What a result says of a tensor that it kept may be used as it is: what is beside these two fields is passed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct TensorRef {
    /// Its name.
    pub tensor: TensorName,
    /// The version that is meant, and no other. Absent: the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

impl TensorRef {
    /// To the latest version.
    #[must_use]
    pub const fn latest(tensor: TensorName) -> Self {
        Self { tensor, version: None }
    }

    /// Every reference in a value, at any depth, each once, sorted. An object whose `tensor` is no name is none.
    #[must_use]
    pub fn all_in(value: &Json) -> Vec<Self> {
        let mut found = Vec::new();
        if value.as_str().contains("\"tensor\"")
            && let Ok(value) = value.to::<Value>()
        {
            collect(&value, &mut found);
        }
        found.sort();
        found.dedup();
        found
    }

    /// The reference that a value is. `None`: it is none.
    #[must_use]
    pub fn read(value: &Json) -> Option<Self> {
        value.as_str().contains("\"tensor\"").then(|| value.to().ok())?
    }

    /// The reference that a parsed value is. `None`: it is none.
    #[must_use]
    pub fn of(value: &Value) -> Option<Self> {
        value.get(KEY).and_then(|_| serde_json::from_value(value.clone()).ok())
    }
}

/// Values are read with a bound on their depth, so this goes no deeper.
fn collect(value: &Value, found: &mut Vec<TensorRef>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(fields) => match TensorRef::of(value) {
            Some(reference) => found.push(reference),
            None => fields.values().for_each(|value| collect(value, found)),
        },
        _ => {}
    }
}

/// What a result says of a tensor that the task has left on its GPU, in the place of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptTensor {
    /// Its name.
    pub tensor: TensorName,
    /// Its version.
    pub version: u64,
    /// The GPU that it is on.
    pub gpu_id: GpuId,
    /// What its numbers are.
    #[serde(flatten)]
    pub shape: TensorShape,
    /// Its length.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::DType;

    #[test]
    fn references_are_found_at_any_depth_and_each_once() {
        let payload =
            json!({"a": {"tensor": "x"}, "b": [{"tensor": "y", "version": 7}, {"tensor": "x"}], "tensor": 3, "c": {"tensor": "no name"}});
        let name = |name: &str| TensorName::new(name).unwrap();
        let expected = [TensorRef::latest(name("x")), TensorRef { tensor: name("y"), version: Some(7) }];
        assert_eq!(TensorRef::all_in(&payload.into()), expected);
        assert!(TensorRef::all_in(&json!({"matrix": [1, 2]}).into()).is_empty());
    }

    #[test]
    fn what_a_result_says_of_a_kept_tensor_is_a_reference_to_it() {
        let kept = KeptTensor {
            tensor: TensorName::new("x").unwrap(),
            version: 9,
            gpu_id: GpuId::new("sim-0").unwrap(),
            shape: TensorShape { dtype: DType::F32, shape: vec![2] },
            bytes: 8,
        };
        let written = Json::of(&kept);
        assert_eq!(written, json!({"tensor": "x", "version": 9, "gpu_id": "sim-0", "dtype": "f32", "shape": [2], "bytes": 8}));
        assert_eq!(TensorRef::read(&written), Some(TensorRef { tensor: kept.tensor, version: Some(9) }));
    }
}
