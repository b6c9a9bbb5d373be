//! Event sets. The only events are Xid errors: those that the script gained after a GPU was registered, each once and in order.

use std::{
    collections::BTreeMap,
    ffi::{c_uint, c_ulonglong},
    ptr,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlEventTypeXidCriticalError as XID, nvmlReturn_enum_NVML_ERROR_TIMEOUT as TIMEOUT,
    nvmlReturn_t,
};

use super::{Code, GPU_IS_LOST, INVALID_ARGUMENT, LOOK_AGAIN, NOT_SUPPORTED, answer, ask_gpu, handles, put, script, values};
use crate::{
    c_interface::lock,
    state::{NvmlFault, Script},
};

/// A GPU in a set, and how many of its Xid errors the set is past.
#[derive(Debug)]
struct Registered {
    uuid: String,
    seen: usize,
}

#[derive(Debug)]
struct Sets {
    last: usize,
    open: BTreeMap<usize, Vec<Registered>>,
}

static SETS: Mutex<Sets> = Mutex::new(Sets { last: 0, open: BTreeMap::new() });

values! {
    /// Critical Xid errors, and nothing else.
    nvmlDeviceGetSupportedEventTypes: c_ulonglong = |_gpu| c_ulonglong::from(XID);
}

/// An empty set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    answer(|| {
        script()?;
        let mut sets = lock(&SETS);
        sets.last += 1;
        let number = sets.last;
        sets.open.insert(number, Vec::new());
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(set, ptr::without_provenance_mut(number)) }
    })
}

/// Forgets the set.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    answer(|| lock(&SETS).open.remove(&set.addr()).map(drop).ok_or(INVALID_ARGUMENT))
}

/// Adds a GPU to a set. Its Xid errors so far are past.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: c_ulonglong, set: nvmlEventSet_t) -> nvmlReturn_t {
    ask_gpu("nvmlDeviceRegisterEvents", device, |gpu| {
        if types & !c_ulonglong::from(XID) != 0 {
            return Err(NOT_SUPPORTED);
        }
        let mut sets = lock(&SETS);
        let registered = sets.open.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?;
        if types != 0 && !registered.iter().any(|other| other.uuid == gpu.uuid) {
            registered.push(Registered { uuid: gpu.uuid.clone(), seen: gpu.xids.len() });
        }
        Ok(())
    })
}

/// The next event of a set, or `TIMEOUT` after so many milliseconds. A GPU of the set that is lost is told once no event is left.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout_ms: c_uint) -> nvmlReturn_t {
    answer(|| {
        let end = Instant::now() + Duration::from_millis(timeout_ms.into());
        loop {
            let script = script()?;
            if let Some(event) = next_event(&script, set)? {
                // SAFETY: the caller gives a place for the event, or null.
                return unsafe { put(data, event) };
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TIMEOUT);
            }
            thread::sleep(LOOK_AGAIN.min(left));
        }
    })
}

/// The older form of the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout_ms: c_uint) -> nvmlReturn_t {
    // SAFETY: the caller's word.
    unsafe { nvmlEventSetWait_v2(set, data, timeout_ms) }
}

fn next_event(script: &Script, set: nvmlEventSet_t) -> Result<Option<nvmlEventData_t>, Code> {
    let mut sets = lock(&SETS);
    let registered = sets.open.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?;
    for entry in registered.iter_mut() {
        let Some(part) = script.part(&entry.uuid) else { continue };
        // A script whose list was cut starts anew.
        entry.seen = entry.seen.min(part.gpu.xids.len());
        if let Some(xid) = part.gpu.xids.get(entry.seen) {
            entry.seen += 1;
            return Ok(Some(event(&entry.uuid, *xid)));
        }
    }
    let is_lost = |entry: &Registered| script.part(&entry.uuid).is_none_or(|part| part.gpu.nvml_error == Some(NvmlFault::GpuLost));
    if registered.iter().any(is_lost) { Err(GPU_IS_LOST) } else { Ok(None) }
}

fn event(uuid: &str, xid: u64) -> nvmlEventData_t {
    let none = c_uint::MAX;
    nvmlEventData_t { device: handles::handle(uuid), eventType: XID.into(), eventData: xid, gpuInstanceId: none, computeInstanceId: none }
}
