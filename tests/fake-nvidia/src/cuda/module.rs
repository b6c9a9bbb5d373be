//! Modules and their functions.

use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    fs,
};

use super::{
    Handle, Process, Sees, answer,
    attributes::{BLOCK_THREADS, SHARED_BYTES, SHARED_BYTES_MAX},
    codes,
    image::{self, Image, Parameter},
    in_context, process, put, stream, with_part,
};
use crate::c_interface::{Code, text};
use codes::{
    FILE_NOT_FOUND, INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NO_BINARY_FOR_GPU, NOT_FOUND, NOT_SUPPORTED, UNSUPPORTED_PTX_VERSION,
};

const MAX_THREADS: c_uint = 0;
const REGISTERS: c_uint = 4;
const PTX_VERSION: c_uint = 5;
const BINARY_VERSION: c_uint = 6;
const MAX_DYNAMIC_SHARED: c_uint = 8;
/// The first CUDA version whose drivers tell a kernel's parameters.
const TELLS_PARAMETERS: i32 = 12_040;
/// NVIDIA's numbers of function attributes end before this one.
const ATTRIBUTES: c_uint = 18;

/// A module.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) context: Handle,
    image: Image,
}

/// A kernel.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) module: Handle,
    pub(super) name: String,
    pub(super) parameters: Vec<Parameter>,
    /// Bytes of shared memory that a launch may ask for.
    pub(super) shared_bytes: u32,
}

impl Process {
    pub(super) fn function(&self, function: Handle) -> Result<&Function, Code> {
        self.functions.get(&function).ok_or(INVALID_HANDLE)
    }
}

/// # Safety
///
/// The place is null or may be written.
unsafe fn load(module: *mut Handle, context: Handle, image: Image) -> Result<(), Code> {
    let (newest, capability) =
        with_part(context, |script, part| (newest_ptx(script.machine.cuda_driver_version), part.gpu.compute_capability))?;
    match image.is_cubin {
        true if image.target.0 != capability.0 || image.target > capability => return Err(NO_BINARY_FOR_GPU),
        false if image.version > newest => return Err(UNSUPPORTED_PTX_VERSION),
        false if image.target > capability => return Err(INVALID_PTX),
        _ => {}
    }
    let mut process = process();
    let handle = process.new_handle();
    process.modules.insert(handle, Module { context, image });
    // SAFETY: the caller's word.
    unsafe { put(module, handle) }
}

/// The newest PTX that a driver reads: 8.4 for CUDA 12.4.
fn newest_ptx(cuda_driver_version: i32) -> (u32, u32) {
    let version = u32::try_from(cuda_driver_version).unwrap_or(0);
    let (major, minor) = (version / 1_000, version % 1_000 / 10);
    (major.saturating_sub(4), minor)
}

/// From PTX, or a cubin of the fake NVRTC, in memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> Code {
    // SAFETY: the caller gives an image, and a place for the handle, or null.
    in_context(Sees::NewErrors, |context| unsafe { load(module, context, image::read(image)?) })
}

/// As `cuModuleLoadData`; the options have no effect.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's word.
    unsafe { cuModuleLoadData(module, image) }
}

/// From a file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: *mut Handle, path: *const c_char) -> Code {
    in_context(Sees::NewErrors, |context| {
        // SAFETY: the caller gives a text that ends with a zero, or null.
        let path = unsafe { text(path) }.ok_or(INVALID_VALUE)?;
        let bytes = fs::read(path).map_err(|_| FILE_NOT_FOUND)?;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { load(module, context, image::parse(&bytes)?) }
    })
}

/// Its functions go with it. Waits for all that runs in its context.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> Code {
    answer(|| {
        let context = process().modules.get(&module).ok_or(INVALID_HANDLE)?.context;
        // What went wrong there is told by other calls.
        let _ = stream::wait_for_all(context);
        let mut process = process();
        process.modules.remove(&module).ok_or(INVALID_HANDLE)?;
        process.functions.retain(|_, function| function.module != module);
        Ok(())
    })
}

/// By its name in the image: that of C++ functions is mangled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> Code {
    in_context(Sees::OldErrors, |_| {
        // SAFETY: the caller gives a text that ends with a zero, or null.
        let name = unsafe { text(name) }.ok_or(INVALID_VALUE)?;
        let mut process = process();
        let entries = &process.modules.get(&module).ok_or(INVALID_HANDLE)?.image.entries;
        let entry = entries.iter().find(|entry| entry.name == name).ok_or(NOT_FOUND)?.clone();
        let known = process.functions.iter().find(|(_, known)| known.module == module && known.name == name).map(|(handle, _)| *handle);
        let handle = known.unwrap_or_else(|| process.new_handle());
        if known.is_none() {
            let made = Function { module, name: entry.name, parameters: entry.parameters, shared_bytes: SHARED_BYTES };
            process.functions.insert(handle, made);
        }
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(function, handle) }
    })
}

