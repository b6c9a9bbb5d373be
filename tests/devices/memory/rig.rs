//! A GPU with memory, and the hands that spoil its copies.

use std::sync::Arc;

use devices::{Device, DeviceMemory, SimulatedGpu, SimulatedKnobs, SimulatedOptions};
use fake_nvidia::{FakeCopyFault, FakeMachine, FakeTrouble};

/// What each GPU has: enough for the cases, and little enough to be filled. In MB, or what is next to that.
pub const TOTAL_MB: u64 = 4_000;

/// What befalls copies to, from and within the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// They go wrong, and say so.
    Fail,
    /// A bit or more changes on the way, and nobody says so.
    Corrupt,
    /// They take much longer.
    Stall,
}

/// A GPU whose copies a case can spoil.
pub trait MemoryRig: Sync {
    fn device(&self) -> &Arc<dyn Device>;
    /// From now on this befalls every copy; `None`: they go well.
    fn befall(&self, trouble: Option<Trouble>);

    fn memory(&self) -> &dyn DeviceMemory {
        self.device().memory().expect("each of these devices has memory")
    }
}

pub struct Simulated {
    device: Arc<dyn Device>,
    knobs: SimulatedKnobs,
}

impl Simulated {
    pub fn new() -> Self {
        let gpu = SimulatedGpu::new(SimulatedOptions { memory_mb: TOTAL_MB, ..SimulatedOptions::default() });
        Self { knobs: gpu.knobs(), device: Arc::new(gpu) }
    }
}

impl MemoryRig for Simulated {
    fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    fn befall(&self, trouble: Option<Trouble>) {
        let always = |which| if trouble == Some(which) { u32::MAX } else { 0 };
        self.knobs.fail_next_copies(always(Trouble::Fail));
        self.knobs.corrupt_next_copies(always(Trouble::Corrupt));
        self.knobs.stall_copies(trouble == Some(Trouble::Stall));
    }
}

pub struct Nvidia {
    device: Arc<dyn Device>,
    machine: FakeMachine,
}

impl Nvidia {
    pub async fn open(machine: &FakeMachine) -> Self {
        machine.change(|state| state.gpus[0].memory_mib = TOTAL_MB);
        Self { device: Arc::new(crate::rig::first_gpu().await), machine: FakeMachine::of_environment().unwrap() }
    }
}

impl MemoryRig for Nvidia {
    fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    fn befall(&self, trouble: Option<Trouble>) {
        /// An error after which a context goes on: CUDA_ERROR_NOT_SUPPORTED.
        const HARMLESS: u32 = 801;
        let what = trouble.map(|trouble| match trouble {
            Trouble::Fail => FakeTrouble::Fails(HARMLESS),
            Trouble::Corrupt => FakeTrouble::Corrupts,
            Trouble::Stall => FakeTrouble::Stalls(300),
        });
        let faults = what.map(|what| FakeCopyFault { only: None, min_bytes: 0, what });
        self.machine.change(|state| state.gpus[0].copy_faults = faults.into_iter().collect());
    }
}
