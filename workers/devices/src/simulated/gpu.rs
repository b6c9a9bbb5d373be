//! The simulated GPU.

use async_trait::async_trait;
use protocol::{GpuDescription, GpuSample, Health};

use super::{
    SimulatedKnobs, SimulatedOptions, Sleeper,
    memory::Memory,
    state::{Shared, State, Taken},
};
use crate::{Device, DeviceMemory, OutOfMemory, Trouble, Use, WorkOn};

/// A GPU without hardware. Memory and utilisation follow the work on it at once, temperature and power with inertia, and the clock falls when
/// it is hot. The clock is for show: it does not slow work down, [`SimulatedKnobs::set_speed`] does.
#[derive(Debug)]
pub struct SimulatedGpu {
    description: GpuDescription,
    sleeper: Sleeper,
    state: Shared,
    memory: Memory,
}

impl SimulatedGpu {
    /// A cold, healthy, empty GPU.
    #[must_use]
    pub fn new(options: SimulatedOptions) -> Self {
        let state = Shared::new(State::new(&options));
        let memory = Memory::new(&options, state.clone());
        Self { description: options.description(), sleeper: options.sleeper, state, memory }
    }

    /// The knobs that inject its faults.
    #[must_use]
    pub fn knobs(&self) -> SimulatedKnobs {
        SimulatedKnobs::new(self.state.clone())
    }
}

#[async_trait]
impl Device for SimulatedGpu {
    fn description(&self) -> &GpuDescription {
        &self.description
    }

    fn sample(&self) -> GpuSample {
        self.state.lock().sample()
    }

    fn health(&self) -> (Health, String) {
        self.state.lock().health.clone()
    }

    fn begin(&self, wanted: Use) -> Result<WorkOn, OutOfMemory> {
        let taken = Taken::from(wanted);
        self.state.lock().take(taken)?;
        Ok(WorkOn::new(Box::new(Held { state: self.state.clone(), taken })))
    }

    fn speed(&self) -> f64 {
        self.state.lock().speed
    }

    fn sleeper(&self) -> Sleeper {
        self.sleeper
    }

    async fn probe(&self) -> Result<(), String> {
        self.take_fault().map_or(Ok(()), Err)
    }

    async fn trouble(&self) -> Trouble {
        self.state.trouble().await
    }

    fn is_lost(&self) -> bool {
        self.state.lock().lost
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        Some(&self.memory)
    }

    fn take_fault(&self) -> Option<String> {
        self.state.lock().take_fault()
    }
}

/// What one attempt holds of the GPU.
struct Held {
    state: Shared,
    taken: Taken,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state.lock().give_back(self.taken);
    }
}

#[cfg(test)]
mod tests;
