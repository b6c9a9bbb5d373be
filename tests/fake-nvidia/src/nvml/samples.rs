//! How a GPU is doing: load, heat, power, clocks, errors.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEccCounterType_enum_NVML_VOLATILE_ECC as VOLATILE, nvmlEccCounterType_t, nvmlEnableState_t,
    nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_UNCORRECTED as UNCORRECTED, nvmlMemoryErrorType_t, nvmlPstates_t, nvmlReturn_t,
    nvmlUtilization_t,
};

use super::{INVALID_ARGUMENT, NOT_SUPPORTED, ask_gpu, put, values};

/// NVML's numbers of the clocks: graphics, SM, memory, video.
const CLOCKS: c_uint = 4;
const CLOCK_OF_MEMORY: c_uint = 2;
const MEMORY_CLOCK_MHZ: c_uint = 2_619;
const POWER_LIMIT_MILLIWATTS: c_uint = 700_000;

values! {
    /// Milliwatts.
    nvmlDeviceGetPowerUsage: c_uint = |gpu| gpu.power_milliwatts;
    /// Milliwatts: the same for all.
    nvmlDeviceGetEnforcedPowerLimit: c_uint = |_gpu| POWER_LIMIT_MILLIWATTS;
    /// Milliwatts: the same for all.
    nvmlDeviceGetPowerManagementLimit: c_uint = |_gpu| POWER_LIMIT_MILLIWATTS;
    /// The bits of why the clock is held down.
    nvmlDeviceGetCurrentClocksThrottleReasons: c_ulonglong = |gpu| gpu.throttle_reasons;
    /// The newer name of the same.
    nvmlDeviceGetCurrentClocksEventReasons: c_ulonglong = |gpu| gpu.throttle_reasons;
    /// Always enabled.
    nvmlDeviceGetPersistenceMode: nvmlEnableState_t = |_gpu| 1;
    /// P0 while it works, P8 while it is idle.
    nvmlDeviceGetPerformanceState: nvmlPstates_t = |gpu| if gpu.utilization_percent > 0 { 0 } else { 8 };
    /// The generation at which the link runs.
    nvmlDeviceGetCurrPcieLinkGeneration: c_uint = |gpu| gpu.pcie_generation;
    /// The generation at which the link could run.
    nvmlDeviceGetMaxPcieLinkGeneration: c_uint = |gpu| gpu.pcie_generation;
    /// The lanes in use.
    nvmlDeviceGetCurrPcieLinkWidth: c_uint = |gpu| gpu.pcie_width;
    /// The lanes that could be in use.
    nvmlDeviceGetMaxPcieLinkWidth: c_uint = |gpu| gpu.pcie_width;
    /// The NUMA node.
    nvmlDeviceGetNumaNodeId: c_uint = |gpu| gpu.numa_node;
}

/// The share of time in which kernels ran. Not available in MIG mode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, rates: *mut nvmlUtilization_t) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetUtilizationRates", device, |gpu| {
        if gpu.is_in_mig_mode() {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: the caller gives a place for the struct, or null.
        unsafe { put(rates, nvmlUtilization_t { gpu: gpu.utilization_percent, memory: 0 }) }
    })
}

/// Degrees Celsius of the GPU: there is no other sensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(device: nvmlDevice_t, sensor: c_uint, celsius: *mut c_uint) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetTemperature", device, |gpu| {
        if sensor != 0 {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(celsius, gpu.temperature_celsius) }
    })
}

/// Megahertz. All clocks but the memory's are the SM's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, clock: c_uint, megahertz: *mut c_uint) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetClockInfo", device, |gpu| {
        if clock >= CLOCKS {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(megahertz, if clock == CLOCK_OF_MEMORY { MEMORY_CLOCK_MHZ } else { gpu.sm_clock_mhz }) }
    })
}

/// Megahertz that the clocks reach at most: the same for all GPUs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, clock: c_uint, megahertz: *mut c_uint) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetMaxClockInfo", device, |_| {
        if clock >= CLOCKS {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(megahertz, if clock == CLOCK_OF_MEMORY { MEMORY_CLOCK_MHZ } else { 1_980 }) }
    })
}

/// Whether memory errors are corrected and counted, now and after the next restart.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEccMode(
    device: nvmlDevice_t,
    current: *mut nvmlEnableState_t,
    pending: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetEccMode", device, |gpu| {
        let enabled = nvmlEnableState_t::from(gpu.ecc_enabled);
        // SAFETY: the caller gives places for the states, or null.
        unsafe {
            put(current, enabled)?;
            put(pending, enabled)
        }
    })
}

/// Uncorrected errors since the driver was loaded. Corrected and lifetime errors are not scripted: zero, and the same as the volatile ones.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    error: nvmlMemoryErrorType_t,
    counter: nvmlEccCounterType_t,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceGetTotalEccErrors", device, |gpu| {
        if error > UNCORRECTED || counter > VOLATILE + 1 {
            return Err(INVALID_ARGUMENT);
        }
        if !gpu.ecc_enabled {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(count, if error == UNCORRECTED { gpu.ecc_uncorrected } else { 0 }) }
    })
}
