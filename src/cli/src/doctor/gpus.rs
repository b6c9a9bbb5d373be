//! The NVIDIA GPUs of this host, and the libraries that work on them needs.

use std::collections::BTreeMap;

use devices::nvidia::{Found, Host, NvidiaError, libraries};
use gpu_host::GpuLock;
use protocol::{GpuId, config::Configuration};

use super::Finding;
use crate::gpus::way;

/// Looks at this host. One without NVIDIA's driver is in order: gateways and simulated GPUs need none.
pub(super) async fn look(configuration: &Configuration) -> Vec<Finding> {
    if !configuration.gpu.enabled {
        return Vec::new();
    }
    let configuration = configuration.clone();
    let looking = tokio::task::spawn_blocking(move || look_here(&configuration)).await;
    looking.unwrap_or_else(|error| vec![Finding::bad("GPUs of this host", format!("the look at them broke: {error}"))])
}

fn look_here(configuration: &Configuration) -> Vec<Finding> {
    let libraries = libraries::look();
    if let Err(NvidiaError::NoNvml(why)) = Host::open() {
        return vec![Finding::good("GPUs of this host", format!("no NVIDIA driver: workers here can only serve simulated ones ({why})"))];
    }
    let mut findings: Vec<Finding> = libraries.into_iter().map(library).collect();
    match Host::open().and_then(|host| host.gpus()) {
        Ok((found, lost)) => {
            findings.extend(parted(&found));
            findings.extend(found.iter().map(|gpu| described(configuration, gpu)));
            findings.extend(lost.iter().map(left_out));
        }
        Err(error) => findings.push(Finding::bad("GPUs of this host", error.to_string())),
    }
    findings
}

fn library(library: libraries::Library) -> Finding {
    match library.state {
        Ok(version) => Finding::good(library.name, version),
        Err(problem) => Finding::warning(library.name, format!("{problem}. Needed for {}", library.needed_for)),
    }
}

/// A GPU in MIG mode does nothing itself: its instances do.
fn parted(found: &[Found]) -> Vec<Finding> {
    let mut instances = BTreeMap::<(u32, &GpuId), usize>::new();
    for gpu in found {
        if let Some(whole) = &gpu.description.hardware.mig_of {
            *instances.entry((gpu.index, whole)).or_default() += 1;
        }
    }
    let shown = |((index, whole), count)| Finding::good(format!("GPU {index} {whole}"), format!("MIG mode on; instances: {count}"));
    instances.into_iter().map(shown).collect()
}

fn left_out(error: &NvidiaError) -> Finding {
    match error {
        // The host is in order: somebody has still to say how the GPU is parted.
        NvidiaError::NoInstance { .. } => Finding::warning("GPU", error.to_string()),
        _ => Finding::bad("GPU", format!("{error}; see `nvidia-smi` and the kernel's log")),
    }
}

fn described(configuration: &Configuration, gpu: &Found) -> Finding {
    let description = &gpu.description;
    let mut parts = vec![
        description.name.clone(),
        format!("{} MB", description.memory_total_mb),
        format!("compute capability {}", String::from(description.compute_capability)),
    ];
    if let Some(pcie) = &description.hardware.pcie {
        parts.push(format!("PCIe {}", pcie.bus_id));
    }
    parts.push(match &description.hardware.mig_of {
        Some(whole) => format!("a MIG instance of {whole}"),
        None => "MIG mode off".to_owned(),
    });
    parts.extend(description.hardware.links.iter().map(way));
    if let Some(holder) = GpuLock::holder(&configuration.gpu.lock_folder, &description.gpu_id) {
        parts.push(format!("served by {holder}"));
    }
    Finding::good(format!("GPU {} {}", gpu.index, description.gpu_id), parts.join(", "))
}
