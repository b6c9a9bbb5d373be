//! The yardstick: the same kernel in a loop of cudarc calls, with nothing of the fleet.

use std::{ffi::CString, sync::Arc, time::Instant};

use cudarc::{
    driver::{self, CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg},
    nvrtc::{Ptx, result, sys},
};
use protocol::task::ComputeCapability;

use crate::{Fault, bench::Bench, speed::COUNT, work::SAXPY};

/// Milliseconds of each of `count` rounds.
pub async fn each_ms(bench: &Bench, count: usize) -> Result<Vec<f64>, Fault> {
    let capability = bench.found().await?.description.compute_capability;
    tokio::task::spawn_blocking(move || rounds(count, capability)).await?
}

/// Rounds a second.
pub async fn per_second(bench: &Bench, count: usize) -> Result<f64, Fault> {
    let took_ms: f64 = each_ms(bench, count).await?.iter().sum();
    Ok(count as f64 / took_ms * 1e3)
}

/// The numbers of the small kernel, as the GPU has them.
pub fn small_bytes() -> Vec<u8> {
    [1.0_f32; COUNT].iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// As fast as CUDA goes: it spins while it waits, whatever a fleet in this process asked for before, and does without cudarc's tracking of events, as the fleet does. The process sees one GPU: it
/// is CUDA's first.
#[expect(unsafe_code, reason = "a flag that cudarc sets only with newer drivers, and one that is unsafe to clear")]
pub fn context() -> Result<Arc<CudaContext>, Fault> {
    driver::result::init()?;
    let (device, spins) = (driver::result::device::get(0)?, driver::sys::CUctx_flags::CU_CTX_SCHED_SPIN);
    // SAFETY: the device is one that the driver just gave; the flag is one that the call takes.
    unsafe { driver::sys::cuDevicePrimaryCtxSetFlags_v2(device, spins as u32) }.result()?;
    let context = CudaContext::new(0)?;
    // SAFETY: there is one stream.
    unsafe { context.disable_event_tracking() };
    Ok(context)
}

fn rounds(count: usize, capability: ComputeCapability) -> Result<Vec<f64>, Fault> {
    let context = context()?;
    let stream = context.new_stream()?;
    let saxpy = context.load_module(Ptx::from_binary(machine_code(capability)?))?.load_function("saxpy")?;
    let numbers = vec![1.0_f32; COUNT];
    one(&stream, &saxpy, &numbers)?;
    let mut took_ms = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        one(&stream, &saxpy, &numbers)?;
        took_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took_ms)
}

/// Not PTX: a driver that is older than the compiler refuses its PTX.
#[expect(unsafe_code, reason = "cudarc has no safe way to machine code")]
fn machine_code(capability: ComputeCapability) -> Result<Vec<u8>, Fault> {
    let program = result::create_program(&CString::new(SAXPY)?, None)?;
    let options = [format!("--gpu-architecture=sm_{}{}", capability.major, capability.minor)];
    let mut bytes = 0;
    // SAFETY: the program is alive until the end; the last call writes as many bytes as the one before said. A failure ends this process, and the program with it.
    unsafe {
        result::compile_program(program, &options)?;
        sys::nvrtcGetCUBINSize(program, &raw mut bytes).result()?;
        let mut code = vec![0_u8; bytes];
        sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        result::destroy_program(program)?;
        Ok(code)
    }
}

/// There, the kernel, and back.
#[expect(unsafe_code, reason = "a kernel's launch is")]
fn one(stream: &Arc<CudaStream>, saxpy: &CudaFunction, numbers: &[f32]) -> Result<(), Fault> {
    let (x, mut y) = (stream.clone_htod(numbers)?, stream.clone_htod(numbers)?);
    let count = COUNT as u32;
    let mut launch = stream.launch_builder(saxpy);
    launch.arg(&count).arg(&2.0_f32).arg(&x).arg(&mut y);
    // SAFETY: the arguments are those of the kernel, and the buffers have `count` numbers.
    unsafe { launch.launch(LaunchConfig { grid_dim: (4, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 }) }?;
    let back = stream.clone_dtoh(&y)?;
    stream.synchronize()?;
    if back[0] == 3.0 { Ok(()) } else { Err(format!("the bare loop computes {}", back[0]).into()) }
}
