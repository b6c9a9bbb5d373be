//! Streams: work in order. There is no device behind them: whoever calls CUDA moves all streams on as far as time allows.

use std::{
    collections::VecDeque,
    ffi::{c_int, c_uint},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use super::{Handle, Process, Sees, codes, in_context, process, put};
use crate::c_interface::Code;
use codes::{INVALID_HANDLE, NOT_READY};

/// How long a call that waits sleeps at most before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The default stream, under the names that stand for it in every context: null, legacy, per-thread.
const DEFAULT_STREAMS: Handle = 2;

/// A point in a stream's work, with the time at which the stream got there.
pub(super) type Mark = Arc<OnceLock<Instant>>;

/// What runs on the CPU.
type Run = Box<dyn FnOnce(&mut Process) -> Result<(), Code> + Send>;

/// One piece of work.
pub(super) enum Work {
    /// Runs on the CPU in no time.
    Run(Run),
    /// Takes this long; without a duration, for ever.
    Busy(Option<Duration>),
    /// Says that the stream got here.
    Reach(Mark),
    /// Waits for another stream.
    Await(Mark),
}

/// A stream.
pub(super) struct Stream {
    pub(super) context: Handle,
    waiting: VecDeque<(Instant, Work)>,
    /// When the last piece of work ends or ended.
    clock: Instant,
    endless: bool,
    /// Destroyed by its owner, and gone once its work is done.
    released: bool,
}

impl Stream {
    pub(super) fn new(context: Handle) -> Self {
        Self { context, waiting: VecDeque::new(), clock: Instant::now(), endless: false, released: false }
    }

    fn is_idle(&self, now: Instant) -> bool {
        !self.endless && self.waiting.is_empty() && self.clock <= now
    }

    fn next(&mut self, now: Instant) -> Option<(Instant, Work)> {
        if self.endless || self.clock > now {
            return None;
        }
        match self.waiting.front()? {
            (_, Work::Await(mark)) if mark.get().is_none() => None,
            _ => self.waiting.pop_front(),
        }
    }
}

impl Process {
    /// Adds work to a stream; it is done at once where the stream is idle.
    pub(super) fn submit(&mut self, stream: Handle, work: Work) -> Result<(), Code> {
        self.streams.get_mut(&stream).ok_or(INVALID_HANDLE)?.waiting.push_back((Instant::now(), work));
        self.move_on();
        Ok(())
    }

    /// Does all work whose time has come. After an error nothing more is done.
    pub(super) fn move_on(&mut self) {
        loop {
            let now = Instant::now();
            let ready = self.streams.iter_mut().find_map(|(handle, stream)| Some((*handle, stream.next(now)?)));
            let Some((handle, (since, work))) = ready else { break };
            let result = self.perform(handle, since, work);
            if let Err(code) = result {
                self.latent = self.latent.or(Some(code));
                for stream in self.streams.values_mut() {
                    (stream.endless, stream.clock) = (false, now);
                    stream.waiting.clear();
                }
            }
        }
        let now = Instant::now();
        self.streams.retain(|_, stream| !stream.released || !stream.is_idle(now));
    }

    fn perform(&mut self, handle: Handle, since: Instant, work: Work) -> Result<(), Code> {
        let began = Instant::now();
        let Some(stream) = self.streams.get_mut(&handle) else { return Ok(()) };
        let start = stream.clock.max(since);
        match work {
            Work::Busy(Some(duration)) => stream.clock = start + duration,
            Work::Busy(None) => stream.endless = true,
            Work::Reach(mark) => {
                stream.clock = start;
                // It is set once: here.
                let _ = mark.set(start);
            }
            Work::Await(mark) => stream.clock = mark.get().map_or(start, |reached| start.max(*reached)),
            Work::Run(run) => {
                run(self)?;
                if let Some(stream) = self.streams.get_mut(&handle) {
                    // Work that ran late took its time all the same, but does not end in the future.
                    stream.clock = (start + began.elapsed()).min(Instant::now());
                }
            }
        }
        Ok(())
    }

    /// The stream that a caller means.
    pub(super) fn stream(&self, context: Handle, stream: Handle) -> Result<Handle, Code> {
        if stream <= DEFAULT_STREAMS {
            return Ok(self.context(context)?.default_stream);
        }
        let known = self.streams.get(&stream).is_some_and(|known| !known.released);
        known.then_some(stream).ok_or(INVALID_HANDLE)
    }

    pub(super) fn is_idle(&self, stream: Handle) -> bool {
        self.streams.get(&stream).is_none_or(|stream| stream.is_idle(Instant::now()))
    }
}

/// Waits until something is so. Errors of kernels end the wait.
pub(super) fn wait_until(is_so: impl Fn(&Process) -> bool) -> Result<(), Code> {
    loop {
        {
            let mut process = process();
            process.move_on();
            process.check(Sees::NewErrors)?;
            if is_so(&process) {
                return Ok(());
            }
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Waits until all work of a stream is done.
pub(crate) fn wait_for(stream: Handle) -> Result<(), Code> {
    wait_until(|process| process.is_idle(stream))
}

/// Waits until all work of a context is done.
pub(super) fn wait_for_all(context: Handle) -> Result<(), Code> {
    wait_until(|process| {
        let now = Instant::now();
        process.streams.values().all(|stream| stream.context != context || stream.is_idle(now))
    })
}

/// A stream of its own order. The flags have no effect.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) -> Code {
    in_context(Sees::OldErrors, |context| {
        let mut process = process();
        let handle = process.new_handle();
        process.streams.insert(handle, Stream::new(context));
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(stream, handle) }
    })
}

/// As `cuStreamCreate`; the priority has no effect.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, _priority: c_int) -> Code {
    // SAFETY: the caller's word.
    unsafe { cuStreamCreate(stream, flags) }
}

/// Does not wait: what is in the stream is still done.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> Code {
    super::answer(|| {
        let mut process = process();
        let known = process.streams.get_mut(&stream).filter(|known| !known.released);
        known.ok_or(INVALID_HANDLE)?.released = true;
        process.move_on();
        Ok(())
    })
}

/// Waits until all work of a stream is done.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> Code {
    in_context(Sees::NewErrors, |context| {
        let stream = process().stream(context, stream)?;
        wait_for(stream)?;
        process().trim()
    })
}

/// `NOT_READY` while work is left.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> Code {
    in_context(Sees::NewErrors, |context| {
        let mut process = process();
        let stream = process.stream(context, stream)?;
        process.move_on();
        process.check(Sees::NewErrors)?;
        if process.is_idle(stream) { Ok(()) } else { Err(NOT_READY) }
    })
}

/// Lets a stream wait for what another stream has before the event. An event that was never recorded is no wait.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> Code {
    in_context(Sees::OldErrors, |context| {
        let mut process = process();
        let stream = process.stream(context, stream)?;
        match process.events.get(&event).ok_or(INVALID_HANDLE)?.mark.clone() {
            Some(mark) => process.submit(stream, Work::Await(mark)),
            None => Ok(()),
        }
    })
}

/// Never: capturing is left out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut c_uint) -> Code {
    in_context(Sees::OldErrors, |context| {
        process().stream(context, stream)?;
        // SAFETY: the caller gives a place for the status, or null.
        unsafe { put(status, 0) }
    })
}
