//! NVIDIA GPUs: NVML for what they are and do, CUDA for work on them. Both are loaded at run time; the same program runs without them.
//!
//! [`host`] finds the GPUs; [`NvidiaGpu`] is the [`Device`](crate::Device) of one of them in this process, with [`cuda`] for its work; [`libraries`] says what is
//! installed and what is missing.

mod account;
mod blame;
pub mod cuda;
mod error;
mod gpu;
pub mod host;
mod leaving;
pub mod libraries;
mod sampler;
mod topology;
pub mod xid;

pub use error::NvidiaError;
pub use gpu::{NvidiaGpu, NvidiaOptions};
pub use host::{Found, Host};
pub use leaving::leave;
