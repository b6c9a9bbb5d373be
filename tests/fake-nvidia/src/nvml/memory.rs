//! A GPU's memory, and the processes that use it.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlProcessInfo_t,
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as VERSION_MISMATCH, nvmlReturn_enum_NVML_ERROR_NO_PERMISSION as NO_PERMISSION,
    nvmlReturn_t,
};

use super::{About, Code, INSUFFICIENT_SIZE, INVALID_ARGUMENT, ask, put};
use crate::{
    state::{Part, Script},
    usage,
};

/// "No instance" in the structs of NVML.
const NONE: c_uint = c_uint::MAX;

/// In MIG mode the whole GPU's memory is told to root alone: to nobody, here.
fn told(script: &Script, part: &Part<'_>) -> Result<usage::Memory, Code> {
    let is_parted = part.instance.is_none() && part.gpu.is_in_mig_mode();
    if is_parted { Err(NO_PERMISSION) } else { Ok(usage::memory(script, part)) }
}

/// Total, free and used bytes. The used ones contain what the fake CUDA processes of this machine hold.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, info: *mut nvmlMemory_t) -> nvmlReturn_t {
    ask("nvmlDeviceGetMemoryInfo", device, About::State, |script, part| {
        let memory = told(script, &part)?;
        // SAFETY: the caller gives a place for the struct, or null.
        unsafe { put(info, nvmlMemory_t { total: memory.total, free: memory.free, used: memory.total - memory.free }) }
    })
}

/// As the first version, with reserved bytes, of which there are none. The caller states which version of the struct it has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, info: *mut nvmlMemory_v2_t) -> nvmlReturn_t {
    ask("nvmlDeviceGetMemoryInfo_v2", device, About::State, |script, part| {
        // SAFETY: the caller gives a struct whose version it has set, or null.
        let version = unsafe { info.as_ref() }.ok_or(INVALID_ARGUMENT)?.version;
        if version as usize != size_of::<nvmlMemory_v2_t>() | 2 << 24 {
            return Err(VERSION_MISMATCH);
        }
        let memory = told(script, &part)?;
        let used = memory.total - memory.free;
        // SAFETY: not null, and the caller's word for the rest.
        unsafe { put(info, nvmlMemory_v2_t { version, total: memory.total, reserved: 0, free: memory.free, used }) }
    })
}

/// The fake CUDA processes that have opened this GPU. Without room for all it says how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    ask("nvmlDeviceGetComputeRunningProcesses_v3", device, About::State, |script, part| {
        let processes = usage::held(script, &part);
        let found = u32::try_from(processes.len()).unwrap_or(u32::MAX);
        // SAFETY: the caller gives a number, or null.
        let room = *unsafe { count.as_ref() }.ok_or(INVALID_ARGUMENT)?;
        // SAFETY: not null.
        unsafe { put(count, found) }?;
        if found > room || found > 0 && infos.is_null() {
            return Err(INSUFFICIENT_SIZE);
        }
        for (place, process) in processes.iter().enumerate() {
            let info = nvmlProcessInfo_t { pid: process.pid, usedGpuMemory: process.bytes, gpuInstanceId: NONE, computeInstanceId: NONE };
            // SAFETY: the caller has room for this many.
            unsafe { put(infos.add(place), info) }?;
        }
        Ok(())
    })
}
