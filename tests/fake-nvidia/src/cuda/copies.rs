//! Copies between host and devices, and filling memory.
//!
//! As with a real driver, a copy from memory of the host that is not pinned has read it when the call returns, and a copy to such memory has
//! written it.

use std::{
    ffi::{c_uchar, c_uint, c_void},
    ptr,
    time::Duration,
};

use super::{
    Handle, Process, Sees, codes, in_context, process,
    stream::{Work, wait_for},
    with_part,
};
use crate::{
    c_interface::Code,
    copy_fault::{FakeCopies, FakeTrouble},
};
use codes::{ILLEGAL_ADDRESS, INVALID_VALUE};

/// From this size on, zeros are fresh pages instead of written ones.
const MANY_BYTES: usize = 1 << 20;

/// What the script does to a copy.
#[derive(Debug, Clone, Copy)]
struct Fault {
    corrupts: bool,
}

impl Fault {
    /// For a copy that is put into this stream now. One that fails never gets there; one that stalls stands behind its delay.
    fn of(context: Handle, copies: FakeCopies, bytes: usize, stream: Handle) -> Result<Self, Code> {
        let meets = |faults: &[crate::FakeCopyFault]| faults.iter().find(|fault| fault.meets(copies, bytes)).map(|fault| fault.what);
        match with_part(context, |_, part| meets(&part.gpu.copy_faults))? {
            None => Ok(Self { corrupts: false }),
            Some(FakeTrouble::Corrupts) => Ok(Self { corrupts: true }),
            Some(FakeTrouble::Fails(code)) => Err(code),
            Some(FakeTrouble::Stalls(ms)) => {
                let mut process = process();
                let stream = process.stream(context, stream)?;
                process.submit(stream, Work::Busy(Some(Duration::from_millis(ms))))?;
                Ok(Self { corrupts: false })
            }
        }
    }

    /// Copies.
    ///
    /// # Safety
    /// Both ends have these bytes.
    unsafe fn copy(self, source: *const u8, target: *mut u8, bytes: usize) {
        // SAFETY: the caller's promise; the ends may overlap.
        unsafe { ptr::copy(source, target, bytes) };
        if self.corrupts && bytes > 0 {
            // SAFETY: within the target.
            unsafe { *target.add(bytes / 2) ^= 1 };
        }
    }
}

/// Runs the body when the stream is idle, before anything else can be added to it.
fn when_idle(stream: Handle, body: impl FnOnce(&mut Process) -> Result<(), Code>) -> Result<(), Code> {
    loop {
        wait_for(stream)?;
        let mut process = process();
        if process.is_idle(stream) {
            return body(&mut process);
        }
    }
}

fn to_device(context: Handle, target: u64, source: *const c_void, bytes: usize, stream: Handle) -> Result<(), Code> {
    if bytes == 0 {
        return Ok(());
    }
    if source.is_null() {
        return Err(INVALID_VALUE);
    }
    let fault = Fault::of(context, FakeCopies::ToGpu, bytes, stream)?;
    let mut process = process();
    let stream = process.stream(context, stream)?;
    process.memory.copied(target, bytes)?;
    process.move_on();
    let source: *const u8 = source.cast();
    if process.is_idle(stream) {
        let target = process.memory.copied(target, bytes)?;
        // SAFETY: the allocation has these bytes, and so has the caller's memory.
        unsafe { fault.copy(source, target, bytes) };
        return Ok(());
    }
    let address = source.expose_provenance();
    // Pinned memory is read when the stream gets there. Other memory may be gone then.
    // SAFETY: the caller's memory has these bytes.
    let kept = (!process.pinned.holds(address, bytes)).then(|| unsafe { std::slice::from_raw_parts(source, bytes) }.to_vec());
    let run = move |process: &mut Process| {
        let target = process.memory.range(target, bytes).ok_or(ILLEGAL_ADDRESS)?;
        let source = match &kept {
            Some(kept) => kept.as_ptr(),
            None if process.pinned.holds(address, bytes) => ptr::with_exposed_provenance(address),
            None => return Err(ILLEGAL_ADDRESS),
        };
        // SAFETY: the allocation has these bytes, and so has what was kept, or the pinned memory.
        unsafe { fault.copy(source, target, bytes) };
        Ok(())
    };
    process.submit(stream, Work::Run(Box::new(run)))
}

fn to_host(context: Handle, target: *mut c_void, source: u64, bytes: usize, stream: Handle) -> Result<(), Code> {
    if bytes == 0 {
        return Ok(());
    }
    if target.is_null() {
        return Err(INVALID_VALUE);
    }
    let fault = Fault::of(context, FakeCopies::ToHost, bytes, stream)?;
    let address = target.expose_provenance();
    let (stream, is_pinned) = {
        let process = process();
        process.memory.copied(source, bytes)?;
        (process.stream(context, stream)?, process.pinned.holds(address, bytes))
    };
    if !is_pinned {
        return when_idle(stream, |process| {
            let source = process.memory.copied(source, bytes)?;
            // SAFETY: the allocation has these bytes, and so has the caller's memory.
            unsafe { fault.copy(source, target.cast(), bytes) };
            Ok(())
        });
    }
    let run = move |process: &mut Process| {
        let source = process.memory.range(source, bytes).ok_or(ILLEGAL_ADDRESS)?;
        if !process.pinned.holds(address, bytes) {
            return Err(ILLEGAL_ADDRESS);
        }
        // SAFETY: the allocation has these bytes, and so has the pinned memory.
        unsafe { fault.copy(source, ptr::with_exposed_provenance_mut(address), bytes) };
        Ok(())
    };
    process().submit(stream, Work::Run(Box::new(run)))
}

