//! Memory between processes of a host, by CUDA IPC.
//!
//! Each process sees only its own GPU (`CUDA_VISIBLE_DEVICES`); from CUDA 10.1 on a handle is opened all the same, where there is a way between the two GPUs. Whether there is, only trying it tells.

use std::ffi::c_char;

use cudarc::driver::sys;

use super::{
    super::{CudaError, Lane},
    freeing::Freeing,
    resident::{Resident, told},
};
use crate::{MemoryError, PeerHandle};

/// What opening is called in errors.
pub(super) const OPEN: &str = "open another process's memory";
const EXPORT: &str = "give other processes a way to the memory";

pub(super) fn unsupported(reason: &str) -> MemoryError {
    MemoryError::Unsupported { operation: EXPORT, reason: reason.to_owned() }
}

/// CUDA's handle of memory that `cuMemAlloc` gave, on the thread of a lane.
pub(super) fn handle_of(address: sys::CUdeviceptr) -> Result<PeerHandle, MemoryError> {
    let mut handle = sys::CUipcMemHandle { reserved: [0; 64] };
    // SAFETY: there is room for the handle; the address is that of an allocation of the context, which the lane's thread has.
    let answer = unsafe { sys::cuIpcGetMemHandle(&raw mut handle, address) };
    told(EXPORT, answer)?;
    Ok(PeerHandle(handle.reserved.iter().map(|byte| *byte as u8).collect()))
}

/// What another process handed over, as CUDA's handle.
pub(super) fn read(handle: &PeerHandle) -> Result<sys::CUipcMemHandle, MemoryError> {
    let bytes: Vec<c_char> = handle.0.iter().map(|byte| *byte as c_char).collect();
    let wrong = || MemoryError::Failed { operation: OPEN, reason: format!("a handle has 64 bytes, not {}", handle.0.len()) };
    Ok(sys::CUipcMemHandle { reserved: bytes.try_into().map_err(|_| wrong())? })
}

/// Opens it. That there is no way is no error of the lane's.
pub(super) fn open(
    lane: &Lane,
    handle: sys::CUipcMemHandle,
    bytes: u64,
    freeing: &Freeing,
) -> Result<Result<Resident, MemoryError>, CudaError> {
    lane.shared.check("enter the context", lane.shared.context.bind_to_thread())?;
    let mut address = 0;
    let lazily = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
    // SAFETY: there is room for the address; a handle that is none is refused by the driver, and the lane's thread has the context.
    let answer = unsafe { sys::cuIpcOpenMemHandle_v2(&raw mut address, handle, lazily) };
    if let Err(error) = told(OPEN, answer) {
        return Ok(Err(error));
    }
    let opened = Resident::opened(address, freeing);
    Ok(long_enough(address, bytes).map(|()| opened))
}

/// Refuses memory that is shorter than was said: a copy from beyond its end would take the context along. A driver that does not tell is believed.
fn long_enough(address: sys::CUdeviceptr, bytes: u64) -> Result<(), MemoryError> {
    let (mut base, mut length) = (0, 0);
    // SAFETY: there is room for both numbers.
    let answer = unsafe { sys::cuMemGetAddressRange_v2(&raw mut base, &raw mut length, address) };
    let there = (base + length as u64).saturating_sub(address);
    if answer != sys::CUresult::CUDA_SUCCESS || there >= bytes {
        return Ok(());
    }
    Err(MemoryError::Failed { operation: OPEN, reason: format!("it has {there} bytes, not {bytes}") })
}
