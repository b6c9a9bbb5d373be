//! Pinned memory of the host, to and from which streams copy without stopping the caller.

use std::{
    collections::BTreeMap,
    ffi::{c_uint, c_void},
    ptr,
};

use super::{Sees, codes, in_context, mapping::Mapping, process, put, with_part};
use crate::c_interface::Code;
use codes::{HOST_MEMORY_ALREADY_REGISTERED, HOST_MEMORY_NOT_REGISTERED, INVALID_VALUE, OUT_OF_MEMORY};

/// All pinned memory, by address: its bytes, and the mapping when the memory is ours.
#[derive(Debug)]
pub(super) struct Pinned(BTreeMap<usize, (usize, Option<Mapping>)>);

impl Pinned {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether all of these bytes are pinned.
    pub(super) fn holds(&self, address: usize, bytes: usize) -> bool {
        let before = self.0.range(..=address).next_back();
        before.is_some_and(|(start, (length, _))| address.checked_add(bytes).is_some_and(|end| end <= start + length))
    }
}

/// Memory that is ours.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) -> Code {
    in_context(Sees::OldErrors, |_| {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let mapping = Mapping::new(bytes).ok_or(OUT_OF_MEMORY)?;
        let address = mapping.address;
        process().pinned.0.insert(address, (bytes, Some(mapping)));
        // SAFETY: the caller gives a place for the pointer, or null.
        unsafe { put(pointer, ptr::with_exposed_provenance_mut(address)) }
    })
}

/// Frees memory of `cuMemHostAlloc`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> Code {
    in_context(Sees::NewErrors, |_| {
        let mut process = process();
        let address = pointer.expose_provenance();
        let is_ours = process.pinned.0.get(&address).is_some_and(|(_, mapping)| mapping.is_some());
        is_ours.then(|| process.pinned.0.remove(&address)).map(drop).ok_or(INVALID_VALUE)
    })
}

/// Pins memory of the caller, unless the script refuses.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, _flags: c_uint) -> Code {
    in_context(Sees::OldErrors, |context| {
        let address = pointer.expose_provenance();
        if address == 0 || bytes == 0 {
            return Err(INVALID_VALUE);
        }
        with_part(context, |_, part| part.gpu.host_register_error)?.map_or(Ok(()), Err)?;
        let mut process = process();
        if process.pinned.holds(address, 1) {
            return Err(HOST_MEMORY_ALREADY_REGISTERED);
        }
        process.pinned.0.insert(address, (bytes, None));
        Ok(())
    })
}

/// Takes the pin back.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(pointer: *mut c_void) -> Code {
    in_context(Sees::OldErrors, |_| {
        let mut process = process();
        let address = pointer.expose_provenance();
        let is_registered = process.pinned.0.get(&address).is_some_and(|(_, mapping)| mapping.is_none());
        is_registered.then(|| process.pinned.0.remove(&address)).map(drop).ok_or(HOST_MEMORY_NOT_REGISTERED)
    })
}
