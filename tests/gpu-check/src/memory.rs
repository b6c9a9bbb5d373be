//! A GPU that has not enough memory.

use devices::{CudaError, Device, Use, nvidia::cuda::Lane};

use crate::{
    bench::Bench,
    finding::{Checked, Finding},
};

pub async fn out_of_memory(bench: &Bench) -> Finding {
    let gpu = bench.open().await?;
    let cuda = gpu.cuda().ok_or("no CUDA")?;
    let memory = cuda.memory().await?;
    let too_much = memory.free as usize + (64 << 20);
    let refused = cuda.run(move |lane: &Lane| lane.zeros::<u8>(too_much).map(|_| ())).await;
    if !refused.as_ref().is_err_and(CudaError::is_out_of_memory) {
        return Err(format!("an allocation of more than is free gave {refused:?}").into());
    }
    let most = memory.free as usize / 10 * 9;
    cuda.run(move |lane: &Lane| lane.zeros::<u8>(most).map(|_| ())).await?;
    let wanted = Use { memory_mb: gpu.description().memory_total_mb * 95 / 100, compute_share: 1.0 };
    let accounted = gpu.begin(wanted).err().ok_or("a reservation above memory_threshold was taken")?;
    gpu.probe().await?;
    let after = cuda.memory().await?;
    Ok(Checked::Passed(format!(
        "asking for 64 MiB more than is free is refused, 90 % of it is given; {accounted}; afterwards {} of {} MB are free",
        after.free / 1_000_000,
        after.total / 1_000_000
    )))
}
