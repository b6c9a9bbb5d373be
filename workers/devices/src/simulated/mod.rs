//! A GPU without hardware: its numbers follow the work it is given, and its faults are injected.
//!
//! [`SimulatedGpu`] is the [`Device`](crate::Device); [`SimulatedOptions`] say what it is; [`SimulatedKnobs`] break it while it runs. It is
//! deterministic: time is tokio's (which can be paused), and there are no threads and no random numbers. It computes nothing: how long work
//! takes is the executor's affair, scaled by [`Device::speed`](crate::Device::speed). Its memory for data that stays between tasks holds real
//! bytes, and copies to and from it take the time that its links need. Only where the options ask for [`Sleeper::Precise`] does the end of work
//! and copies follow the kernel's clock, and are the bytes of large copies moved by other threads.

mod gpu;
mod knobs;
mod links;
mod memory;
mod options;
mod physics;
mod sleeper;
mod state;

pub use gpu::SimulatedGpu;
pub use knobs::SimulatedKnobs;
pub use links::LinkGroups;
pub use options::{LinkSpeed, SimulatedOptions, Thermals};
pub use sleeper::Sleeper;
