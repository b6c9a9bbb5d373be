//! One piece of memory, from its allocation until it is given back.

use std::{sync::Arc, time::Duration};

use cudarc::driver::{result, sys};

use super::{
    super::{CudaError, Lane, context::empty_pool},
    freeing::{Freed, Freeing},
    peers,
};
use crate::{MemoryError, PeerHandle};

/// How long an allocation that finds no room waits for memory that is being given back: longer only where work of the GPU holds that up.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);

/// Memory that this context can reach: its own GPU's, or that of another process's.
pub(super) struct Resident {
    /// 0: it has no bytes.
    address: sys::CUdeviceptr,
    origin: Origin,
    freeing: Freeing,
}

enum Origin {
    /// So many bytes that were allocated here, and how other processes open them.
    Allocated(u64, Result<PeerHandle, MemoryError>),
    /// Another process's memory.
    Opened,
}

impl Resident {
    /// Memory of another process, which was opened in the context to which it is given back.
    pub(super) fn opened(address: sys::CUdeviceptr, freeing: &Freeing) -> Self {
        Self { address, origin: Origin::Opened, freeing: freeing.clone() }
    }

    /// Where it begins.
    pub(super) const fn address(&self) -> sys::CUdeviceptr {
        self.address
    }

    /// Whether the lane can use it.
    pub(super) fn is_reached_by(&self, lane: &Lane) -> bool {
        Arc::ptr_eq(self.freeing.shared(), &lane.shared)
    }

    /// How other processes open it.
    pub(super) fn handle(&self) -> Result<PeerHandle, MemoryError> {
        match &self.origin {
            Origin::Allocated(_, handle) => handle.clone(),
            Origin::Opened => Err(peers::unsupported("it is another process's memory")),
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        match self.origin {
            _ if self.address == 0 => {}
            Origin::Allocated(bytes, _) => self.freeing.give(Freed::Memory(self.address, bytes)),
            Origin::Opened => self.freeing.give(Freed::Opened(self.address)),
        }
    }
}

/// Allocates memory. That there is not enough is no error of the lane's.
pub(super) fn allocate(lane: &Lane, bytes: u64, freeing: &Freeing) -> Result<Result<Resident, MemoryError>, CudaError> {
    let account = &lane.shared.account;
    let resident = |address, origin| Resident { address, origin, freeing: freeing.clone() };
    if bytes == 0 {
        return Ok(Ok(resident(0, Origin::Allocated(0, Err(peers::unsupported("it has no bytes"))))));
    }
    account.take_resident(bytes);
    let address = match taken(lane, bytes, freeing) {
        Ok(address) => address,
        Err(error) => {
            account.give_resident(bytes);
            return if error.is_out_of_memory() { full(lane, bytes).map(Err) } else { Err(error) };
        }
    };
    // Made here, on a lane, for who asks for it must not wait. It takes microseconds.
    let handle = peers::handle_of(address);
    Ok(Ok(resident(address, Origin::Allocated(bytes, handle))))
}

/// Where there is no room, what was let go of is waited for, and the pool is emptied.
fn taken(lane: &Lane, bytes: u64, freeing: &Freeing) -> Result<sys::CUdeviceptr, CudaError> {
    const ALLOCATE: &str = "allocate memory of the GPU";
    let shared = &lane.shared;
    shared.check("enter the context", shared.context.bind_to_thread())?;
    let Ok(bytes) = usize::try_from(bytes) else { return Err(CudaError::OutOfMemory { operation: ALLOCATE }) };
    // SAFETY: the lane's thread has the context. What is in the memory is not said to anybody.
    let take = || shared.check(ALLOCATE, unsafe { result::malloc_sync(bytes) });
    match take() {
        Err(error) if error.is_out_of_memory() => {
            freeing.settle(GIVEN_BACK_WITHIN);
            shared.check("empty the memory pool", empty_pool(&shared.context))?;
            take()
        }
        taken => taken,
    }
}

fn full(lane: &Lane, wanted_bytes: u64) -> Result<MemoryError, CudaError> {
    let (free, _) = lane.shared.check("ask for free memory", lane.shared.context.mem_get_info())?;
    Ok(MemoryError::Full { wanted_bytes, free_bytes: free as u64 })
}

/// What CUDA says of handles and peers, as what the memory can and cannot do. None of it counts as a loss of the context, whatever its name: some systems answer "unknown error" where they have no way between
/// processes, and a context that is lost says so at the next call.
pub(super) fn told(operation: &'static str, answer: sys::CUresult) -> Result<(), MemoryError> {
    use sys::CUresult::{
        CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_DEVICE, CUDA_ERROR_NOT_PERMITTED, CUDA_ERROR_NOT_SUPPORTED,
        CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, CUDA_ERROR_TOO_MANY_PEERS,
    };
    let Err(error) = answer.result() else { return Ok(()) };
    let reason = CudaError::of(operation, error).to_string();
    Err(match answer {
        CUDA_ERROR_PEER_ACCESS_UNSUPPORTED
        | CUDA_ERROR_INVALID_DEVICE
        | CUDA_ERROR_INVALID_CONTEXT
        | CUDA_ERROR_NOT_PERMITTED
        | CUDA_ERROR_NOT_SUPPORTED
        | CUDA_ERROR_TOO_MANY_PEERS => MemoryError::Unsupported { operation, reason },
        _ => MemoryError::Failed { operation, reason },
    })
}
