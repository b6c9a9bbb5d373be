//! Shared memory that the GPU copies to and from by itself, without a step through pinned memory.

use std::{any::Any, sync::Arc};

use cudarc::driver::sys;

use super::{
    super::Lane,
    freeing::{Freed, Freeing},
};
use crate::{SharedMemory, shared_memory::Pages};

/// Pages that the driver has pinned. They stay mapped until it has let go of them.
struct Registered {
    pages: Arc<Pages>,
    freeing: Freeing,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.freeing.give(Freed::Registered(Arc::clone(&self.pages)));
    }
}

/// Whether the GPU reaches the memory by itself. The driver is asked once for each memory: pinning takes longer than one copy, and it is for the copies that follow. Where it refuses (a limit of locked memory, a
/// kernel that does not let it) the memory is used all the same, by way of pinned chunks.
pub(super) fn is_registered(lane: &Lane, memory: &SharedMemory, freeing: &Freeing) -> bool {
    memory.is_pinned(|pages| {
        let shared = &lane.shared;
        let entered = shared.check("enter the context", shared.context.bind_to_thread());
        // SAFETY: the pages are mapped, and stay so until they are unregistered: what this gives holds them, and hands them to the thread that does.
        let register = || unsafe { sys::cuMemHostRegister_v2(pages.start(), pages.bytes(), sys::CU_MEMHOSTREGISTER_PORTABLE) }.result();
        if let Err(error) = entered.and_then(|()| shared.check("pin shared memory", register())) {
            tracing::warn!(%error, bytes = pages.bytes(), "shared memory is copied twice");
            return None;
        }
        Some(Box::new(Registered { pages: Arc::clone(pages), freeing: freeing.clone() }) as Box<dyn Any + Send + Sync>)
    })
}
