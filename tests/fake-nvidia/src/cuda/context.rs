//! Contexts: the primary one of each device, and others.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{c_int, c_uint, c_void},
};

use super::{CURRENT, Handle, Process, Sees, answer, codes, device, in_context, memory, process, put, stream};
use crate::c_interface::Code;
use codes::{
    INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, PEER_ACCESS_ALREADY_ENABLED, PEER_ACCESS_NOT_ENABLED, PEER_ACCESS_UNSUPPORTED, UNKNOWN,
    UNSUPPORTED_LIMIT,
};

/// NVIDIA's numbers of limits end before this one.
const LIMITS: c_uint = 11;

/// A context.
#[derive(Debug)]
pub(super) struct Context {
    /// The device's place among the visible ones.
    pub(super) device: usize,
    pub(super) default_stream: Handle,
    /// The devices whose memory its kernels may use.
    pub(super) peers: BTreeSet<usize>,
    limits: BTreeMap<c_uint, usize>,
    cache: c_uint,
    flags: c_uint,
}

impl Process {
    fn open(&mut self, handle: Handle, device: usize, flags: c_uint) {
        let default_stream = self.new_handle();
        self.streams.insert(default_stream, stream::Stream::new(handle));
        let context = Context { device, default_stream, peers: BTreeSet::new(), limits: BTreeMap::new(), cache: 0, flags };
        self.contexts.insert(handle, context);
    }

    /// Everything that was made in the context goes with it.
    fn close(&mut self, handle: Handle) -> Result<(), Code> {
        let context = self.contexts.remove(&handle).ok_or(INVALID_CONTEXT)?;
        self.streams.retain(|_, stream| stream.context != handle);
        self.events.retain(|_, event| event.context != handle);
        self.modules.retain(|_, module| module.context != handle);
        let modules: BTreeSet<Handle> = self.modules.keys().copied().collect();
        self.functions.retain(|_, function| modules.contains(&function.module));
        self.memory.forget(handle);
        if !self.has_context_on(context.device) {
            self.pools.empty(context.device);
        }
        memory::record(self, context.device)
    }

    pub(super) fn has_context_on(&self, device: usize) -> bool {
        self.contexts.values().any(|context| context.device == device)
    }
}

/// Opens the device's own context, or takes one more share in it. The script may refuse, and so may a full device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> Code {
    answer(|| {
        let refusal = device::with_device(device, |_, part| Ok(part.gpu.cuda_init_error))?;
        refusal.map_or(Ok(()), Err)?;
        let mut process = process();
        process.check(Sees::OldErrors)?;
        let ordinal = usize::try_from(device).map_err(|_| INVALID_DEVICE)?;
        let handle = process.device_mut(device)?.primary;
        if !process.contexts.contains_key(&handle) {
            memory::reserve_context(&process, ordinal)?;
            process.open(handle, ordinal, 0);
        }
        process.device_mut(device)?.retained += 1;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(context, handle) }
    })
}

/// Gives one share back; the last one closes the context.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Code {
    answer(|| {
        let mut process = process();
        let entry = process.device_mut(device)?;
        entry.retained = entry.retained.checked_sub(1).ok_or(INVALID_CONTEXT)?;
        let (retained, primary) = (entry.retained, entry.primary);
        if retained == 0 { process.close(primary) } else { Ok(()) }
    })
}

/// The flags are kept and have no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) -> Code {
    answer(|| {
        let mut process = process();
        let primary = process.device_mut(device)?.primary;
        if let Some(context) = process.contexts.get_mut(&primary) {
            context.flags = flags;
        }
        Ok(())
    })
}

/// The flags, and whether the context is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) -> Code {
    answer(|| {
        let mut process = process();
        let primary = process.device_mut(device)?.primary;
        let context = process.contexts.get(&primary);
        // SAFETY: the caller gives places for the numbers, or null.
        unsafe {
            put(flags, context.map_or(0, |context| context.flags))?;
            put(active, c_int::from(context.is_some()))
        }
    })
}

/// Opens one more context and makes it current.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut Handle, flags: c_uint, device: c_int) -> Code {
    answer(|| {
        let refusal = device::with_device(device, |_, part| Ok(part.gpu.cuda_init_error))?;
        refusal.map_or(Ok(()), Err)?;
        let mut process = process();
        process.check(Sees::OldErrors)?;
        let ordinal = usize::try_from(device).map_err(|_| INVALID_DEVICE)?;
        memory::reserve_context(&process, ordinal)?;
        let handle = process.new_handle();
        process.open(handle, ordinal, flags);
        CURRENT.set(handle);
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(context, handle) }
    })
}

