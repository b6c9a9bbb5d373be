//! cuBLAS: products of matrices in column-major order, on the CPU, in the order of a stream.

mod exports;
mod product;

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::Mutex,
};

use crate::{
    c_interface::{self, Code, lock},
    cuda::{self, Handle, Sees},
};

const NOT_INITIALIZED: Code = 1;
const ALLOC_FAILED: Code = 3;
const INVALID_VALUE: Code = 7;
const EXECUTION_FAILED: Code = 13;
const INTERNAL_ERROR: Code = 14;
const NOT_SUPPORTED: Code = 15;

/// 12.4.5.
const VERSION: c_int = 120_405;

/// What a handle takes of its device.
const WORKSPACE_BYTES: usize = 8 << 20;

/// What belongs to a handle.
#[derive(Debug, Clone)]
struct Session {
    context: Handle,
    stream: Handle,
    workspace: u64,
    /// Scalars are in the device's memory.
    device_scalars: bool,
    math_mode: c_uint,
}

#[derive(Debug)]
struct Sessions {
    last: Handle,
    open: BTreeMap<Handle, Session>,
}

static SESSIONS: Mutex<Sessions> = Mutex::new(Sessions { last: 0, open: BTreeMap::new() });

fn answer(body: impl FnOnce() -> Result<(), Code>) -> Code {
    c_interface::answer(INTERNAL_ERROR, body)
}

/// # Safety
///
/// The place is null or may be written.
unsafe fn put<T>(place: *mut T, value: T) -> Result<(), Code> {
    // SAFETY: the caller's word.
    unsafe { c_interface::put(place, value, INVALID_VALUE) }
}

/// The calling thread's context. A process with an error of a kernel executes nothing any more.
fn current() -> Result<Handle, Code> {
    cuda::current(Sees::NewErrors).map_err(|code| match code {
        cuda::codes::NOT_INITIALIZED | cuda::codes::INVALID_CONTEXT => NOT_INITIALIZED,
        _ => EXECUTION_FAILED,
    })
}

fn session(handle: Handle) -> Result<Session, Code> {
    lock(&SESSIONS).open.get(&handle).cloned().ok_or(NOT_INITIALIZED)
}

fn with_session(handle: Handle, body: impl FnOnce(&mut Session) -> Result<(), Code>) -> Code {
    answer(|| body(lock(&SESSIONS).open.get_mut(&handle).ok_or(NOT_INITIALIZED)?))
}

/// A handle for the calling thread's context, with a workspace on its device. The script may refuse.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasCreate_v2(handle: *mut Handle) -> Code {
    answer(|| {
        let context = current()?;
        let refusal = cuda::with_part(context, |_, part| part.gpu.cublas_init_error).map_err(|_| NOT_INITIALIZED)?;
        refusal.map_or(Ok(()), Err)?;
        let workspace = cuda::allocate(context, WORKSPACE_BYTES).map_err(|_| ALLOC_FAILED)?;
        let mut sessions = lock(&SESSIONS);
        sessions.last += 1;
        let number = sessions.last;
        sessions.open.insert(number, Session { context, stream: 0, workspace, device_scalars: false, math_mode: 0 });
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(handle, number) }
    })
}

/// Frees the workspace. It succeeds also after an error of a kernel.
#[unsafe(no_mangle)]
pub extern "C" fn cublasDestroy_v2(handle: Handle) -> Code {
    answer(|| {
        let session = lock(&SESSIONS).open.remove(&handle).ok_or(NOT_INITIALIZED)?;
        cuda::release(session.workspace);
        Ok(())
    })
}

/// Where the products are put from now on.
#[unsafe(no_mangle)]
pub extern "C" fn cublasSetStream_v2(handle: Handle, stream: Handle) -> Code {
    answer(|| {
        current()?;
        lock(&SESSIONS).open.get_mut(&handle).ok_or(NOT_INITIALIZED)?.stream = stream;
        Ok(())
    })
}

/// Where the products are put.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGetStream_v2(handle: Handle, stream: *mut Handle) -> Code {
    // SAFETY: the caller gives a place for the handle, or null.
    with_session(handle, |session| unsafe { put(stream, session.stream) })
}

/// The caller's workspace is not needed.
#[unsafe(no_mangle)]
pub extern "C" fn cublasSetWorkspace_v2(handle: Handle, _workspace: *mut c_void, _bytes: usize) -> Code {
    with_session(handle, |_| Ok(()))
}

/// The mode is kept and has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cublasSetMathMode(handle: Handle, mode: c_uint) -> Code {
    with_session(handle, |session| {
        session.math_mode = mode;
        Ok(())
    })
}

/// The mode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGetMathMode(handle: Handle, mode: *mut c_uint) -> Code {
    // SAFETY: the caller gives a place for the mode, or null.
    with_session(handle, |session| unsafe { put(mode, session.math_mode) })
}

/// Whether scalars are in the memory of the host (0) or of the device (1).
#[unsafe(no_mangle)]
pub extern "C" fn cublasSetPointerMode_v2(handle: Handle, mode: c_uint) -> Code {
    with_session(handle, |session| {
        session.device_scalars = match mode {
            0 => false,
            1 => true,
            _ => return Err(INVALID_VALUE),
        };
        Ok(())
    })
}

/// Where scalars are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGetPointerMode_v2(handle: Handle, mode: *mut c_uint) -> Code {
    // SAFETY: the caller gives a place for the mode, or null.
    with_session(handle, |session| unsafe { put(mode, c_uint::from(session.device_scalars)) })
}

/// 12.4.5, as one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGetVersion_v2(_handle: Handle, version: *mut c_int) -> Code {
    // SAFETY: the caller gives a place for the number, or null.
    answer(|| unsafe { put(version, VERSION) })
}

/// Major, minor, patch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGetProperty(property: c_uint, value: *mut c_int) -> Code {
    answer(|| {
        let parts = [VERSION / 10_000, VERSION / 100 % 100, VERSION % 100];
        let part = *parts.get(property as usize).ok_or(INVALID_VALUE)?;
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(value, part) }
    })
}

/// A static text; never null.
#[unsafe(no_mangle)]
pub extern "C" fn cublasGetStatusName(status: Code) -> *const c_char {
    let name: &CStr = match status {
        0 => c"CUBLAS_STATUS_SUCCESS",
        NOT_INITIALIZED => c"CUBLAS_STATUS_NOT_INITIALIZED",
        ALLOC_FAILED => c"CUBLAS_STATUS_ALLOC_FAILED",
        INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"CUBLAS_STATUS_INTERNAL_ERROR",
    };
    name.as_ptr()
}

/// As `cublasGetStatusName`.
#[unsafe(no_mangle)]
pub extern "C" fn cublasGetStatusString(status: Code) -> *const c_char {
    cublasGetStatusName(status)
}
