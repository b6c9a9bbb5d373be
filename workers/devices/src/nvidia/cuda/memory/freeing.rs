//! Giving things back to the driver, on a thread of its own: each of these calls may wait for what the GPU runs, or for a GPU that answers no more, and whoever drops something must not.

use std::{
    ffi::c_void,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use cudarc::driver::{CudaEvent, result, sys};

use super::{
    super::{
        CudaError,
        context::{Shared, guarded},
    },
    pinned::Pinned,
};
use crate::shared_memory::Pages;

/// What is to be given back.
pub(super) enum Freed {
    /// Memory of the GPU, and how many bytes count for it.
    Memory(sys::CUdeviceptr, u64),
    /// Memory of another process.
    Opened(sys::CUdeviceptr),
    /// Pinned memory of the host, by its address.
    Pinned(usize),
    /// Chunks of pinned memory, with their events.
    Stage(Vec<(Pinned, CudaEvent)>),
    /// Shared memory, which stays mapped until then.
    Registered(Arc<Pages>),
    /// Nothing: who waits for the other end learns that all before it was given back.
    Nothing(mpsc::Sender<()>),
}

/// The way to the thread. It is started when something is given back for the first time, and ends when nobody is left who could. What waits there is bounded by what there was to give back.
#[derive(Clone)]
pub(super) struct Freeing(Arc<Way>);

struct Way {
    shared: Arc<Shared>,
    thread: Mutex<Option<mpsc::Sender<Freed>>>,
}

impl Freeing {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::new(Way { shared: Arc::clone(shared), thread: Mutex::default() }))
    }

    /// The context to which it gives back.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Gives something back, some time soon. It stays where the context is lost, or no thread can be started: the end of the process gives it back.
    pub(super) fn give(&self, freed: Freed) {
        let mut thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = start(Arc::clone(&self.0.shared));
        }
        if let Some(thread) = &*thread {
            // The thread ends only after its last sender.
            let _ = thread.send(freed);
        }
    }
}

impl Freeing {
    /// Waits until what was given back before is the GPU's again, for so long at most. It blocks: it is for the threads of lanes.
    pub(super) fn settle(&self, longest: Duration) {
        let (reached, until_reached) = mpsc::channel();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Without a thread nothing was given back.
        if thread.is_some_and(|thread| thread.send(Freed::Nothing(reached)).is_ok()) {
            // Only ever its end is heard.
            let _ = until_reached.recv_timeout(longest);
        }
    }
}

fn start(shared: Arc<Shared>) -> Option<mpsc::Sender<Freed>> {
    let (give, given) = mpsc::channel::<Freed>();
    let life = move || {
        for freed in given {
            if shared.is_lost() {
                continue;
            }
            if let Err(error) = guarded("give memory back", || freed.give_back(&shared)) {
                tracing::warn!(%error, "memory stays taken until this process ends");
            }
        }
    };
    let started = thread::Builder::new().name("cuda-freeing".to_owned()).spawn(life);
    started.map_err(|error| tracing::warn!(%error, "memory stays taken: no thread to give it back")).ok()?;
    Some(give)
}

impl Freed {
    fn give_back(self, shared: &Shared) -> Result<(), CudaError> {
        shared.check("enter the context", shared.context.bind_to_thread())?;
        match self {
            Self::Memory(address, bytes) => {
                // SAFETY: it was allocated in this context, and its only owner is gone, after all work that used it.
                shared.check("free memory of the GPU", unsafe { result::free_sync(address) })?;
                shared.account.give_resident(bytes);
                Ok(())
            }
            Self::Opened(address) => {
                // SAFETY: it was opened in this context, and its only owner is gone, after all work that used it.
                shared.check("let go of another process's memory", unsafe { sys::cuIpcCloseMemHandle(address) }.result())
            }
            Self::Pinned(address) => {
                let pointer = std::ptr::with_exposed_provenance_mut::<c_void>(address);
                // SAFETY: it was allocated by the driver, and its only owner is gone, after all copies.
                shared.check("free pinned memory", unsafe { result::free_host(pointer) })
            }
            Self::Nothing(reached) => {
                drop(reached);
                Ok(())
            }
            Self::Stage(chunks) => {
                // Each chunk comes here once more, by itself.
                drop(chunks);
                Ok(())
            }
            Self::Registered(pages) => {
                // SAFETY: they were registered with the driver, and nobody copies to or from them any more: each copy holds the memory that they are of.
                shared.check("let go of shared memory", unsafe { sys::cuMemHostUnregister(pages.start()) }.result())
            }
        }
    }
}
