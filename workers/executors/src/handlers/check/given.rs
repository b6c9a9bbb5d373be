//! Tensors that a handler is given to be tried.

use std::sync::Arc;

use devices::SharedMemory;
use protocol::{DType, TensorRef, TensorShape};

use crate::handlers::message::TaskTensor;

/// How many numbers each has.
const NUMBERS: u8 = 16;

/// A small tensor in shared memory for each reference: what the message says of them, and their memory.
///
/// # Errors
/// The host has no memory for them.
pub(super) fn given(references: &[TensorRef]) -> Result<(Vec<TaskTensor>, Vec<Arc<SharedMemory>>), String> {
    let bytes: Vec<u8> = (0..NUMBERS).flat_map(|number| f32::from(number).to_le_bytes()).collect();
    let made = references.iter().enumerate().map(|(number, reference)| {
        let memory = SharedMemory::allocate(bytes.len()).map_err(|error| format!("it cannot be given a tensor: {error}"))?;
        memory.write_at(0, &bytes);
        let tensor = TaskTensor {
            tensor: reference.tensor.clone(),
            version: reference.version.unwrap_or(1),
            shape: TensorShape { dtype: DType::F32, shape: vec![NUMBERS.into()] },
            bytes: bytes.len() as u64,
            cuda_ipc: None,
            shared: Some(number),
        };
        Ok::<_, String>((tensor, Arc::new(memory)))
    });
    let made: Vec<(TaskTensor, Arc<SharedMemory>)> = made.collect::<Result<_, String>>()?;
    Ok(made.into_iter().unzip())
}
