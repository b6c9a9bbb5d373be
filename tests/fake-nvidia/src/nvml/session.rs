//! Initialising NVML, and what it says of the machine as a whole.

use std::{
    ffi::{c_char, c_int, c_uint},
    sync::atomic::{AtomicUsize, Ordering},
};

use nvml_wrapper_sys::bindings::nvmlReturn_t;

use super::{UNINITIALIZED, answer, code_of, put, put_text, script};
use crate::state::Script;

/// NVML counts how often it was initialised.
static OPENED: AtomicUsize = AtomicUsize::new(0);

pub(super) fn is_open() -> bool {
    OPENED.load(Ordering::SeqCst) > 0
}

/// Fails where no driver is loaded.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    nvmlInitWithFlags(0)
}

/// As `nvmlInit_v2`; the flags are of no consequence here.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    answer(|| {
        Script::read().map_err(code_of)?;
        OPENED.fetch_add(1, Ordering::SeqCst);
        Ok(())
    })
}

/// Takes one initialisation back.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    answer(|| {
        let closed = OPENED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |opened| opened.checked_sub(1));
        closed.map(drop).map_err(|_| UNINITIALIZED)
    })
}

/// The driver's version, such as `550.54.15`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    // SAFETY: the caller gives a buffer of this length, or null.
    answer(|| unsafe { put_text(version, length, &script()?.machine.driver_version) })
}

/// NVML's own version: the major CUDA version before the driver's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer(|| {
        let script = script()?;
        let text = format!("{}.{}", script.machine.cuda_driver_version / 1000, script.machine.driver_version);
        // SAFETY: the caller gives a buffer of this length, or null.
        unsafe { put_text(version, length, &text) }
    })
}

/// The CUDA version that the driver offers, such as 12040.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
    // SAFETY: the caller gives a place for the number, or null.
    answer(|| unsafe { put(version, script()?.machine.cuda_driver_version) })
}

/// As `nvmlSystemGetCudaDriverVersion_v2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) -> nvmlReturn_t {
    // SAFETY: the caller's word.
    unsafe { nvmlSystemGetCudaDriverVersion_v2(version) }
}
