//! Initialising CUDA, and what its devices are.

use std::{
    env,
    ffi::{c_char, c_int, c_uint},
};

use super::{Handle, NOT_INITIALIZED, Process, answer, attributes, codes, process, put, script, visible::visible};
use crate::{
    c_interface::{self, Code, text},
    state::{FakeGpu, Part, Script, Unavailable},
};
use codes::{INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, UNKNOWN};

/// A device as this process sees it.
#[derive(Debug)]
pub(super) struct Device {
    /// Of the GPU or MIG instance.
    pub(super) uuid: String,
    /// The primary context's handle, the same for as long as the process lives.
    pub(super) primary: Handle,
    /// How often the primary context was retained.
    pub(super) retained: u32,
}

pub(super) fn code_of(unavailable: Unavailable) -> Code {
    match unavailable {
        Unavailable::NoDriver => NO_DEVICE,
        Unavailable::Unreadable => UNKNOWN,
    }
}

/// What the script says now of a device.
pub(super) fn with_device<T>(device: c_int, body: impl FnOnce(&Script, &Part<'_>) -> Result<T, Code>) -> Result<T, Code> {
    let device = usize::try_from(device).map_err(|_| INVALID_DEVICE)?;
    let uuid = process().uuid(device)?;
    let script = script()?;
    let part = script.part(&uuid).ok_or(UNKNOWN)?;
    body(&script, &part)
}

/// What the library does when its process exits in order.
extern "C" fn at_exit() {
    if script().is_ok_and(|script| script.machine.dies_at_exit) {
        std::process::abort();
    }
}

/// Finds the visible devices, once. Without any it fails.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> Code {
    answer(|| {
        let script = script()?;
        let mut process = process();
        if process.devices.is_some() {
            return Ok(());
        }
        let uuids = visible(&script.machine, env::var("CUDA_VISIBLE_DEVICES").ok().as_deref());
        if uuids.is_empty() {
            return Err(NO_DEVICE);
        }
        let devices = uuids.into_iter().map(|uuid| Device { uuid, primary: process.new_handle(), retained: 0 }).collect();
        process.devices = Some(devices);
        // SAFETY: the handler takes nothing, and is there as long as the process: no fake library is ever unloaded.
        unsafe { libc::atexit(at_exit) };
        Ok(())
    })
}

/// The CUDA version that the driver offers; also before `cuInit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Code {
    // SAFETY: the caller gives a place for the number, or null.
    answer(|| unsafe { put(version, script()?.machine.cuda_driver_version) })
}

/// How many devices are visible.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Code {
    // SAFETY: the caller gives a place for the number, or null.
    answer(|| unsafe { put(count, c_int::try_from(process().devices()?.len()).map_err(|_| UNKNOWN)?) })
}

/// A device is its place among the visible ones.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code {
    answer(|| {
        with_device(ordinal, |_, _| Ok(()))?;
        // SAFETY: the caller gives a place for the device, or null.
        unsafe { put(device, ordinal) }
    })
}

/// # Safety
///
/// The buffer is null or `length` bytes of it may be written.
unsafe fn put_text(buffer: *mut c_char, length: c_int, text: &str) -> Result<(), Code> {
    let length = usize::try_from(length).map_err(|_| INVALID_VALUE)?;
    // SAFETY: the caller's word.
    let fits = unsafe { c_interface::put_text(buffer, length, text) };
    if fits { Ok(()) } else { Err(INVALID_VALUE) }
}

/// The product's name; that of a MIG instance ends with its profile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> Code {
    // SAFETY: the caller gives a buffer of this length, or null.
    answer(|| with_device(device, |_, part| unsafe { put_text(name, length, &part.name()) }))
}

/// The bus id with a domain of four digits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(bus_id: *mut c_char, length: c_int, device: c_int) -> Code {
    answer(|| {
        with_device(device, |_, part| {
            // SAFETY: the caller gives a buffer of this length, or null.
            unsafe { put_text(bus_id, length, short_bus_id(part.gpu)) }
        })
    })
}

fn short_bus_id(gpu: &FakeGpu) -> &str {
    gpu.pci_bus_id.strip_prefix("0000").filter(|rest| !rest.starts_with(':')).unwrap_or(&gpu.pci_bus_id)
}

