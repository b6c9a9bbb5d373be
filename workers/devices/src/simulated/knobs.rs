//! The faults of a simulated GPU, injected while it runs.

use protocol::{GpuId, Health};
use tokio::time::Instant;

use super::state::Shared;
use crate::{Trouble, Use};

/// Breaks and mends one simulated GPU. Clones turn the same knobs.
#[derive(Debug, Clone)]
pub struct SimulatedKnobs {
    state: Shared,
}

impl SimulatedKnobs {
    pub(super) const fn new(state: Shared) -> Self {
        Self { state }
    }

    /// Sets what the GPU says of its health; `reason` is empty where it is healthy.
    pub fn set_health(&self, health: Health, reason: impl Into<String>) {
        self.state.lock().health = (health, reason.into());
    }

    /// Stops the samples: the last one is served from now on and its age grows, as with a driver that hangs. Work is not touched.
    pub fn hang_samples(&self) {
        let mut state = self.state.lock();
        let sample = state.sample();
        state.frozen.get_or_insert((sample, Instant::now()));
    }

    /// Samples are fresh again.
    pub fn resume_samples(&self) {
        self.state.lock().frozen = None;
    }

    /// How fast work goes that starts from now on: 1 is normal, 0.5 takes twice as long. Values below 0.000 001 count as that.
    pub fn set_speed(&self, speed: f64) {
        self.state.lock().speed = speed.max(1e-6);
    }

    /// What other processes use of the GPU: it shows in samples, and its memory is not free. It may exceed what is free; the sample then
    /// shows a full GPU.
    pub fn set_foreign_use(&self, foreign: Use) {
        let mut state = self.state.lock();
        state.settle();
        state.foreign = foreign.into();
    }

    /// Heats the GPU from outside, in °C above what its load explains, as a failed fan does. Negative cools. Takes effect with inertia.
    pub fn set_extra_heat(&self, extra_celsius: f64) {
        let mut state = self.state.lock();
        state.settle();
        state.extra_celsius = extra_celsius;
    }

    /// Work, or a buffer, may take at most this much memory at a time, in MB, however much is free (fragmentation). `None`: all that is free.
    pub fn cap_free_memory(&self, max_mb: Option<u64>) {
        self.state.lock().allocation_max_mb = max_mb;
    }

    /// The next `count` attempts and buffers that want memory get none, however much is free.
    pub fn fail_next_allocations(&self, count: u32) {
        self.state.lock().allocations_to_fail = count;
    }

    /// Something goes wrong with the GPU by itself: a Xid event, a lost context.
    pub fn trouble(&self, trouble: Trouble) {
        self.state.befall(trouble);
    }

    /// This share of attempts (0 to 1) fails on the GPU, with this message, evenly spread: 0.25 fails every fourth. 0 mends it.
    pub fn fail_tasks(&self, share: f64, message: impl Into<String>) {
        let mut state = self.state.lock();
        state.fault_share = share.clamp(0.0, 1.0);
        state.fault_debt = 0.0;
        state.fault_message = message.into();
    }

    /// The next `count` copies that begin, to this GPU's memory, from it or within it, take their time and fail. 0 mends it.
    pub fn fail_next_copies(&self, count: u32) {
        self.state.change_copies(|copies| copies.to_fail = count);
    }

    /// In the next `count` copies that begin, to this GPU's memory, from it or within it, one byte flips on the way, and nobody says so: what they came from stays right, what arrives is wrong. Those that
    /// [fail](Self::fail_next_copies) come first. 0 mends it.
    pub fn corrupt_next_copies(&self, count: u32) {
        self.state.change_copies(|copies| copies.to_corrupt = count);
    }

    /// While `stalled`, no copy to this GPU's memory, from it or within it begins or ends, also of those under way. Afterwards those whose time is over end at once. A stalled copy still fails where its link is
    /// cut or the GPU is lost.
    pub fn stall_copies(&self, stalled: bool) {
        self.state.change_copies(|copies| copies.stall(stalled));
    }

    /// While `cut`, copies over the link between this GPU and its host fail at once, also those under way.
    pub fn cut_host_link(&self, cut: bool) {
        self.state.change_copies(|copies| copies.host_cut = cut);
    }

    /// While `cut`, copies over the link between this GPU and that other one, either way, fail at once, also those under way.
    pub fn cut_peer_link(&self, other: &GpuId, cut: bool) {
        self.state.change_copies(|copies| copies.cut_peer(other, cut));
    }

    /// Copies over links of this GPU that begin from now on take `factor` times as long: 1 is normal. Between two GPUs the larger factor counts. Below 0.000 001 it counts as that.
    pub fn slow_links(&self, factor: f64) {
        self.state.change_copies(|copies| copies.slowness = factor.max(1e-6));
    }
}
