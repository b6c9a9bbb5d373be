//! Memory of devices: memory of the host with a limit, which other processes and the script narrow.
//!
//! Memory is mapped and not touched: a device of 80 GB fits on a small host as long as little of it is used.

use std::{collections::BTreeMap, ffi::c_uint, fs::File, ptr};

use super::{Handle, Process, Sees, codes, in_context, mapping::Mapping, process, put, script, stream, with_part};
use crate::{c_interface::Code, usage};
use codes::{ILLEGAL_ADDRESS, INVALID_VALUE, MISALIGNED_ADDRESS, OUT_OF_MEMORY, UNKNOWN};

const MIB: u64 = 1 << 20;
/// What a process takes of a device before it allocates anything.
const CONTEXT_BYTES: u64 = 400 * MIB;
/// The largest allocation on a fragmented device.
const FRAGMENT_BYTES: u64 = 16 * MIB;

/// A device allocation.
#[derive(Debug)]
struct Allocation {
    mapping: Mapping,
    context: Handle,
    device: usize,
    origin: Origin,
    /// A stream will free it.
    is_going: bool,
}

/// Where device memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// `cuMemAlloc`: other processes may open it.
    Alone,
    /// The device's pool.
    Pool,
    /// Another process, whose it is.
    Opened,
}

/// All device allocations, by address.
#[derive(Debug)]
pub(super) struct Memory {
    device: BTreeMap<usize, Allocation>,
}

impl Memory {
    pub(super) const fn new() -> Self {
        Self { device: BTreeMap::new() }
    }

    fn allocation(&self, pointer: u64, bytes: usize) -> Option<&Allocation> {
        let address = usize::try_from(pointer).ok()?;
        let (start, allocation) = self.device.range(..=address).next_back()?;
        (address.checked_add(bytes)? <= start + allocation.mapping.bytes).then_some(allocation)
    }

    /// The address behind a device pointer, when so many bytes from there belong to one allocation.
    pub(super) fn range(&self, pointer: u64, bytes: usize) -> Option<*mut u8> {
        let allocation = self.allocation(pointer, bytes)?;
        let offset = usize::try_from(pointer).ok()? - allocation.mapping.address;
        Some(ptr::with_exposed_provenance_mut(allocation.mapping.address + offset))
    }

    /// As `range`, for a copy of the caller: a wrong range is the caller's mistake.
    pub(super) fn copied(&self, pointer: u64, bytes: usize) -> Result<*mut u8, Code> {
        self.range(pointer, bytes).ok_or(INVALID_VALUE)
    }

    /// Bytes allocated on a device.
    pub(super) fn allocated(&self, device: usize) -> u64 {
        self.bytes_of(device, Origin::Alone) + self.pooled(device)
    }

    /// Bytes allocated from a device's pool.
    pub(super) fn pooled(&self, device: usize) -> u64 {
        self.bytes_of(device, Origin::Pool)
    }

    fn bytes_of(&self, device: usize, origin: Origin) -> u64 {
        let counts = |allocation: &&Allocation| allocation.device == device && allocation.origin == origin;
        self.device.values().filter(counts).map(|allocation| allocation.mapping.bytes as u64).sum()
    }

    /// The file behind an allocation that begins here, if other processes may open it.
    pub(super) fn file(&self, pointer: u64) -> Option<&File> {
        let allocation = self.device.get(&usize::try_from(pointer).ok()?)?;
        allocation.mapping.file.as_ref().filter(|_| allocation.origin == Origin::Alone)
    }

    pub(super) fn forget(&mut self, context: Handle) {
        self.device.retain(|_, allocation| allocation.context != context);
    }
}

