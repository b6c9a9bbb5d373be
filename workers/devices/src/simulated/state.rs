//! What changes in a simulated GPU: the work on it, its faults, and where its physics stand.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::{GpuSample, Health};
use tokio::{sync::Notify, time::Instant};

use super::{SimulatedOptions, Thermals, physics::Physics};
use crate::{Consequence, OutOfMemory, Trouble, Use};

/// Compute shares are kept as whole millionths: sums of floats would drift with every begin and end.
const WHOLE: f64 = 1e6;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    pub(super) memory_mb: u64,
    compute_millionths: u64,
}

impl From<Use> for Taken {
    fn from(wanted: Use) -> Self {
        // `as` turns NaN into 0.
        Self { memory_mb: wanted.memory_mb, compute_millionths: (wanted.compute_share.clamp(0.0, 1.0) * WHOLE).round() as u64 }
    }
}

#[derive(Debug)]
pub(super) struct State {
    memory_total_mb: u64,
    thermals: Thermals,
    physics: Physics,
    physics_at: Instant,
    tasks: Taken,
    pub(super) frozen: Option<(GpuSample, Instant)>,
    pub(super) health: (Health, String),
    pub(super) speed: f64,
    pub(super) foreign: Taken,
    pub(super) extra_celsius: f64,
    pub(super) allocation_max_mb: Option<u64>,
    pub(super) allocations_to_fail: u32,
    pub(super) fault_share: f64,
    pub(super) fault_debt: f64,
    pub(super) fault_message: String,
    pub(super) troubles: VecDeque<Trouble>,
    pub(super) lost: bool,
}

impl State {
    pub(super) fn new(options: &SimulatedOptions) -> Self {
        Self {
            memory_total_mb: options.memory_mb,
            thermals: options.thermals,
            physics: Physics::cold(&options.thermals),
            physics_at: Instant::now(),
            tasks: Taken::default(),
            frozen: None,
            health: (Health::Healthy, String::new()),
            speed: 1.0,
            foreign: Taken::default(),
            extra_celsius: 0.0,
            allocation_max_mb: None,
            allocations_to_fail: 0,
            fault_share: 0.0,
            fault_debt: 0.0,
            fault_message: String::new(),
            troubles: VecDeque::new(),
            lost: false,
        }
    }

    /// Brings the physics up to now under what the load was until now. Must come before any change of load or heat.
    pub(super) fn settle(&mut self) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.physics_at);
        self.physics = self.physics.after(elapsed, self.load(), self.extra_celsius, &self.thermals);
        self.physics_at = now;
    }

    pub(super) fn sample(&mut self) -> GpuSample {
        if let Some((sample, since)) = &self.frozen {
            return GpuSample { age_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX), ..sample.clone() };
        }
        self.settle();
        GpuSample {
            memory_used_mb: self.memory_used_mb(),
            utilization_percent: self.load() * 100.0,
            temperature_celsius: self.physics.temperature_celsius,
            power_watts: self.physics.power_watts,
            sm_clock_mhz: self.physics.sm_clock_mhz(self.load(), &self.thermals),
            throttled_by: self.physics.throttled_by(&self.thermals),
            age_ms: 0,
            ..GpuSample::default()
        }
    }

    pub(super) fn take(&mut self, wanted: Taken) -> Result<(), OutOfMemory> {
        let free_mb = self.memory_total_mb.saturating_sub(self.memory_used_mb());
        let free_mb = free_mb.min(self.allocation_max_mb.unwrap_or(free_mb));
        let refused = wanted.memory_mb > 0 && self.allocations_to_fail > 0;
        if refused {
            self.allocations_to_fail -= 1;
        }
        if refused || wanted.memory_mb > free_mb {
            return Err(OutOfMemory { wanted_mb: wanted.memory_mb, free_mb, total_mb: self.memory_total_mb });
        }
        self.settle();
        self.tasks.memory_mb += wanted.memory_mb;
        self.tasks.compute_millionths += wanted.compute_millionths;
        Ok(())
    }

    pub(super) fn give_back(&mut self, taken: Taken) {
        self.settle();
        self.tasks.memory_mb -= taken.memory_mb;
        self.tasks.compute_millionths -= taken.compute_millionths;
    }

    /// The next fault, spread evenly: with a share of 0.25 every fourth time.
    pub(super) fn take_fault(&mut self) -> Option<String> {
        self.fault_debt += self.fault_share;
        // A share such as 0.1 added up ten times is a hair below 1.
        if self.fault_debt < 1.0 - 1e-9 {
            return None;
        }
        self.fault_debt -= 1.0;
        Some(self.fault_message.clone())
    }

    fn memory_used_mb(&self) -> u64 {
        self.tasks.memory_mb.saturating_add(self.foreign.memory_mb).min(self.memory_total_mb)
    }

    fn load(&self) -> f64 {
        let shares = self.tasks.compute_millionths + self.foreign.compute_millionths;
        (shares as f64 / WHOLE).min(1.0)
    }
}

/// The state as the GPU, its knobs and the work on it share it.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<State>>, Arc<Notify>);

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)), Arc::default())
    }

    /// Held for a few arithmetic operations at most. A panic under it leaves numbers that are still whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something goes wrong.
    pub(super) fn befall(&self, trouble: Trouble) {
        let mut state = self.lock();
        state.lost |= matches!(trouble.what, Consequence::Lost { .. });
        state.troubles.push_back(trouble);
        drop(state);
        self.1.notify_one();
    }

    /// The next thing that goes wrong.
    pub(super) async fn trouble(&self) -> Trouble {
        loop {
            if let Some(trouble) = self.lock().troubles.pop_front() {
                return trouble;
            }
            self.1.notified().await;
        }
    }
}
