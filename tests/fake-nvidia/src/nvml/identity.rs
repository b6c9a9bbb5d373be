//! Who a GPU is: what a GPU in trouble still answers.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlPciInfo_t, nvmlReturn_t};

use super::{About, GPU_IS_LOST, NOT_SUPPORTED, ask, put, put_text};
use crate::{c_interface::characters, state::FakeGpu};

/// The vendor's and the product's number of an H100, as `pciDeviceId` holds them.
const PCI_DEVICE: c_uint = 0x2330_10de;

/// The UUID, of a GPU or of a MIG instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
    // SAFETY: the caller gives a buffer of this length, or null.
    ask("nvmlDeviceGetUUID", device, About::Identity, |_, part| unsafe { put_text(uuid, length, part.uuid()) })
}

/// The product's name; that of a MIG instance ends with its profile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
    // SAFETY: the caller gives a buffer of this length, or null.
    ask("nvmlDeviceGetName", device, About::Identity, |_, part| unsafe { put_text(name, length, &part.name()) })
}

/// The GPU's place in the script; that of a MIG instance is its place in the GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> nvmlReturn_t {
    ask("nvmlDeviceGetIndex", device, About::Identity, |script, part| {
        let place = match part.instance {
            Some(instance) => part.gpu.mig.iter().position(|other| other.uuid == instance.uuid),
            None => script.machine.gpus.iter().position(|other| other.uuid == part.gpu.uuid),
        };
        let place = place.and_then(|place| u32::try_from(place).ok()).ok_or(GPU_IS_LOST)?;
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(index, place) }
    })
}

/// The number in `/dev/nvidia<number>`: here the same as the index. A MIG instance has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, number: *mut c_uint) -> nvmlReturn_t {
    let of_gpu = ask("nvmlDeviceGetMinorNumber", device, About::Identity, |_, part| part.instance.map_or(Ok(()), |_| Err(NOT_SUPPORTED)));
    // SAFETY: the caller's word.
    if of_gpu == 0 { unsafe { nvmlDeviceGetIndex(device, number) } } else { of_gpu }
}

/// Major and minor compute capability.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) -> nvmlReturn_t {
    ask("nvmlDeviceGetCudaComputeCapability", device, About::Identity, |_, part| {
        let number = |part: u32| c_int::try_from(part).unwrap_or(c_int::MAX);
        // SAFETY: the caller gives places for the numbers, or null.
        unsafe {
            put(major, number(part.gpu.compute_capability.0))?;
            put(minor, number(part.gpu.compute_capability.1))
        }
    })
}

/// Where the GPU sits on the bus; a MIG instance sits where its GPU sits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, info: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    // SAFETY: the caller gives a place for the struct, or null.
    ask("nvmlDeviceGetPciInfo_v3", device, About::Identity, |_, part| unsafe { put(info, pci_info(part.gpu)) })
}

/// A bus id that cannot be read has zeros for its numbers.
pub(super) fn pci_info(gpu: &FakeGpu) -> nvmlPciInfo_t {
    let mut numbers = gpu.pci_bus_id.split([':', '.']).map(|digits| c_uint::from_str_radix(digits, 16).unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let (domain, bus, slot) = (next(), next(), next());
    nvmlPciInfo_t {
        busIdLegacy: characters(&format!("{domain:04X}:{bus:02X}:{slot:02X}.0")),
        domain,
        bus,
        device: slot,
        pciDeviceId: PCI_DEVICE,
        pciSubSystemId: 0,
        busId: characters(&gpu.pci_bus_id),
    }
}
