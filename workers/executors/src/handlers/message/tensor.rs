//! What a worker says to a handler of the tensors that a payload names.

use protocol::{TensorName, TensorShape};
use schemars::JsonSchema;
use serde::Serialize;

/// A tensor that a payload names (`{"tensor": "x"}`), and how to reach its bytes: by one of the two last fields. One without bytes has neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskTensor {
    /// Its name.
    pub tensor: TensorName,
    /// Its version. A reference without one means the highest that is listed.
    pub version: u64,
    /// What its numbers are.
    #[serde(flatten)]
    pub shape: TensorShape,
    /// Its length.
    pub bytes: u64,
    /// The handle by which CUDA opens its memory in another process (`cuIpcOpenMemHandle`), 64 bytes in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_ipc: Option<String>,
    /// Which of the message's file descriptors, from 0, is the memory that it is in, from the first byte on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<usize>,
}

#[cfg(test)]
mod tests {
    use protocol::DType;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tensor_is_told_with_one_way_to_it() {
        let tensor = TaskTensor {
            tensor: TensorName::new("x").unwrap(),
            version: 7,
            shape: TensorShape { dtype: DType::F32, shape: vec![2, 3] },
            bytes: 24,
            cuda_ipc: None,
            shared: Some(1),
        };
        let told = json!({"tensor": "x", "version": 7, "dtype": "f32", "shape": [2, 3], "bytes": 24, "shared": 1});
        assert_eq!(serde_json::to_value(tensor).unwrap(), told);
    }
}
