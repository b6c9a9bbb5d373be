//! Work on one GPU through the CUDA driver: lanes with a stream each, buffers, matrix products, kernels.
//!
//! [`Cuda`] owns this process's context on the GPU. A piece of work runs on a [`Lane`], which has its own thread and its own stream: CUDA calls block, and a blocked
//! runtime would stop heartbeats. All calls of CUDA's C interface are in this folder, each with the reason why it is sound.
//!
//! **A poisoned context.** After a fault such as an access outside of memory, CUDA answers every later call with the same error, for all streams, until the process
//! ends. Nothing here tries to go on: [`Cuda::lost`] says so, and the worker ends.

mod canary;
mod compile;
mod context;
mod error;
mod job;
mod kernel;
mod lane;
mod matmul;
mod memory;
mod trial;
mod version;
mod wanted;

pub use canary::Canary;
pub use compile::Source;
pub use context::{Cuda, Memory};
pub use error::CudaError;
pub use job::Ran;
pub use kernel::{Argument, Function, Grid, Module, Scalar, kernels_here};
pub use lane::{Buffer, Element, Lane};
pub use matmul::{Matrix, cublas_version};
pub use version::Version;

pub(in crate::nvidia) use memory::CudaMemory;
