//! What a GPU is, behind one trait.
//!
//! [`Device`] is what a worker and its executors see. [`simulated`] is a GPU without hardware whose numbers follow the work it is given; [`nvidia`] is a real one.

mod device;
pub mod nvidia;
pub mod simulated;

pub use device::{Consequence, Device, OutOfMemory, Trouble, Use, WorkOn};
pub use nvidia::{
    NvidiaGpu,
    cuda::{Cuda, CudaError},
};
pub use simulated::{SimulatedGpu, SimulatedKnobs, SimulatedOptions, Sleeper};
