//! Memory pools: each device has one. Memory that a stream frees stays in it, and in use for all others, until a call that waits finds more than it may keep.

use std::{
    collections::BTreeMap,
    ffi::{c_int, c_uint, c_void},
};

use super::{Handle, Process, answer, codes, device::with_device, memory, process, put};
use crate::c_interface::Code;
use codes::{INVALID_VALUE, NOT_SUPPORTED, UNKNOWN};

/// Settings up to this one are `int`s, the others 64-bit numbers.
const INTS: c_uint = 3;
const RELEASE_THRESHOLD: c_uint = 4;
const RESERVED_NOW: c_uint = 5;
const RESERVED_MOST: c_uint = 6;
const USED_NOW: c_uint = 7;
const USED_MOST: c_uint = 8;

/// The settings that were made, and the bytes in each device's pool.
#[derive(Debug)]
pub(super) struct Pools {
    settings: BTreeMap<(usize, c_uint), u64>,
    kept: BTreeMap<usize, u64>,
}

impl Pools {
    pub(super) const fn new() -> Self {
        Self { settings: BTreeMap::new(), kept: BTreeMap::new() }
    }

    /// Bytes in a device's pool.
    pub(super) fn kept(&self, device: usize) -> u64 {
        self.kept.get(&device).copied().unwrap_or(0)
    }

    /// Memory that a stream freed.
    pub(super) fn keep(&mut self, device: usize, bytes: u64) {
        *self.kept.entry(device).or_default() += bytes;
    }

    /// Memory that is allocated again, as far as there is any.
    pub(super) fn spend(&mut self, device: usize, bytes: u64) {
        let kept = self.kept.entry(device).or_default();
        *kept = kept.saturating_sub(bytes);
    }

    /// The device's last context takes its memory along.
    pub(super) fn empty(&mut self, device: usize) {
        self.kept.remove(&device);
    }

    fn threshold(&self, device: usize) -> u64 {
        self.settings.get(&(device, RELEASE_THRESHOLD)).copied().unwrap_or(0)
    }
}

impl Process {
    /// Gives back what is in the pools, down to what they may keep. Every call that waits does.
    pub(super) fn trim(&mut self) -> Result<(), Code> {
        for device in self.pools.kept.keys().copied().collect::<Vec<_>>() {
            self.trim_to(device, self.pools.threshold(device))?;
        }
        Ok(())
    }

    fn trim_to(&mut self, device: usize, bytes: u64) -> Result<(), Code> {
        let kept = self.pools.kept.entry(device).or_default();
        *kept = bytes.min(*kept);
        memory::record(self, device)
    }
}

/// A pool's handle is one more than its device's place.
fn device_of(pool: Handle) -> Result<usize, Code> {
    let device = pool.checked_sub(1).ok_or(INVALID_VALUE)?;
    process().uuid(device).map_err(|_| INVALID_VALUE)?;
    Ok(device)
}

/// The device's pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut Handle, device: c_int) -> Code {
    answer(|| {
        with_device(device, |_, _| Ok(()))?;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(pool, usize::try_from(device).map_err(|_| UNKNOWN)? + 1) }
    })
}

/// The device's pool: there is no other.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut Handle, device: c_int) -> Code {
    // SAFETY: the caller's word.
    unsafe { cuDeviceGetDefaultMemPool(pool, device) }
}

/// Takes no other pool than the device's own.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: c_int, pool: Handle) -> Code {
    answer(|| if usize::try_from(device).ok() == Some(device_of(pool)?) { Ok(()) } else { Err(NOT_SUPPORTED) })
}

/// Gives back what is in the pool, down to so many bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: Handle, bytes: usize) -> Code {
    answer(|| {
        let device = device_of(pool)?;
        process().trim_to(device, bytes as u64)
    })
}

/// As `cuMemAllocAsync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocFromPoolAsync(pointer: *mut u64, bytes: usize, pool: Handle, stream: Handle) -> Code {
    match answer(|| device_of(pool).map(drop)) {
        // SAFETY: the caller's word.
        0 => unsafe { memory::cuMemAllocAsync(pointer, bytes, stream) },
        code => code,
    }
}

/// Keeps a setting.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(pool: Handle, attribute: c_uint, value: *mut c_void) -> Code {
    answer(|| {
        let device = device_of(pool)?;
        if value.is_null() || !(1..=USED_MOST).contains(&attribute) {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller gives an `int` or a 64-bit number, as the setting has it.
        let number = unsafe {
            if attribute <= INTS { u64::from(value.cast::<c_uint>().read_unaligned()) } else { value.cast::<u64>().read_unaligned() }
        };
        process().pools.settings.insert((device, attribute), number);
        Ok(())
    })
}

/// A setting that was made, or what a pool has from the start; or the bytes in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(pool: Handle, attribute: c_uint, value: *mut c_void) -> Code {
    answer(|| {
        let device = device_of(pool)?;
        let process = process();
        let set = process.pools.settings.get(&(device, attribute)).copied();
        // SAFETY: the caller gives a place for an `int` or a 64-bit number, as the setting has it.
        unsafe {
            match attribute {
                1..=INTS => put(value.cast(), c_uint::from(set != Some(0))),
                RELEASE_THRESHOLD => put(value.cast(), set.unwrap_or(0)),
                RESERVED_NOW | RESERVED_MOST => put(value.cast(), process.memory.pooled(device) + process.pools.kept(device)),
                USED_NOW..=USED_MOST => put(value.cast(), process.memory.pooled(device)),
                _ => Err(INVALID_VALUE),
            }
        }
    })
}
