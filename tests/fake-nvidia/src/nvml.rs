//! NVML: it shows all GPUs, whatever CUDA may see, and how they are doing at this moment.
//!
//! Handles are numbers, never addresses: a wrong one is answered, not followed.

mod errors;
mod events;
mod handles;
mod identity;
mod links;
mod memory;
mod mig;
mod samples;
mod session;

use std::{sync::Arc, thread, time::Duration};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED, nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED as RESET_REQUIRED, nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN, nvmlReturn_t,
};

use crate::{
    c_interface::{self, Code},
    state::{FakeGpu, NvmlFault, Part, Script, Unavailable},
};

/// How often a call that waits looks at the script.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a query is about: a GPU in trouble still says who it is, unless it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Identity,
    State,
}

/// An exported function's body.
fn answer(body: impl FnOnce() -> Result<(), Code>) -> nvmlReturn_t {
    c_interface::answer(UNKNOWN, body)
}

/// # Safety
///
/// The place is null or may be written.
unsafe fn put<T>(place: *mut T, value: T) -> Result<(), Code> {
    // SAFETY: the caller's word.
    unsafe { c_interface::put(place, value, INVALID_ARGUMENT) }
}

/// # Safety
///
/// The buffer is null or `length` bytes of it may be written.
unsafe fn put_text(buffer: *mut std::ffi::c_char, length: u32, text: &str) -> Result<(), Code> {
    if buffer.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller's word.
    let fits = unsafe { c_interface::put_text(buffer, length as usize, text) };
    if fits { Ok(()) } else { Err(INSUFFICIENT_SIZE) }
}

/// The script, while NVML is initialised.
fn script() -> Result<Arc<Script>, Code> {
    session::is_open().then_some(()).ok_or(UNINITIALIZED)?;
    Script::read().map_err(code_of)
}

fn code_of(unavailable: Unavailable) -> Code {
    match unavailable {
        Unavailable::NoDriver => DRIVER_NOT_LOADED,
        Unavailable::Unreadable => UNKNOWN,
    }
}

fn code_of_fault(fault: NvmlFault) -> Code {
    match fault {
        NvmlFault::GpuLost => GPU_IS_LOST,
        NvmlFault::NotSupported => NOT_SUPPORTED,
        NvmlFault::Unknown => UNKNOWN,
        NvmlFault::ResetRequired => RESET_REQUIRED,
    }
}

/// The script once this GPU or instance answers: a GPU that hangs keeps its caller here. A GPU that is no longer in the script is lost.
fn reached(function: &str, uuid: &str, about: About) -> Result<Arc<Script>, Code> {
    loop {
        let script = script()?;
        let gpu = script.part(uuid).ok_or(GPU_IS_LOST)?.gpu;
        if gpu.nvml_hangs {
            thread::sleep(LOOK_AGAIN);
            continue;
        }
        if gpu.unsupported.iter().any(|name| name == function) {
            return Err(NOT_SUPPORTED);
        }
        match gpu.nvml_error {
            Some(fault) if about == About::State || fault == NvmlFault::GpuLost => return Err(code_of_fault(fault)),
            _ => return Ok(script),
        }
    }
}

/// A query of a GPU or a MIG instance.
fn ask(function: &str, device: nvmlDevice_t, about: About, body: impl FnOnce(&Script, Part<'_>) -> Result<(), Code>) -> nvmlReturn_t {
    answer(|| {
        session::is_open().then_some(()).ok_or(UNINITIALIZED)?;
        let uuid = handles::uuid(device)?;
        let script = reached(function, &uuid, about)?;
        body(&script, script.part(&uuid).ok_or(GPU_IS_LOST)?)
    })
}

/// A query of a GPU's state that MIG instances do not support.
fn ask_gpu(function: &str, device: nvmlDevice_t, body: impl FnOnce(&FakeGpu) -> Result<(), Code>) -> nvmlReturn_t {
    ask(function, device, About::State, |_, part| if part.instance.is_some() { Err(NOT_SUPPORTED) } else { body(part.gpu) })
}

/// Exports queries that write one value about a GPU: `name: type = |gpu| value`.
macro_rules! values {
    ($($(#[$doc:meta])* $name:ident: $type:ty = |$gpu:ident| $value:expr;)+) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvml_wrapper_sys::bindings::nvmlDevice_t, value: *mut $type) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
            // SAFETY: the caller gives a place for the value, or null.
            $crate::nvml::ask_gpu(stringify!($name), device, |$gpu| unsafe { $crate::nvml::put(value, $value) })
        }
    )+};
}
use values;