impl Process {
    /// What a kernel in this context finds behind a pointer: `count` values, or the error that stops it.
    pub(super) fn seen_by_kernel<T>(&self, context: Handle, pointer: u64, count: usize) -> Result<*mut T, Code> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(ILLEGAL_ADDRESS)?;
        let allocation = self.memory.allocation(pointer, bytes).ok_or(ILLEGAL_ADDRESS)?;
        let context = self.context(context)?;
        if allocation.device != context.device && !context.peers.contains(&allocation.device) {
            return Err(ILLEGAL_ADDRESS);
        }
        let place: *mut T = self.memory.range(pointer, bytes).ok_or(ILLEGAL_ADDRESS)?.cast();
        if place.is_aligned() { Ok(place) } else { Err(MISALIGNED_ADDRESS) }
    }

    fn held(&self, device: usize) -> u64 {
        self.memory.allocated(device) + self.pools.kept(device) + if self.has_context_on(device) { CONTEXT_BYTES } else { 0 }
    }

    fn free(&mut self, address: usize) -> Result<(), Code> {
        let allocation = self.memory.device.remove(&address).ok_or(INVALID_VALUE)?;
        record(self, allocation.device)
    }

    /// A stream frees into the device's pool.
    fn free_into_the_pool(&mut self, address: usize) -> Result<(), Code> {
        let allocation = self.memory.device.remove(&address).ok_or(INVALID_VALUE)?;
        self.pools.keep(allocation.device, allocation.mapping.bytes as u64);
        Ok(())
    }
}

/// Tells the machine what this process now holds of a device.
pub(super) fn record(process: &Process, device: usize) -> Result<(), Code> {
    let uuid = process.uuid(device)?;
    let held = process.has_context_on(device).then(|| process.held(device));
    usage::record(&*script()?, &uuid, held);
    Ok(())
}

/// Takes more of a device, or answers that there is not so much.
fn reserve(process: &Process, device: usize, bytes: u64) -> Result<(), Code> {
    let (script, uuid) = (script()?, process.uuid(device)?);
    let part = script.part(&uuid).ok_or(UNKNOWN)?;
    if usage::reserve(&script, &part, process.held(device), bytes) { Ok(()) } else { Err(OUT_OF_MEMORY) }
}

/// The first context of a process on a device takes memory.
pub(super) fn reserve_context(process: &Process, device: usize) -> Result<(), Code> {
    if process.has_context_on(device) { Ok(()) } else { reserve(process, device, CONTEXT_BYTES) }
}

/// Memory that a library takes for itself.
pub(crate) fn allocate(context: Handle, bytes: usize) -> Result<u64, Code> {
    allocate_from(context, bytes, Origin::Pool)
}

/// Maps memory of a context's device, as far as the script and other processes leave it.
fn allocate_from(context: Handle, bytes: usize, origin: Origin) -> Result<u64, Code> {
    let is_fragmented = with_part(context, |_, part| part.gpu.fragmented)?;
    if is_fragmented && bytes as u64 > FRAGMENT_BYTES {
        return Err(OUT_OF_MEMORY);
    }
    let mut process = process();
    process.move_on();
    let device = process.context(context)?.device;
    if origin == Origin::Pool {
        // What lies in the pool is taken first. Where it is not enough, the driver has given it back in the attempt.
        process.pools.spend(device, bytes as u64);
    }
    record(&process, device)?;
    reserve(&process, device, bytes as u64)?;
    let mapping = if origin == Origin::Alone { Mapping::shareable(bytes) } else { Mapping::new(bytes) };
    let Some(mapping) = mapping else {
        record(&process, device)?;
        return Err(OUT_OF_MEMORY);
    };
    let address = mapping.address;
    process.memory.device.insert(address, Allocation { mapping, context, device, origin, is_going: false });
    Ok(address as u64)
}

/// Memory of another process, which takes nothing of this one's device.
pub(super) fn opened(context: Handle, mapping: Mapping) -> Result<u64, Code> {
    let mut process = process();
    let device = process.context(context)?.device;
    let address = mapping.address;
    process.memory.device.insert(address, Allocation { mapping, context, device, origin: Origin::Opened, is_going: false });
    Ok(address as u64)
}

