//! The ways between the GPUs of a host.

use std::collections::BTreeMap;

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus, TopologyLevel},
};
use protocol::gpu::{GpuLink, LinkPath};

use super::host::Found;

/// More than any GPU has.
const NVLINKS_MAX: u32 = 36;

/// The GPU with its ways to the others.
pub(super) fn linked(nvml: &Nvml, one: Found) -> Found {
    let indices = 0..nvml.device_count().unwrap_or(0);
    let mut all: Vec<Found> = indices.flat_map(|index| super::host::describe(nvml, index)).flatten().collect();
    link(nvml, &mut all);
    all.into_iter().find(|found| found.description.gpu_id == one.description.gpu_id).unwrap_or(one)
}

/// Gives every whole GPU its ways to the others. Instances of a GPU in MIG mode have none: they cannot reach each other.
pub(super) fn link(nvml: &Nvml, found: &mut [Found]) {
    let whole: Vec<Found> = found.iter().filter(|one| one.description.hardware.mig_of.is_none()).cloned().collect();
    for one in found.iter_mut().filter(|one| one.description.hardware.mig_of.is_none()) {
        let Ok(device) = nvml.device_by_index(one.index) else { continue };
        let nvlinks = nvlinks(&device);
        let others = whole.iter().filter(|other| other.index != one.index);
        one.description.hardware.links = others.filter_map(|other| way(nvml, &device, &nvlinks, other)).collect();
    }
}

fn way(nvml: &Nvml, device: &Device<'_>, nvlinks: &Nvlinks, other: &Found) -> Option<GpuLink> {
    let to = nvml.device_by_index(other.index).ok()?;
    let bus_id = other.description.hardware.pcie.as_ref().map(|pcie| bus_key(&pcie.bus_id));
    let allowed = |index| matches!(device.p2p_status(&to, index), Ok(P2pStatus::Ok));
    let nvlinks = match bus_id.and_then(|bus_id| nvlinks.by_far_end.get(&bus_id)) {
        Some(direct) => *direct,
        // A switch is at the far end of every link: all of them lead to each GPU behind it.
        None if allowed(P2pCapabilitiesIndex::NvLink) => nvlinks.active,
        None => 0,
    };
    let path = match device.topology_common_ancestor(nvml.device_by_index(other.index).ok()?) {
        _ if nvlinks > 0 => LinkPath::Nvlink,
        Ok(TopologyLevel::Internal) => LinkPath::SameBoard,
        Ok(TopologyLevel::Single) => LinkPath::PcieSwitch,
        Ok(TopologyLevel::Multiple) => LinkPath::PcieSwitches,
        Ok(TopologyLevel::HostBridge) => LinkPath::HostBridge,
        Ok(TopologyLevel::Node) => LinkPath::NumaNode,
        Ok(TopologyLevel::System) | Err(_) => LinkPath::System,
    };
    let peer_access = allowed(P2pCapabilitiesIndex::Read) && allowed(P2pCapabilitiesIndex::Write);
    Some(GpuLink { gpu_id: other.description.gpu_id.clone(), path, nvlinks, peer_access })
}

/// The active NVLinks of one GPU.
#[derive(Default)]
struct Nvlinks {
    active: u32,
    /// By the address of what is at the other end: a GPU, or a switch.
    by_far_end: BTreeMap<String, u32>,
}

fn nvlinks(device: &Device<'_>) -> Nvlinks {
    let mut counted = Nvlinks::default();
    let links = (0..NVLINKS_MAX).map(|number| device.link_wrapper_for(number));
    for link in links.filter(|link| link.is_active().is_ok_and(|active| active)) {
        counted.active += 1;
        if let Ok(remote) = link.remote_pci_info() {
            *counted.by_far_end.entry(bus_key(&remote.bus_id)).or_insert(0) += 1;
        }
    }
    counted
}

/// Drivers write the domain with four or eight digits.
fn bus_key(bus_id: &str) -> String {
    bus_id.trim_start_matches('0').to_ascii_lowercase()
}
