//! The yardstick: the same kernel in a loop of cudarc calls, with nothing of the fleet.

use std::{sync::Arc, time::Instant};

use cudarc::{
    driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg},
    nvrtc::compile_ptx,
};

use crate::{Fault, bench::Bench, speed::COUNT};

const CODE: &str = r#"extern "C" __global__ void saxpy(unsigned int n, float a, const float *x, float *y)
{
    unsigned int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"#;

/// Milliseconds of each of `count` rounds.
pub async fn each_ms(_: &Bench, count: usize) -> Result<Vec<f64>, Fault> {
    tokio::task::spawn_blocking(move || rounds(count)).await?
}

/// Rounds a second.
pub async fn per_second(bench: &Bench, count: usize) -> Result<f64, Fault> {
    let took_ms: f64 = each_ms(bench, count).await?.iter().sum();
    Ok(count as f64 / took_ms * 1e3)
}

fn rounds(count: usize) -> Result<Vec<f64>, Fault> {
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let saxpy = context.load_module(compile_ptx(CODE)?)?.load_function("saxpy")?;
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

/// There, the kernel, and back.
#[expect(unsafe_code, reason = "a kernel's launch is")]
fn one(stream: &Arc<CudaStream>, saxpy: &CudaFunction, numbers: &[f32]) -> Result<(), Fault> {
    let (x, mut y) = (stream.clone_htod(numbers)?, stream.clone_htod(numbers)?);
    let count = COUNT as u32;
    let mut launch = stream.launch_builder(saxpy);
    launch.arg(&count).arg(&2.0_f32).arg(&x).arg(&mut y);
    // SAFETY: the arguments are those of the kernel above, and the buffers have `count` numbers.
    unsafe { launch.launch(LaunchConfig { grid_dim: (4, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 }) }?;
    let back = stream.clone_dtoh(&y)?;
    stream.synchronize()?;
    if back[0] == 3.0 { Ok(()) } else { Err(format!("the bare loop computes {}", back[0]).into()) }
}
