//! The real `cudarc` against the fake CUDA driver.

#[path = "cuda/devices.rs"]
mod devices;
#[path = "cuda/errors.rs"]
mod errors;
use fake_nvidia::process as harness;
#[path = "cuda/kernels.rs"]
mod kernels;
#[path = "cuda/memory.rs"]
mod memory;
#[path = "cuda/streams.rs"]
mod streams;

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, sys::CUresult};

/// Kernels that the fake knows, and one that it does not.
const PTX: &str = "
.version 7.8
.target sm_80
.address_size 64
.visible .entry canary(.param .u64 out, .param .u32 seed, .param .u32 count) { ret; }
.visible .entry saxpy(.param .u32 n, .param .f32 a, .param .u64 x, .param .u64 y) { ret; }
.visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 out, .param .u32 n) { ret; }
.visible .entry scale_f64(.param .u64 data, .param .f64 factor, .param .u64 n) { ret; }
.visible .entry fill_i32(.param .u64 out, .param .s32 value, .param .u32 n) { ret; }
.visible .entry fault() { ret; }
.visible .entry assert_fails() { ret; }
.visible .entry spin() { ret; }
.visible .entry sleep_ms(.param .u32 ms) { ret; }
.visible .entry unknown(.param .u64 out) { ret; }
";

fn module(context: &Arc<CudaContext>) -> Arc<CudaModule> {
    context.load_module(PTX.into()).expect("a module")
}

fn function(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    module(context).load_function(name).expect("a kernel")
}

/// The code of a call that must fail.
fn code<T>(result: Result<T, DriverError>) -> CUresult {
    match result {
        Ok(_) => panic!("the call succeeded"),
        Err(DriverError(code)) => code,
    }
}
