//! Which GPUs of this host are meant.

use devices::nvidia::{Found, Host, NvidiaError};
use protocol::{GpuId, config::Configuration, gpu_named};

use super::VISIBLE;
use crate::{fault::Fault, output};

/// The variable that decides what CUDA's numbers mean.
const ORDER: &str = "CUDA_DEVICE_ORDER";
/// A UUID is no shorter.
const UUID_CHARACTERS: usize = 36;

/// The GPUs that this host's workers serve: all that the caller's `CUDA_VISIBLE_DEVICES` shows, or with `gpu.multi_gpu.enabled: false` the first of them.
pub(super) async fn every_gpu(configuration: &Configuration) -> Result<Vec<Found>, Fault> {
    let (mut gpus, lost) = ask(configuration, |host| host.gpus()).await?;
    for error in &lost {
        output::note(&format!("a GPU is left out: {error}"));
    }
    if gpus.is_empty() {
        return Err(Fault::Failed("this host has no NVIDIA GPU that answers; `--simulated N` serves simulated ones".to_owned()));
    }
    if let Ok(visible) = std::env::var(VISIBLE) {
        gpus = only_visible(gpus, &visible, std::env::var(ORDER).is_ok_and(|order| order == "PCI_BUS_ID"))?;
    }
    if !configuration.gpu.multi_gpu.enabled {
        gpus.truncate(1);
    }
    Ok(gpus)
}

/// The GPU of this name. One that answers is found whatever its neighbours do; one that does not may come back.
pub(super) async fn gpu_of(configuration: &Configuration, name: &str) -> Result<Found, Fault> {
    let by_id = GpuId::new(name).ok();
    let gpus = ask(configuration, move |host| {
        let one = by_id.map(|id| host.gpu(&id)).transpose()?.flatten();
        one.map_or_else(|| host.gpus().map(|(gpus, _)| gpus), |one| Ok(vec![one]))
    });
    let gpus = gpus.await?;
    let ids = ids(&gpus);
    let wanted = gpu_named(name, &ids).map_err(|error| {
        // A whole id was right once: its GPU does not answer now.
        let whole = name.len() >= UUID_CHARACTERS;
        if whole { Fault::Unavailable(format!("GPU {name} does not answer: {error}")) } else { Fault::Usage(format!("--gpu: {error}")) }
    })?;
    let found = gpus.into_iter().find(|found| found.description.gpu_id == *wanted);
    found.ok_or_else(|| Fault::NotFound(format!("GPU {wanted} is gone")))
}

/// NVML may hang, so it is asked on a thread that may block.
async fn ask<T: Send + 'static>(
    configuration: &Configuration,
    question: impl FnOnce(&Host) -> Result<T, NvidiaError> + Send + 'static,
) -> Result<T, Fault> {
    if !configuration.gpu.enabled {
        return Err(Fault::Usage("gpu.enabled is false: no NVIDIA GPU is looked for; `--simulated N` serves simulated ones".to_owned()));
    }
    let asking = tokio::task::spawn_blocking(move || question(&Host::open()?)).await;
    let answer = asking.map_err(|error| Fault::Failed(format!("look for GPUs: {error}")))?;
    answer.map_err(|error| Fault::Failed(format!("{error}; `--simulated N` serves simulated GPUs")))
}

/// Those that the caller's `CUDA_VISIBLE_DEVICES` names: on a shared host the others belong to somebody else.
fn only_visible(gpus: Vec<Found>, visible: &str, same_order: bool) -> Result<Vec<Found>, Fault> {
    let refused = |what: String| Fault::Usage(format!("{VISIBLE}={visible}: {what}"));
    let names: Vec<&str> = visible.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Err(refused("it names no GPU: take it away, or name the GPUs to serve".to_owned()));
    }
    let numbered = names.iter().any(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let alike = gpus.windows(2).all(|two| two[0].description.name == two[1].description.name);
    if numbered && !alike && !same_order {
        let advice = format!(
            "the GPUs of this host differ, and CUDA numbers them in an order of its own: name them by UUID, or set {ORDER}=PCI_BUS_ID"
        );
        return Err(refused(advice));
    }
    let ids = ids(&gpus);
    let wanted: Result<Vec<&GpuId>, _> = names.into_iter().map(|name| gpu_named(name, &ids)).collect();
    let wanted = wanted.map_err(|error| refused(error.to_string()))?;
    Ok(gpus.into_iter().filter(|found| wanted.contains(&&found.description.gpu_id)).collect())
}

fn ids(gpus: &[Found]) -> Vec<GpuId> {
    gpus.iter().map(|found| found.description.gpu_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use protocol::{GpuDescription, gpu::Hardware, task::ComputeCapability};

    use super::*;

    fn host(names: &[&str]) -> Vec<Found> {
        let found = |(index, name): (u32, &&str)| Found {
            index,
            description: GpuDescription {
                gpu_id: GpuId::new(format!("GPU-{index}0000000-0000-4000-8000-000000000000")).unwrap(),
                name: (*name).to_owned(),
                memory_total_mb: 80_000,
                compute_capability: ComputeCapability { major: 9, minor: 0 },
                hardware: Hardware::default(),
            },
        };
        (0..).zip(names).map(found).collect()
    }

    fn shown(gpus: Vec<Found>, visible: &str, same_order: bool) -> Result<Vec<u32>, String> {
        let shown = only_visible(gpus, visible, same_order).map(|gpus| gpus.into_iter().map(|found| found.index).collect());
        shown.map_err(|fault| format!("{fault:?}"))
    }

    #[test]
    fn only_the_gpus_that_the_caller_may_use_are_served() {
        let three = || host(&["A", "A", "A"]);
        assert_eq!(shown(three(), "GPU-1, GPU-20000000-0000-4000-8000-000000000000", false), Ok(vec![1, 2]));
        assert_eq!(shown(three(), "2,0", false), Ok(vec![0, 2]));
        assert!(shown(three(), "3", false).unwrap_err().contains("CUDA_VISIBLE_DEVICES=3"));
        assert!(shown(three(), "", false).unwrap_err().contains("names no GPU"));
    }

    #[test]
    fn numbers_count_only_where_cuda_counts_as_we_do() {
        let mixed = || host(&["fast", "slow"]);
        assert!(shown(mixed(), "1", false).unwrap_err().contains("CUDA_DEVICE_ORDER=PCI_BUS_ID"));
        assert_eq!(shown(mixed(), "1", true), Ok(vec![1]));
        assert_eq!(shown(mixed(), "GPU-0", false), Ok(vec![0]));
    }
}
