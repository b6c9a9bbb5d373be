//! Events: points in streams, with a time.

use std::{ffi::c_uint, sync::Arc, time::Instant};

use super::{
    Handle, Sees, answer, codes, in_context, process, put,
    stream::{Mark, Work, wait_until},
};
use crate::c_interface::Code;
use codes::{INVALID_HANDLE, NOT_READY};

const DISABLE_TIMING: c_uint = 2;

/// An event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) context: Handle,
    is_timed: bool,
    /// Where it was recorded last.
    pub(super) mark: Option<Mark>,
}

/// An event that is recorded nowhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: c_uint) -> Code {
    in_context(Sees::OldErrors, |context| {
        let mut process = process();
        let handle = process.new_handle();
        process.events.insert(handle, Event { context, is_timed: flags & DISABLE_TIMING == 0, mark: None });
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(event, handle) }
    })
}

/// Does not wait: who waits for it still does.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> Code {
    answer(|| process().events.remove(&event).map(drop).ok_or(INVALID_HANDLE))
}

/// Puts the event behind all work of a stream of its own context.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> Code {
    in_context(Sees::OldErrors, |context| {
        let mut process = process();
        let stream = process.stream(context, stream)?;
        let of_stream = process.streams.get(&stream).ok_or(INVALID_HANDLE)?.context;
        let event = process.events.get_mut(&event).filter(|event| event.context == of_stream).ok_or(INVALID_HANDLE)?;
        let mark = Mark::default();
        event.mark = Some(Arc::clone(&mark));
        process.submit(stream, Work::Reach(mark))
    })
}

/// `NOT_READY` until its stream has got there.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> Code {
    answer(|| {
        let mut process = process();
        process.move_on();
        process.check(Sees::NewErrors)?;
        let event = process.events.get(&event).ok_or(INVALID_HANDLE)?;
        let is_there = event.mark.as_ref().is_none_or(|mark| mark.get().is_some());
        if is_there { Ok(()) } else { Err(NOT_READY) }
    })
}

/// Waits until its stream has got there.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> Code {
    answer(|| {
        let mark = process().events.get(&event).ok_or(INVALID_HANDLE)?.mark.clone();
        wait_until(|_| mark.as_ref().is_none_or(|mark| mark.get().is_some()))?;
        process().trim()
    })
}

/// The milliseconds between two events that were recorded, are reached, and keep their time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> Code {
    answer(|| {
        let mut process = process();
        process.move_on();
        process.check(Sees::NewErrors)?;
        let reached = |event: Handle| -> Result<Instant, Code> {
            let event = process.events.get(&event).filter(|event| event.is_timed).ok_or(INVALID_HANDLE)?;
            event.mark.as_ref().ok_or(INVALID_HANDLE)?.get().copied().ok_or(NOT_READY)
        };
        let (start, end) = (reached(start)?, reached(end)?);
        let seconds = end.saturating_duration_since(start).as_secs_f32() - start.saturating_duration_since(end).as_secs_f32();
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(milliseconds, seconds * 1e3) }
    })
}

/// As `cuEventElapsedTime`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) -> Code {
    // SAFETY: the caller's word.
    unsafe { cuEventElapsedTime(milliseconds, start, end) }
}
