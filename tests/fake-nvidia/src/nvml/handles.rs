//! Device handles, and the ways to get one. A handle stands for a UUID, for as long as the process lives.

use std::{
    ffi::{c_char, c_uint},
    ptr,
    sync::Mutex,
};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};

use super::{About, Code, INVALID_ARGUMENT, NOT_FOUND, answer, put, reached, script};
use crate::{
    c_interface::{lock, text},
    state::FakeGpu,
};

/// The UUID of handle `n` is at `n - 1`.
static UUIDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The handle of this UUID: the same one at every call.
pub(super) fn handle(uuid: &str) -> nvmlDevice_t {
    let mut uuids = lock(&UUIDS);
    let known = uuids.iter().position(|other| other == uuid);
    let position = known.unwrap_or_else(|| {
        uuids.push(uuid.to_owned());
        uuids.len() - 1
    });
    ptr::without_provenance_mut(position + 1)
}

pub(super) fn uuid(device: nvmlDevice_t) -> Result<String, Code> {
    let position = device.addr().checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    lock(&UUIDS).get(position).cloned().ok_or(INVALID_ARGUMENT)
}

/// Gives out a handle, once the GPU answers.
///
/// # Safety
///
/// The place is null or may be written.
unsafe fn give(function: &str, uuid: &str, device: *mut nvmlDevice_t) -> Result<(), Code> {
    reached(function, uuid, About::Identity)?;
    // SAFETY: the caller's word.
    unsafe { put(device, handle(uuid)) }
}

/// All GPUs count, also lost ones; MIG instances do not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    answer(|| {
        let gpus = u32::try_from(script()?.machine.gpus.len()).unwrap_or(u32::MAX);
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(count, gpus) }
    })
}

/// By its place in the script.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    answer(|| {
        let script = script()?;
        let gpu = script.machine.gpus.get(index as usize).ok_or(INVALID_ARGUMENT)?;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { give("nvmlDeviceGetHandleByIndex_v2", &gpu.uuid, device) }
    })
}

/// By the whole UUID, of a GPU or of a MIG instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    answer(|| {
        // SAFETY: the caller gives a text that ends with a zero, or null.
        let uuid = unsafe { text(uuid) }.ok_or(INVALID_ARGUMENT)?;
        script()?.part(uuid).ok_or(NOT_FOUND)?;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { give("nvmlDeviceGetHandleByUUID", uuid, device) }
    })
}

/// By the bus id, with a domain of four or eight digits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    answer(|| {
        // SAFETY: the caller gives a text that ends with a zero, or null.
        let wanted = unsafe { text(bus_id) }.ok_or(INVALID_ARGUMENT)?.to_lowercase();
        let script = script()?;
        let has_it = |gpu: &&FakeGpu| {
            let own = gpu.pci_bus_id.to_lowercase();
            own == wanted || own.strip_prefix("0000").is_some_and(|short| short == wanted)
        };
        let gpu = script.machine.gpus.iter().find(has_it).ok_or(NOT_FOUND)?;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { give("nvmlDeviceGetHandleByPciBusId_v2", &gpu.uuid, device) }
    })
}
