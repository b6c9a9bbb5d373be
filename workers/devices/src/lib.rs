//! What a GPU is, behind one trait.
//!
//! [`Device`] is what a worker and its executors see. [`simulated`] is a GPU without hardware whose numbers follow the work it is given.

mod device;
pub mod simulated;

pub use device::{Device, OutOfMemory, Use, WorkOn};
pub use simulated::{SimulatedGpu, SimulatedKnobs, SimulatedOptions};
