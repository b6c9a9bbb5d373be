//! What every exported function does: it answers with a code, writes through pointers that may be null, and never unwinds into C.

use std::{
    ffi::{CStr, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// An error code of one of the libraries. Zero, success, is never one.
pub(crate) type Code = u32;

/// The code for the caller. A panic is answered with `unexpected`.
pub(crate) fn answer(unexpected: Code, body: impl FnOnce() -> Result<(), Code>) -> Code {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code,
        Err(_) => unexpected,
    }
}

/// Writes the value, or answers `invalid` when the place is null.
///
/// # Safety
///
/// The place is null or may be written.
pub(crate) unsafe fn put<T>(place: *mut T, value: T, invalid: Code) -> Result<(), Code> {
    if place.is_null() {
        return Err(invalid);
    }
    // SAFETY: not null, and the caller's word for the rest. C callers do not promise alignment.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Writes the text with its zero byte, or answers `false` when the buffer is null or too short.
///
/// # Safety
///
/// The buffer is null or `length` bytes of it may be written.
pub(crate) unsafe fn put_text(buffer: *mut c_char, length: usize, text: &str) -> bool {
    if buffer.is_null() || text.len() >= length {
        return false;
    }
    // SAFETY: the text and its zero byte fit in the buffer.
    unsafe {
        buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        buffer.add(text.len()).write(0);
    }
    true
}

/// The text at a pointer, or none when it is null or not UTF-8.
///
/// # Safety
///
/// The pointer is null or leads to bytes that end with a zero.
pub(crate) unsafe fn text<'a>(pointer: *const c_char) -> Option<&'a str> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller's word for the rest.
    unsafe { CStr::from_ptr(pointer) }.to_str().ok()
}

/// An array of C characters with the text in it, cut where it is too long, and zeros behind it.
pub(crate) fn characters<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (place, byte) in array.iter_mut().take(N - 1).zip(text.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    array
}

/// Locks, also after a panic of another holder: the fakes go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