/// The visible device with this bus id, in either form.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetByPCIBusId(device: *mut c_int, bus_id: *const c_char) -> Code {
    answer(|| {
        // SAFETY: the caller gives a text that ends with a zero, or null.
        let wanted = unsafe { text(bus_id) }.ok_or(INVALID_VALUE)?.to_lowercase();
        let script = script()?;
        let has_it = |uuid: &str| {
            let gpu = script.part(uuid).map(|part| part.gpu);
            gpu.is_some_and(|gpu| [gpu.pci_bus_id.as_str(), short_bus_id(gpu)].iter().any(|own| own.to_lowercase() == wanted))
        };
        let found = process().devices()?.iter().position(|device| has_it(&device.uuid)).ok_or(INVALID_DEVICE)?;
        // SAFETY: the caller gives a place for the device, or null.
        unsafe { put(device, c_int::try_from(found).map_err(|_| UNKNOWN)?) }
    })
}

/// The 16 bytes of a UUID. Digits that are missing are zeros.
fn uuid_bytes(uuid: &str) -> [u8; 16] {
    let (_, digits) = uuid.split_once('-').unwrap_or_default();
    let digits: Vec<u8> = digits.chars().filter_map(|digit| digit.to_digit(16)).filter_map(|digit| u8::try_from(digit).ok()).collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    }
    bytes
}

/// The GPU's UUID, also for a MIG instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> Code {
    // SAFETY: the caller gives a place for the UUID, or null.
    answer(|| with_device(device, |_, part| unsafe { put(uuid, uuid_bytes(&part.gpu.uuid)) }))
}

/// The UUID, of the GPU or of the MIG instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> Code {
    // SAFETY: the caller gives a place for the UUID, or null.
    answer(|| with_device(device, |_, part| unsafe { put(uuid, uuid_bytes(part.uuid())) }))
}

/// All bytes of its memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> Code {
    answer(|| {
        with_device(device, |_, part| {
            let total = usize::try_from(part.memory_bytes()).unwrap_or(usize::MAX);
            // SAFETY: the caller gives a place for the number, or null.
            unsafe { put(bytes, total) }
        })
    })
}

/// A property. Those that nobody asks for are zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) -> Code {
    // SAFETY: the caller gives a place for the number, or null.
    answer(|| with_device(device, |_, part| unsafe { put(value, attributes::of_device(attribute, part)) }))
}

/// Whether the script lets the first device access the memory of the second one.
pub(super) fn can_access(process: &Process, device: usize, peer: usize) -> Result<bool, Code> {
    let (uuid, peer) = (process.uuid(device)?, process.uuid(peer)?);
    let script = script()?;
    Ok(script.part(&uuid).ok_or(UNKNOWN)?.gpu.peers.contains(&peer))
}

fn ordinal(process: &Process, device: c_int) -> Result<usize, Code> {
    let ordinal = usize::try_from(device).map_err(|_| INVALID_DEVICE)?;
    (ordinal < process.devices()?.len()).then_some(ordinal).ok_or(INVALID_DEVICE)
}

/// Whether a device can access another one's memory; never its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) -> Code {
    answer(|| {
        let process = process();
        let (device, peer) = (ordinal(&process, device)?, ordinal(&process, peer)?);
        let yes = device != peer && can_access(&process, device, peer)?;
        // SAFETY: the caller gives a place for the answer, or null.
        unsafe { put(can, c_int::from(yes)) }
    })
}

/// Access needs a peer; atomics and the better rank need an NVLink.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetP2PAttribute(value: *mut c_int, attribute: c_uint, source: c_int, target: c_int) -> Code {
    const RANK: c_uint = 1;
    const ACCESS: c_uint = 2;
    const ATOMICS: c_uint = 3;
    const ARRAYS: c_uint = 4;
    answer(|| {
        let process = process();
        let (source, target) = (ordinal(&process, source)?, ordinal(&process, target)?);
        if source == target {
            return Err(INVALID_DEVICE);
        }
        let script = script()?;
        let (uuid, peer) = (process.uuid(source)?, process.uuid(target)?);
        let gpu = script.part(&uuid).ok_or(UNKNOWN)?.gpu;
        let yes = match attribute {
            ACCESS | ARRAYS => gpu.peers.contains(&peer),
            ATOMICS => gpu.nvlinks.contains(&peer),
            // Zero is the best rank.
            RANK => !gpu.nvlinks.contains(&peer),
            _ => return Err(INVALID_VALUE),
        };
        // SAFETY: the caller gives a place for the number, or null.
        unsafe { put(value, c_int::from(yes)) }
    })
}

impl Process {
    pub(super) fn device_mut(&mut self, device: c_int) -> Result<&mut Device, Code> {
        let ordinal = ordinal(self, device)?;
        self.devices.as_mut().and_then(|devices| devices.get_mut(ordinal)).ok_or(NOT_INITIALIZED)
    }
}