fn between_devices(context: Handle, target: u64, source: u64, bytes: usize, stream: Handle) -> Result<(), Code> {
    if bytes == 0 {
        return Ok(());
    }
    let fault = Fault::of(context, FakeCopies::Between, bytes, stream)?;
    let mut process = process();
    let stream = process.stream(context, stream)?;
    process.memory.copied(target, bytes)?;
    process.memory.copied(source, bytes)?;
    let run = move |process: &mut Process| {
        let target = process.memory.range(target, bytes).ok_or(ILLEGAL_ADDRESS)?;
        let source = process.memory.range(source, bytes).ok_or(ILLEGAL_ADDRESS)?;
        // SAFETY: both allocations have these bytes; they may be the same one.
        unsafe { fault.copy(source, target, bytes) };
        Ok(())
    };
    process.submit(stream, Work::Run(Box::new(run)))
}

/// Fills with a pattern of one or four bytes.
fn fill(context: Handle, target: u64, pattern: Vec<u8>, count: usize, stream: Handle) -> Result<(), Code> {
    let bytes = count.checked_mul(pattern.len()).ok_or(INVALID_VALUE)?;
    if bytes == 0 {
        return Ok(());
    }
    let mut process = process();
    let stream = process.stream(context, stream)?;
    process.memory.copied(target, bytes)?;
    let run = move |process: &mut Process| {
        let target = process.memory.range(target, bytes).ok_or(ILLEGAL_ADDRESS)?;
        // SAFETY: the allocation has these bytes.
        unsafe { fill_memory(target, bytes, &pattern) };
        Ok(())
    };
    process.submit(stream, Work::Run(Box::new(run)))
}

/// # Safety
///
/// So many bytes from there belong to one device allocation.
unsafe fn fill_memory(target: *mut u8, bytes: usize, pattern: &[u8]) {
    const PAGE: usize = 4_096;
    let before = target.align_offset(PAGE);
    if bytes < MANY_BYTES || pattern.iter().any(|byte| *byte != 0) {
        for (offset, byte) in pattern.iter().cycle().take(bytes).enumerate() {
            // SAFETY: within the allocation.
            unsafe { target.add(offset).write(*byte) };
        }
        return;
    }
    let pages = (bytes - before) / PAGE * PAGE;
    // SAFETY: within the allocation, whose pages read as zeros after this: those of a file are taken out of it, and private ones are dropped.
    unsafe {
        target.write_bytes(0, before);
        let pages_start: *mut c_void = target.add(before).cast();
        if libc::madvise(pages_start, pages, libc::MADV_REMOVE) != 0 {
            libc::madvise(pages_start, pages, libc::MADV_DONTNEED);
        }
        target.add(before + pages).write_bytes(0, bytes - before - pages);
    }
}

/// From the host to a device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(target: u64, source: *const c_void, bytes: usize, stream: Handle) -> Code {
    in_context(Sees::NewErrors, |context| to_device(context, target, source, bytes, stream))
}

/// From the host to a device, with nothing left to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(target: u64, source: *const c_void, bytes: usize) -> Code {
    in_context(Sees::NewErrors, |context| {
        to_device(context, target, source, bytes, 0)?;
        wait_for_default(context)
    })
}

/// From a device to the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(target: *mut c_void, source: u64, bytes: usize, stream: Handle) -> Code {
    in_context(Sees::NewErrors, |context| to_host(context, target, source, bytes, stream))
}

/// From a device to the host, with nothing left to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(target: *mut c_void, source: u64, bytes: usize) -> Code {
    in_context(Sees::NewErrors, |context| {
        to_host(context, target, source, bytes, 0)?;
        wait_for_default(context)
    })
}

/// Within a device or from one to another.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(target: u64, source: u64, bytes: usize, stream: Handle) -> Code {
    in_context(Sees::NewErrors, |context| between_devices(context, target, source, bytes, stream))
}

/// Within a device or from one to another, with nothing left to do.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(target: u64, source: u64, bytes: usize) -> Code {
    in_context(Sees::NewErrors, |context| {
        between_devices(context, target, source, bytes, 0)?;
        wait_for_default(context)
    })
}

/// From one context's device to another's, with or without peer access.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    target: u64,
    target_context: Handle,
    source: u64,
    source_context: Handle,
    bytes: usize,
    stream: Handle,
) -> Code {
    in_context(Sees::NewErrors, |context| {
        process().context(target_context)?;
        process().context(source_context)?;
        between_devices(context, target, source, bytes, stream)
    })
}

/// So many bytes of one value.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(target: u64, value: c_uchar, count: usize, stream: Handle) -> Code {
    in_context(Sees::OldErrors, |context| fill(context, target, vec![value], count, stream))
}

/// As `cuMemsetD8Async`, in the default stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(target: u64, value: c_uchar, count: usize) -> Code {
    cuMemsetD8Async(target, value, count, 0)
}

/// So many words of one value.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(target: u64, value: c_uint, count: usize, stream: Handle) -> Code {
    in_context(Sees::OldErrors, |context| fill(context, target, value.to_ne_bytes().to_vec(), count, stream))
}

/// As `cuMemsetD32Async`, in the default stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(target: u64, value: c_uint, count: usize) -> Code {
    cuMemsetD32Async(target, value, count, 0)
}

fn wait_for_default(context: Handle) -> Result<(), Code> {
    let stream = process().stream(context, 0)?;
    wait_for(stream)
}
