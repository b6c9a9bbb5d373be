//! MIG: a GPU in parts. A GPU with instances in the script is in MIG mode; the script can say so also of one without.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};

use super::{About, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, ask, ask_gpu, handles, put, values};
use crate::state::FakeMig;

/// The instances that one GPU can be parted into.
const INSTANCES: c_uint = 7;

values! {
    /// Zero outside of MIG mode.
    nvmlDeviceGetMaxMigDeviceCount: c_uint = |gpu| if gpu.is_in_mig_mode() { INSTANCES } else { 0 };
}

/// Whether MIG mode is enabled, now and after the next reset.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetMigMode", device, |gpu| {
        let enabled = c_uint::from(gpu.is_in_mig_mode());
        // SAFETY: the caller gives places for the modes, or null.
        unsafe {
            put(current, enabled)?;
            put(pending, enabled)
        }
    })
}

/// The instance at this place of a GPU. Places from the last instance to the most there can be are empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    instance: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetMigDeviceHandleByIndex", device, |gpu| {
        if !gpu.is_in_mig_mode() {
            return Err(NOT_SUPPORTED);
        }
        let found = gpu.mig.get(index as usize).ok_or(if index < INSTANCES { NOT_FOUND } else { INVALID_ARGUMENT })?;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(instance, handles::handle(&found.uuid)) }
    })
}

/// Whether a handle stands for an instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is_instance: *mut c_uint) -> nvmlReturn_t {
    ask("nvmlDeviceIsMigDeviceHandle", device, About::Identity, |_, part| {
        // SAFETY: the caller gives a place for the answer, or null.
        unsafe { put(is_instance, c_uint::from(part.instance.is_some())) }
    })
}

/// The GPU of an instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance: nvmlDevice_t, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", instance, About::Identity, |_, part| {
        part.instance.ok_or(INVALID_ARGUMENT)?;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(device, handles::handle(&part.gpu.uuid)) }
    })
}

/// One more than the instance's place: NVIDIA counts GPU instances from one where there is more than one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    ask("nvmlDeviceGetGpuInstanceId", device, About::Identity, |_, part| {
        let instance = part.instance.ok_or(NOT_SUPPORTED)?;
        let before = part.gpu.mig.iter().take_while(|other: &&FakeMig| other.uuid != instance.uuid).count();
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(id, u32::try_from(before + 1).unwrap_or(u32::MAX)) }
    })
}

/// Always zero: a GPU instance here has one compute instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    ask("nvmlDeviceGetComputeInstanceId", device, About::Identity, |_, part| {
        part.instance.ok_or(NOT_SUPPORTED)?;
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(id, 0) }
    })
}