/// Images here have no global variables.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(_pointer: *mut u64, _bytes: *mut usize, module: Handle, _name: *const c_char) -> Code {
    in_context(Sees::OldErrors, |_| process().modules.get(&module).map_or(Err(INVALID_HANDLE), |_| Err(NOT_FOUND)))
}

/// Where a parameter lies among the others, and its bytes. Past the last one `INVALID_VALUE`. A driver older than CUDA 12.4 has no such function: this
/// library exports it all the same, and refuses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(function: Handle, index: usize, offset: *mut usize, bytes: *mut usize) -> Code {
    in_context(Sees::OldErrors, |context| {
        if with_part(context, |script, _| script.machine.cuda_driver_version)? < TELLS_PARAMETERS {
            return Err(NOT_SUPPORTED);
        }
        let process = process();
        let parameters = &process.function(function)?.parameters;
        let (start, parameter) = *offsets(parameters).get(index).ok_or(INVALID_VALUE)?;
        // SAFETY: the caller gives a place for the first number, and one or null for the second.
        unsafe {
            put(offset, start)?;
            if bytes.is_null() { Ok(()) } else { put(bytes, parameter.bytes) }
        }
    })
}

/// Where each parameter lies when they stand one after the other.
pub(super) fn offsets(parameters: &[Parameter]) -> Vec<(usize, Parameter)> {
    let place = |end: &mut usize, parameter: &Parameter| {
        let start = end.next_multiple_of(parameter.alignment.max(1));
        *end = start + parameter.bytes;
        Some((start, *parameter))
    };
    parameters.iter().scan(0, place).collect()
}

/// What a compiled kernel needs and is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Handle) -> Code {
    in_context(Sees::OldErrors, |context| {
        let (major, minor) = with_part(context, |_, part| part.gpu.compute_capability)?;
        let process = process();
        let function = process.function(function)?;
        let number = match attribute {
            MAX_THREADS => BLOCK_THREADS,
            REGISTERS => 32,
            PTX_VERSION | BINARY_VERSION => major * 10 + minor,
            MAX_DYNAMIC_SHARED => function.shared_bytes,
            _ if attribute < ATTRIBUTES => 0,
            _ => return Err(INVALID_VALUE),
        };
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(value, c_int::try_from(number).map_err(|_| INVALID_VALUE)?) }
    })
}

/// Only the shared memory that launches may ask for has an effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> Code {
    in_context(Sees::OldErrors, |_| {
        let mut process = process();
        let function = process.functions.get_mut(&function).ok_or(INVALID_HANDLE)?;
        if attribute >= ATTRIBUTES {
            return Err(INVALID_VALUE);
        }
        if attribute == MAX_DYNAMIC_SHARED {
            let bytes = u32::try_from(value).ok().filter(|bytes| *bytes <= SHARED_BYTES_MAX);
            function.shared_bytes = bytes.ok_or(INVALID_VALUE)?;
        }
        Ok(())
    })
}

/// The preferred cache, which has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: Handle, _cache: c_uint) -> Code {
    in_context(Sees::OldErrors, |_| process().function(function).map(drop))
}

/// As the other; the flags have no effect.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    shared: usize,
    _flags: c_uint,
) -> Code {
    // SAFETY: the caller's word.
    unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared) }
}

/// Two blocks of any kernel fit on a multiprocessor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    _shared: usize,
) -> Code {
    in_context(Sees::OldErrors, |_| {
        process().function(function)?;
        if threads <= 0 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(blocks, 2) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_lie_at_multiples_of_their_alignment() {
        let parameters = [4, 4, 8, 1, 8].map(Parameter::plain);
        let starts: Vec<usize> = offsets(&parameters).iter().map(|(start, _)| *start).collect();
        assert_eq!(starts, [0, 4, 8, 16, 24]);
    }

    #[test]
    fn a_driver_reads_the_ptx_of_its_own_toolkit() {
        assert_eq!(newest_ptx(12_040), (8, 4));
        assert_eq!(newest_ptx(13_000), (9, 0));
    }
}
