//! What a GPU is, behind one trait.
//!
//! [`Device`] is what a worker and its executors see. [`simulated`] is a GPU without hardware whose numbers follow the work it is given; [`nvidia`] is a real one.

mod device;
mod memory;
pub mod nvidia;
mod shared_memory;
pub mod simulated;

pub use device::{Consequence, Device, OutOfMemory, Trouble, Use, WorkOn};
pub use memory::{DeviceBuffer, DeviceMemory, HostBytes, MemoryError, PeerHandle, SharedPart};
pub use nvidia::{
    NvidiaGpu,
    cuda::{Cuda, CudaError},
};
pub use shared_memory::{SharedMemory, SharedMemoryError};
pub use simulated::{SimulatedGpu, SimulatedKnobs, SimulatedOptions, Sleeper};
