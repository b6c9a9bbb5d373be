//! How GPUs reach one another: PCIe, peer access, NVLink.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEnableState_t, nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_NVLINK as OVER_NVLINK,
    nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_UNKNOWN as CAPABILITIES, nvmlGpuP2PCapsIndex_t, nvmlGpuP2PStatus_t,
    nvmlGpuTopologyLevel_t, nvmlPciInfo_t, nvmlReturn_t,
};

use super::{About, Code, INVALID_ARGUMENT, NOT_SUPPORTED, answer, ask_gpu, handles, identity::pci_info, put, reached};
use crate::state::FakeGpu;

/// The links of one GPU of the newest kind.
const NVLINKS: usize = 18;
/// The bus id of the switch.
const SWITCH: &str = "00000000:C0:00.0";
const P2P_OK: nvmlGpuP2PStatus_t = 0;
const P2P_NOT_SUPPORTED: nvmlGpuP2PStatus_t = 5;
const SAME_BOARD: nvmlGpuTopologyLevel_t = 0;
const SAME_NODE: nvmlGpuTopologyLevel_t = 40;
const SAME_SYSTEM: nvmlGpuTopologyLevel_t = 50;

/// The GPU behind another handle, as a copy: two GPUs may be asked about in one call.
fn other(function: &str, device: nvmlDevice_t) -> Result<FakeGpu, Code> {
    let uuid = handles::uuid(device)?;
    let script = reached(function, &uuid, About::State)?;
    script.part(&uuid).map(|part| part.gpu.clone()).ok_or(INVALID_ARGUMENT)
}

/// Within one NUMA node, or across nodes; other distances are not scripted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTopologyCommonAncestor(
    device: nvmlDevice_t,
    device2: nvmlDevice_t,
    level: *mut nvmlGpuTopologyLevel_t,
) -> nvmlReturn_t {
    const NAME: &str = "nvmlDeviceGetTopologyCommonAncestor";
    ask_gpu(NAME, device, |gpu| {
        let other = other(NAME, device2)?;
        let distance = match () {
            () if other.uuid == gpu.uuid => SAME_BOARD,
            () if other.numa_node == gpu.numa_node => SAME_NODE,
            () => SAME_SYSTEM,
        };
        // SAFETY: the caller gives a place for the level, or null.
        unsafe { put(level, distance) }
    })
}

/// Whether the first GPU can do this with the second one's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetP2PStatus(
    device: nvmlDevice_t,
    device2: nvmlDevice_t,
    capability: nvmlGpuP2PCapsIndex_t,
    status: *mut nvmlGpuP2PStatus_t,
) -> nvmlReturn_t {
    const NAME: &str = "nvmlDeviceGetP2PStatus";
    ask_gpu(NAME, device, |gpu| {
        if capability >= CAPABILITIES {
            return Err(INVALID_ARGUMENT);
        }
        let other = other(NAME, device2)?;
        let can = match capability {
            OVER_NVLINK => gpu.nvlinks.contains(&other.uuid) || gpu.nvswitch_links.min(other.nvswitch_links) > 0,
            _ => gpu.peers.contains(&other.uuid),
        };
        // SAFETY: the caller gives a place for the status, or null.
        unsafe { put(status, if can { P2P_OK } else { P2P_NOT_SUPPORTED }) }
    })
}

/// What is at the other end of a link.
enum FarEnd {
    /// The GPU with this UUID.
    Gpu(String),
    Switch,
}

/// What is at the other end of a link, or nothing when the link is not in use: those to GPUs come first. A GPU with no link at all does not support the question.
fn far_end(gpu: &FakeGpu, link: c_uint) -> Result<Option<FarEnd>, Code> {
    let (link, direct) = (link as usize, gpu.nvlinks.len());
    match link {
        NVLINKS.. => Err(INVALID_ARGUMENT),
        _ if direct + gpu.nvswitch_links == 0 => Err(NOT_SUPPORTED),
        _ if link < direct => Ok(Some(FarEnd::Gpu(gpu.nvlinks[link].clone()))),
        _ if link < direct + gpu.nvswitch_links => Ok(Some(FarEnd::Switch)),
        _ => Ok(None),
    }
}

/// Whether a link is active.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(device: nvmlDevice_t, link: c_uint, active: *mut nvmlEnableState_t) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetNvLinkState", device, |gpu| {
        let state = nvmlEnableState_t::from(far_end(gpu, link)?.is_some());
        // SAFETY: the caller gives a place for the state, or null.
        unsafe { put(active, state) }
    })
}

/// The bus id of the GPU, or of the switch, at the other end of an active link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: nvmlDevice_t, link: c_uint, info: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    answer(|| {
        let mut far = None;
        let code = ask_gpu("nvmlDeviceGetNvLinkRemotePciInfo_v2", device, |gpu| {
            far = far_end(gpu, link)?;
            Ok(())
        });
        if code != 0 {
            return Err(code);
        }
        let script = super::script()?;
        let far = match far.ok_or(NOT_SUPPORTED)? {
            FarEnd::Gpu(uuid) => pci_info(script.part(&uuid).ok_or(NOT_SUPPORTED)?.gpu),
            FarEnd::Switch => pci_info(&FakeGpu { pci_bus_id: SWITCH.to_owned(), ..FakeGpu::default() }),
        };
        // SAFETY: the caller gives a place for the struct, or null.
        unsafe { put(info, far) }
    })
}

/// NVLink 4 for all active links.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, link: c_uint, version: *mut c_uint) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetNvLinkVersion", device, |gpu| {
        far_end(gpu, link)?.ok_or(NOT_SUPPORTED)?;
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(version, 4) }
    })
}
