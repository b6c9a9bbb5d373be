//! The NVIDIA GPUs of this host, and the libraries that work on them needs.

use devices::nvidia::{Found, Host, NvidiaError, libraries};
use gpu_worker::GpuLock;
use protocol::config::Configuration;

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
            findings.extend(found.iter().map(|gpu| described(configuration, gpu)));
            findings.extend(lost.iter().map(|error| Finding::bad("GPU", format!("{error}; see `nvidia-smi` and the kernel's log"))));
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
    if let Some(whole) = &description.hardware.mig_of {
        parts.push(format!("a MIG instance of {whole}"));
    }
    parts.extend(description.hardware.links.iter().map(way));
    if let Some(holder) = GpuLock::holder(&configuration.gpu.lock_folder, &description.gpu_id) {
        parts.push(format!("served by {holder}"));
    }
    Finding::good(format!("GPU {} {}", gpu.index, description.gpu_id), parts.join(", "))
}
