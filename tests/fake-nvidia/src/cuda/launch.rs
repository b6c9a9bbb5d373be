//! Launching kernels.

use std::{
    ffi::{c_uint, c_void},
    ptr,
};

use super::{
    Handle, Sees,
    attributes::{BLOCK, BLOCK_THREADS, GRID},
    codes,
    image::Parameter,
    in_context, kernels,
    module::{Function, offsets},
    process,
};
use crate::c_interface::Code;
use codes::{INVALID_HANDLE, INVALID_VALUE};

/// The words that stand before the buffer and its size among the extra options, and at their end.
const BUFFER: usize = 1;
const BUFFER_SIZE: usize = 2;

/// Runs a kernel when its stream gets there. Its errors show later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: Handle,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    in_context(Sees::OldErrors, |context| {
        let mut process = process();
        let stream = process.stream(context, stream)?;
        let function = process.function(function)?.clone();
        if process.modules.get(&function.module).is_none_or(|module| module.context != context) {
            return Err(INVALID_HANDLE);
        }
        check_shape([grid_x, grid_y, grid_z], [block_x, block_y, block_z])?;
        if shared_bytes > function.shared_bytes {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller gives the parameters that the kernel has, in one of the two ways.
        let arguments = unsafe { if extra.is_null() { listed(&function, parameters) } else { packed(&function, extra) } }?;
        process.submit(stream, kernels::work(&function, context, arguments)?)
    })
}

/// As `cuLaunchKernel`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: Handle,
    parameters: *mut *mut c_void,
) -> Code {
    let extra = ptr::null_mut();
    // SAFETY: the caller's word.
    unsafe { cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, parameters, extra) }
}

fn check_shape(grid: [u32; 3], block: [u32; 3]) -> Result<(), Code> {
    let within = |shape: [u32; 3], limits: [u32; 3]| shape.iter().zip(limits).all(|(size, limit)| (1..=limit).contains(size));
    let threads: u64 = block.iter().map(|size| u64::from(*size)).product();
    if within(grid, GRID) && within(block, BLOCK) && threads <= u64::from(BLOCK_THREADS) { Ok(()) } else { Err(INVALID_VALUE) }
}

/// The arguments, one pointer each.
///
/// # Safety
///
/// The list has as many pointers as the kernel has parameters, each to so many bytes as the parameter has.
unsafe fn listed(function: &Function, list: *mut *mut c_void) -> Result<Vec<Vec<u8>>, Code> {
    if list.is_null() {
        return if function.parameters.is_empty() { Ok(Vec::new()) } else { Err(INVALID_VALUE) };
    }
    let argument = |(place, parameter): (usize, &Parameter)| {
        // SAFETY: within the list.
        let pointer = unsafe { *list.add(place) };
        // SAFETY: the argument has these bytes.
        if pointer.is_null() { Err(INVALID_VALUE) } else { Ok(unsafe { bytes(pointer.cast(), parameter.bytes) }) }
    };
    function.parameters.iter().enumerate().map(argument).collect()
}

/// The arguments, all in one buffer.
///
/// # Safety
///
/// The list names a buffer and its size, and ends with a null.
unsafe fn packed(function: &Function, list: *mut *mut c_void) -> Result<Vec<Vec<u8>>, Code> {
    let (mut buffer, mut size) = (ptr::null::<u8>(), 0);
    for place in (0..4).step_by(2) {
        // SAFETY: within the list: nothing is read behind the word that ends it.
        match unsafe { *list.add(place) }.addr() {
            // SAFETY: each word has a value.
            BUFFER => buffer = unsafe { *list.add(place + 1) }.cast(),
            // SAFETY: each word has a value; this one leads to a number.
            BUFFER_SIZE => size = unsafe { (*list.add(place + 1)).cast::<usize>().read_unaligned() },
            _ => break,
        }
    }
    let offsets = offsets(&function.parameters);
    let end = offsets.last().map_or(0, |(start, parameter)| start + parameter.bytes);
    if size < end || buffer.is_null() && end > 0 {
        return Err(INVALID_VALUE);
    }
    // SAFETY: within the buffer.
    Ok(offsets.iter().map(|(start, parameter)| unsafe { bytes(buffer.add(*start), parameter.bytes) }).collect())
}

/// # Safety
///
/// So many bytes may be read from there.
unsafe fn bytes(from: *const u8, count: usize) -> Vec<u8> {
    // SAFETY: the caller's word.
    unsafe { std::slice::from_raw_parts(from, count) }.to_vec()
}
