//! The CUDA driver: one process's view of the devices that `CUDA_VISIBLE_DEVICES` leaves it.
//!
//! Device pointers are addresses of this process, and all work runs on the CPU in the calling threads: at the call when the stream is idle, else once
//! it is. Errors of kernels show later, at the next call that looks for them, and then stay for the whole process, as with a real context.
//! Left out: the implicit order between the default stream and others, graphs, and everything that our programs do not call.

mod attributes;
pub(crate) mod codes;
mod context;
mod copies;
mod device;
mod event;
mod image;
mod ipc;
mod kernels;
mod launch;
mod mapping;
mod memory;
mod module;
mod pinned;
mod pools;
mod stream;
mod visible;

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

pub(crate) use image::{CUBIN_MARK, Parameter};
pub(crate) use kernels::{Array, Device, Value};
pub(crate) use memory::{allocate, release};

use crate::{
    c_interface::{self, Code, lock},
    state::{Part, Script},
};
use codes::{INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NOT_INITIALIZED, UNKNOWN};

/// A context, stream, event, module or function: a number that is never reused, and never an address.
pub(crate) type Handle = usize;

/// The first handles are left to the special streams: null, legacy and per-thread.
const FIRST_HANDLE: Handle = 0x100;

static PROCESS: Mutex<Process> = Mutex::new(Process::new());

thread_local! {
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

/// All that CUDA keeps for this process.
pub(crate) struct Process {
    /// Absent before `cuInit`.
    devices: Option<Vec<device::Device>>,
    last_handle: Handle,
    contexts: BTreeMap<Handle, context::Context>,
    streams: BTreeMap<Handle, stream::Stream>,
    events: BTreeMap<Handle, event::Event>,
    modules: BTreeMap<Handle, module::Module>,
    functions: BTreeMap<Handle, module::Function>,
    memory: memory::Memory,
    pinned: pinned::Pinned,
    pools: pools::Pools,
    /// The error of a kernel that nobody has seen yet.
    latent: Option<Code>,
    /// The error that every call now returns.
    sticky: Option<Code>,
}

/// Whether a call looks for the errors of kernels that ran, or only remembers those that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sees {
    NewErrors,
    OldErrors,
}

impl Process {
    const fn new() -> Self {
        Self {
            devices: None,
            last_handle: FIRST_HANDLE,
            contexts: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            memory: memory::Memory::new(),
            pinned: pinned::Pinned::new(),
            pools: pools::Pools::new(),
            latent: None,
            sticky: None,
        }
    }

    fn new_handle(&mut self) -> Handle {
        self.last_handle += 1;
        self.last_handle
    }

    fn check(&mut self, sees: Sees) -> Result<(), Code> {
        if sees == Sees::NewErrors && self.sticky.is_none() {
            self.sticky = self.latent;
        }
        self.sticky.map_or(Ok(()), Err)
    }

    fn devices(&self) -> Result<&[device::Device], Code> {
        self.devices.as_deref().ok_or(NOT_INITIALIZED)
    }

    /// The UUID of the GPU or MIG instance that a device is.
    fn uuid(&self, device: usize) -> Result<String, Code> {
        self.devices()?.get(device).map(|device| device.uuid.clone()).ok_or(INVALID_DEVICE)
    }

    fn context(&self, handle: Handle) -> Result<&context::Context, Code> {
        self.contexts.get(&handle).ok_or(INVALID_CONTEXT)
    }
}

/// The process's state. Never held while waiting for anything.
pub(crate) fn process() -> MutexGuard<'static, Process> {
    lock(&PROCESS)
}

/// An exported function's body.
fn answer(body: impl FnOnce() -> Result<(), Code>) -> Code {
    c_interface::answer(UNKNOWN, body)
}

/// # Safety
///
/// The place is null or may be written.
unsafe fn put<T>(place: *mut T, value: T) -> Result<(), Code> {
    // SAFETY: the caller's word.
    unsafe { c_interface::put(place, value, INVALID_VALUE) }
}

/// The calling thread's context, in a process without a known error.
pub(crate) fn current(sees: Sees) -> Result<Handle, Code> {
    let mut process = process();
    process.devices()?;
    let context = CURRENT.get();
    process.context(context)?;
    process.check(sees)?;
    Ok(context)
}

/// The body of an exported function that works in the calling thread's context.
fn in_context(sees: Sees, body: impl FnOnce(Handle) -> Result<(), Code>) -> Code {
    answer(|| body(current(sees)?))
}

/// Puts the work of a library into a stream of a context.
pub(crate) fn submit(
    context: Handle,
    stream: Handle,
    run: impl FnOnce(&Device<'_>) -> Result<(), Code> + Send + 'static,
) -> Result<(), Code> {
    let mut process = process();
    let stream = process.stream(context, stream)?;
    process.submit(stream, stream::Work::Run(Box::new(move |process| run(&Device { process, context }))))
}

fn script() -> Result<Arc<Script>, Code> {
    Script::read().map_err(device::code_of)
}

/// What the script says now of the device of this context.
pub(crate) fn with_part<T>(context: Handle, body: impl FnOnce(&Script, &Part<'_>) -> T) -> Result<T, Code> {
    let uuid = {
        let process = process();
        process.uuid(process.context(context)?.device)?
    };
    let script = script()?;
    let part = script.part(&uuid).ok_or(UNKNOWN)?;
    Ok(body(&script, &part))
}