/// As `cuCtxCreate_v2`; the parameters are of no consequence here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(context: *mut Handle, _parameters: *mut c_void, flags: c_uint, device: c_int) -> Code {
    // SAFETY: the caller's word.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

/// Closes a context that is no primary one.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Handle) -> Code {
    answer(|| {
        let mut process = process();
        if process.devices()?.iter().any(|device| device.primary == context) {
            return Err(INVALID_CONTEXT);
        }
        if CURRENT.get() == context {
            CURRENT.set(0);
        }
        process.close(context)
    })
}

/// Makes a context the calling thread's; null takes it away.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> Code {
    answer(|| {
        let process = process();
        process.devices()?;
        if context != 0 {
            process.context(context)?;
        }
        CURRENT.set(context);
        Ok(())
    })
}

/// The calling thread's context, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> Code {
    answer(|| {
        process().devices()?;
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(context, CURRENT.get()) }
    })
}

/// The device of the calling thread's context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> Code {
    answer(|| {
        let process = process();
        process.devices()?;
        let ordinal = process.context(CURRENT.get())?.device;
        // SAFETY: the caller gives a place for the device, or null.
        unsafe { put(device, c_int::try_from(ordinal).map_err(|_| UNKNOWN)?) }
    })
}

/// Waits for all streams of the context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    in_context(Sees::NewErrors, |context| {
        stream::wait_for_all(context)?;
        process().trim()
    })
}

/// The flags are kept and have no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: c_uint) -> Code {
    change(|context| context.flags = flags)
}

/// The flags.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetFlags(flags: *mut c_uint) -> Code {
    // SAFETY: the caller gives a place for the flags, or null.
    in_context(Sees::OldErrors, |context| unsafe { put(flags, process().context(context)?.flags) })
}

/// The preferred cache, which has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(cache: c_uint) -> Code {
    change(|context| context.cache = cache)
}

/// The preferred cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCacheConfig(cache: *mut c_uint) -> Code {
    // SAFETY: the caller gives a place for the number, or null.
    in_context(Sees::OldErrors, |context| unsafe { put(cache, process().context(context)?.cache) })
}

/// A limit that was set, or that a context has from the start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetLimit(value: *mut usize, limit: c_uint) -> Code {
    const FROM_THE_START: [usize; 3] = [1_024, 1 << 20, 8 << 20];
    in_context(Sees::OldErrors, |context| {
        if limit >= LIMITS {
            return Err(UNSUPPORTED_LIMIT);
        }
        let set = process().context(context)?.limits.get(&limit).copied();
        let limit = set.or(FROM_THE_START.get(limit as usize).copied()).unwrap_or(0);
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(value, limit) }
    })
}

/// Keeps a limit, which has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> Code {
    if limit >= LIMITS {
        return UNSUPPORTED_LIMIT;
    }
    change(|context| {
        context.limits.insert(limit, value);
    })
}

/// The least and the greatest priority.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Code {
    // SAFETY: the caller gives places for the numbers, or null.
    in_context(Sees::OldErrors, |_| unsafe {
        put(least, 0)?;
        put(greatest, -5)
    })
}

/// Lets the current context's kernels use the memory of the other context's device, where the script allows it.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxEnablePeerAccess(peer: Handle, flags: c_uint) -> Code {
    in_context(Sees::OldErrors, |context| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        let mut process = process();
        let (device, peer) = (process.context(context)?.device, process.context(peer)?.device);
        if device == peer || !device::can_access(&process, device, peer)? {
            return Err(PEER_ACCESS_UNSUPPORTED);
        }
        let peers = &mut process.contexts.get_mut(&context).ok_or(INVALID_CONTEXT)?.peers;
        if peers.insert(peer) { Ok(()) } else { Err(PEER_ACCESS_ALREADY_ENABLED) }
    })
}

/// Takes it back.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDisablePeerAccess(peer: Handle) -> Code {
    in_context(Sees::OldErrors, |context| {
        let mut process = process();
        let peer = process.context(peer)?.device;
        let peers = &mut process.contexts.get_mut(&context).ok_or(INVALID_CONTEXT)?.peers;
        if peers.remove(&peer) { Ok(()) } else { Err(PEER_ACCESS_NOT_ENABLED) }
    })
}

fn change(change: impl FnOnce(&mut Context)) -> Code {
    in_context(Sees::OldErrors, |context| {
        change(process().contexts.get_mut(&context).ok_or(INVALID_CONTEXT)?);
        Ok(())
    })
}
