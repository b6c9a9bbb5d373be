//! Tensors that a payload names, on their way to a process that takes them where they lie.
//!
//! On a real GPU the process opens the memory itself, by CUDA's handle. Where nobody can (simulated GPUs, drivers without it) the bytes are copied once into shared memory, whose descriptor goes with the message.

use std::{fmt::Write, sync::Arc};

use devices::{Device, DeviceMemory, MemoryError, PeerHandle, SharedMemory, SharedPart};
use protocol::Json;
use tensors::Tensor;

use super::message::TaskTensor;
use crate::{Failure, RunTensors};

/// Most tensors of one message: what Linux takes of file descriptors in one call.
const TENSORS_MAX: usize = 253;

/// The tensors of one task's message.
#[derive(Debug, Clone, Default)]
pub(super) struct Handed {
    /// What the message says of them.
    pub(super) told: Vec<TaskTensor>,
    /// The memory whose descriptors go with it, in their order.
    pub(super) shared: Vec<Arc<SharedMemory>>,
    /// What has to stay until the run has ended.
    pub(super) held: Vec<Arc<Tensor>>,
}

/// Makes the inputs of a run ready for another process; `room` is how many bytes of JSON may say what they are. Without any it costs nothing. Dropped, it gives back what it has taken.
///
/// # Errors
/// A [`Failure`]: they are too many, or the host or the GPU could not do it.
pub(super) async fn hand_over(tensors: &RunTensors, device: &dyn Device, room: usize) -> Result<Handed, Failure> {
    let mut handed = Handed::default();
    for (_, tensor) in tensors.inputs() {
        // With a version and without one the payload may name the same.
        let about = tensor.about();
        if handed.told.iter().any(|known| (&known.tensor, known.version) == (&about.name, about.version)) {
            continue;
        }
        if handed.held.len() == TENSORS_MAX {
            return Err(Failure::invalid(
                "payload",
                format!("names more than {TENSORS_MAX} tensors, which is the most that a handler is given"),
            ));
        }
        let memory = device.memory().ok_or_else(|| Failure::transient("this GPU keeps no tensors"))?;
        handed.add(memory, tensor).await.map_err(|why| Failure::transient(cannot(tensor, &why)))?;
    }
    if !handed.told.is_empty() && Json::of(&handed.told).as_bytes().len() > room {
        return Err(Failure::invalid("payload", "is, with what is said of its tensors, larger than a message to a handler may be"));
    }
    Ok(handed)
}

fn cannot(tensor: &Tensor, why: &str) -> String {
    format!("the tensor {} cannot be given to the handler: {why}", tensor.about().name)
}

impl Handed {
    async fn add(&mut self, memory: &dyn DeviceMemory, tensor: &Arc<Tensor>) -> Result<(), String> {
        let about = tensor.about();
        let mut told = TaskTensor {
            tensor: about.name.clone(),
            version: about.version,
            shape: about.shape.clone(),
            bytes: about.bytes(),
            cuda_ipc: None,
            shared: None,
        };
        if told.bytes > 0 {
            match memory.export(tensor.buffer()) {
                Ok(handle) => told.cuda_ipc = Some(in_hexadecimal(&handle)),
                Err(MemoryError::Unsupported { .. }) => {
                    told.shared = Some(self.shared.len());
                    self.shared.push(copied(memory, tensor).await?);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        self.told.push(told);
        self.held.push(Arc::clone(tensor));
        Ok(())
    }
}

/// The bytes of a tensor in memory that can be handed over.
async fn copied(memory: &dyn DeviceMemory, tensor: &Tensor) -> Result<Arc<SharedMemory>, String> {
    let bytes = usize::try_from(tensor.about().bytes()).map_err(|_| "it is larger than this host's memory can be".to_owned())?;
    let shared = Arc::new(SharedMemory::allocate(bytes).map_err(|error| error.to_string())?);
    let part = SharedPart { memory: Arc::clone(&shared), range: 0..bytes };
    memory.read_to(tensor.buffer(), 0, part).await.map_err(|error| error.to_string())?;
    Ok(shared)
}

fn in_hexadecimal(handle: &PeerHandle) -> String {
    handle.0.iter().fold(String::with_capacity(2 * handle.0.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::fixture::tensor;

    #[tokio::test]
    async fn a_tensor_that_no_other_process_can_open_goes_in_shared_memory() {
        let device = crate::fixture::gpu();
        let mut handed = Handed::default();
        for (name, numbers) in [("x", &[1, 2, 3][..]), ("y", &[4])] {
            let tensor = tensor(&device, name, numbers).await;
            handed.add(device.memory().unwrap(), &tensor).await.unwrap();
        }
        let places: Vec<_> = handed.told.iter().map(|told| (told.tensor.as_str(), told.version, told.bytes, told.shared)).collect();
        assert_eq!(places, [("x", 7, 3, Some(0)), ("y", 7, 1, Some(1))]);
        let mut read = [0; 3];
        handed.shared[0].read_at(0, &mut read);
        assert_eq!((read, handed.shared[1].len(), handed.held.len()), ([1, 2, 3], 1, 2));
    }

    #[tokio::test]
    async fn a_run_without_tensors_hands_nothing_over() {
        let handed = hand_over(&RunTensors::none(), crate::fixture::gpu().as_ref(), 0).await.unwrap();
        assert!(handed.told.is_empty() && handed.shared.is_empty() && handed.held.is_empty());
    }

    #[test]
    fn a_handle_is_told_in_hexadecimal() {
        assert_eq!(in_hexadecimal(&PeerHandle(vec![0, 10, 255])), "000aff");
    }
}