/// Lets go of memory of another process once the context's streams are idle.
pub(super) fn close(context: Handle, pointer: u64) -> Result<(), Code> {
    let address = usize::try_from(pointer).map_err(|_| INVALID_VALUE)?;
    if process().memory.device.get(&address).is_none_or(|allocation| allocation.origin != Origin::Opened) {
        return Err(INVALID_VALUE);
    }
    stream::wait_for_all(context)?;
    process().memory.device.remove(&address).map(drop).ok_or(INVALID_VALUE)
}

/// Frees memory that a library took for itself. Its context may have taken it along.
pub(crate) fn release(pointer: u64) {
    // Gone is gone.
    let _ = usize::try_from(pointer).map(|address| process().free(address));
}

/// Zeros, or `OUT_OF_MEMORY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(pointer: *mut u64, bytes: usize) -> Code {
    in_context(Sees::OldErrors, |context| {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller gives a place for the pointer, or null.
        unsafe { put(pointer, allocate_from(context, bytes, Origin::Alone)?) }
    })
}

/// The memory is there at once. No bytes are a null pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(pointer: *mut u64, bytes: usize, stream: Handle) -> Code {
    in_context(Sees::OldErrors, |context| {
        process().stream(context, stream)?;
        let address = if bytes == 0 { 0 } else { allocate(context, bytes)? };
        // SAFETY: the caller gives a place for the pointer, or null.
        unsafe { put(pointer, address) }
    })
}

/// As `cuMemAlloc_v2`: all memory here is the host's too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocManaged(pointer: *mut u64, bytes: usize, _flags: c_uint) -> Code {
    // SAFETY: the caller's word.
    unsafe { cuMemAlloc_v2(pointer, bytes) }
}

/// Frees an allocation once the context's streams are idle. Null is nothing to free.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(pointer: u64) -> Code {
    in_context(Sees::NewErrors, |context| {
        if pointer == 0 {
            return Ok(());
        }
        let address = usize::try_from(pointer).map_err(|_| INVALID_VALUE)?;
        let is_here = |allocation: &Allocation| !allocation.is_going && allocation.origin != Origin::Opened;
        if !process().memory.device.get(&address).is_some_and(is_here) {
            return Err(INVALID_VALUE);
        }
        stream::wait_for_all(context)?;
        process().free(address)
    })
}

/// Frees an allocation once the stream gets there.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(pointer: u64, stream: Handle) -> Code {
    in_context(Sees::OldErrors, |context| {
        let mut process = process();
        let stream = process.stream(context, stream)?;
        if pointer == 0 {
            return Ok(());
        }
        let address = usize::try_from(pointer).map_err(|_| INVALID_VALUE)?;
        let allocation =
            process.memory.device.get_mut(&address).filter(|allocation| !allocation.is_going && allocation.origin == Origin::Pool);
        allocation.ok_or(INVALID_VALUE)?.is_going = true;
        process.submit(stream, stream::Work::Run(Box::new(move |process| process.free_into_the_pool(address))))
    })
}

/// Free and total bytes of the context's device, as NVML shows them too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    in_context(Sees::NewErrors, |context| {
        process().move_on();
        let memory = with_part(context, usage::memory)?;
        let number = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: the caller gives places for the numbers, or null.
        unsafe {
            put(free, number(memory.free))?;
            put(total, number(memory.total))
        }
    })
}

/// Where the allocation that holds this pointer begins, and its bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, pointer: u64) -> Code {
    in_context(Sees::OldErrors, |_| {
        let process = process();
        let mapping = &process.memory.allocation(pointer, 1).ok_or(INVALID_VALUE)?.mapping;
        // SAFETY: the caller gives places for the numbers, or null.
        unsafe {
            put(base, mapping.address as u64)?;
            put(bytes, mapping.bytes)
        }
    })
}
