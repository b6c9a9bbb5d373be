//! A stand-in for NVIDIA's libraries, so that programs which use GPUs run where there is none.
//!
//! The shared library (`libfake_nvidia.so`) exports the C functions of NVML, the CUDA driver, NVRTC and cuBLAS that our programs call
//! through `nvml-wrapper` and `cudarc`. What it shows is scripted by one JSON file, [`FakeNvidia`], that the variable [`VARIABLE`] names and that is
//! read again at every call: a test changes it while programs run. Without the variable the machine is one whose driver is not loaded.
//!
//! Device memory is memory of the host, a dozen kernels are known by name, and streams keep their order without a device behind
//! them. This shows that our sequence of calls and our answers to errors are right. It does not show that a kernel compiles, that it is fast, or
//! that a real driver behaves the same.
//!
//! The Rust library writes the file and makes a folder in which programs find the shared library under NVIDIA's names: [`FakeMachine`].

mod c_interface;
mod copy_fault;
mod cublas;
mod cuda;
mod machine;
mod nvml;
mod nvrtc;
pub mod process;
mod state;
mod usage;

pub use copy_fault::{FakeCopies, FakeCopyFault, FakeTrouble};
pub use machine::{FakeMachine, libraries_beside};
pub use state::{FakeGpu, FakeMig, FakeNvidia, NvmlFault, VARIABLE};
