//! What changes in a simulated GPU: the work on it, its faults, and where its physics stand.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::{GpuSample, Health};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{SimulatedOptions, Thermals, memory::CopyFaults, physics::Physics};
use crate::{Consequence, MemoryError, OutOfMemory, Trouble, Use};

/// Compute shares are kept as whole millionths: sums of floats would drift with every begin and end.
const WHOLE: f64 = 1e6;
/// Bytes of a MB.
const MB: u64 = 1_000_000;

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
    /// What buffers hold.
    resident_bytes: u64,
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
    pub(super) copies: CopyFaults,
}

impl State {
    pub(super) fn new(options: &SimulatedOptions) -> Self {
        Self {
            memory_total_mb: options.memory_mb,
            thermals: options.thermals,
            physics: Physics::cold(&options.thermals),
            physics_at: Instant::now(),
            tasks: Taken::default(),
            resident_bytes: 0,
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
            copies: CopyFaults::default(),
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
        self.room_for(wanted.memory_mb.saturating_mul(MB)).map_err(|free_bytes| OutOfMemory {
            wanted_mb: wanted.memory_mb,
            free_mb: free_bytes / MB,
            total_mb: self.memory_total_mb,
        })?;
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

    /// Takes memory for a buffer.
    pub(super) fn take_bytes(&mut self, wanted_bytes: u64) -> Result<(), MemoryError> {
        self.room_for(wanted_bytes).map_err(|free_bytes| MemoryError::Full { wanted_bytes, free_bytes })?;
        self.resident_bytes += wanted_bytes;
        Ok(())
    }

    pub(super) const fn give_back_bytes(&mut self, bytes: u64) {
        self.resident_bytes -= bytes;
    }

    pub(super) const fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Whether so much may be taken now; what is free if not.
    fn room_for(&mut self, wanted_bytes: u64) -> Result<(), u64> {
        let free = self.memory_total_mb.saturating_mul(MB).saturating_sub(self.memory_used_bytes());
        let free = free.min(self.allocation_max_mb.map_or(free, |max_mb| max_mb.saturating_mul(MB)));
        let refused = wanted_bytes > 0 && self.allocations_to_fail > 0;
        if refused {
            self.allocations_to_fail -= 1;
        }
        if refused || wanted_bytes > free { Err(free) } else { Ok(()) }
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

    /// Rounded up: what is free, rounded down, is the rest.
    fn memory_used_mb(&self) -> u64 {
        self.memory_used_bytes().div_ceil(MB).min(self.memory_total_mb)
    }

    fn memory_used_bytes(&self) -> u64 {
        self.tasks.memory_mb.saturating_add(self.foreign.memory_mb).saturating_mul(MB).saturating_add(self.resident_bytes)
    }

    fn load(&self) -> f64 {
        let shares = self.tasks.compute_millionths + self.foreign.compute_millionths;
        (shares as f64 / WHOLE).min(1.0)
    }
}

/// The state as the GPU, its knobs, its memory and the work on it share it.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    state: Mutex<State>,
    troubles: Notify,
    /// Tells copies that something happened which they may have to heed.
    copies: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self(Arc::new(Parts { state: Mutex::new(state), troubles: Notify::new(), copies: watch::Sender::new(()) }))
    }

    /// Held for a few arithmetic operations at most. A panic under it leaves numbers that are still whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something goes wrong.
    pub(super) fn befall(&self, trouble: Trouble) {
        let mut state = self.lock();
        state.lost |= matches!(trouble.what, Consequence::Lost { .. });
        state.troubles.push_back(trouble);
        drop(state);
        self.0.troubles.notify_one();
        self.0.copies.send_replace(());
    }

    /// The next thing that goes wrong.
    pub(super) async fn trouble(&self) -> Trouble {
        loop {
            if let Some(trouble) = self.lock().troubles.pop_front() {
                return trouble;
            }
            self.0.troubles.notified().await;
        }
    }

    /// Changes what befalls copies; those under way see it at once.
    pub(super) fn change_copies(&self, change: impl FnOnce(&mut CopyFaults)) {
        change(&mut self.lock().copies);
        self.0.copies.send_replace(());
    }

    /// Tells of what happens from now on to copies.
    pub(super) fn copies_change(&self) -> watch::Receiver<()> {
        self.0.copies.subscribe()
    }
}
