//! What a simulated GPU is.

use std::time::Duration;

use protocol::{
    GpuDescription, GpuId,
    gpu::{GpuLink, Hardware},
    task::ComputeCapability,
};

use super::Sleeper;

/// What a simulated GPU is. Every field has a default: write `SimulatedOptions { memory_mb: 24_000, ..SimulatedOptions::new(gpu_id) }`.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedOptions {
    /// Its identity. Default: `sim-0`.
    pub gpu_id: GpuId,
    /// The product's name. Default: `Simulated GPU`.
    pub name: String,
    /// Total memory, in MB (10^6 bytes). Default: 80,000.
    pub memory_mb: u64,
    /// CUDA compute capability. Default: 9.0.
    pub compute_capability: ComputeCapability,
    /// How heat, power and clock answer to load.
    pub thermals: Thermals,
    /// How simulated work on it waits for its end. Default: [`Sleeper::Coarse`], which follows a paused clock.
    pub sleeper: Sleeper,
    /// The link between the GPU and its host, each direction by itself. Default: 25 GB/s, 10 µs.
    pub host_link: LinkSpeed,
    /// The links between the GPU and other simulated GPUs of the process, one for each, each direction by itself. `None`: there are none. Default: 200 GB/s, 10 µs.
    pub peer_link: Option<LinkSpeed>,
    /// What it says of its ways to other GPUs; see [`LinkGroups`](super::LinkGroups). Default: nothing.
    pub links: Vec<GpuLink>,
}

/// How fast a link is. It carries one copy at a time in each direction; others wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkSpeed {
    /// In bytes a second, above 0.
    pub bytes_per_second: f64,
    /// How long a copy takes beside its bytes.
    pub latency: Duration,
}

impl LinkSpeed {
    /// So many GB/s (10^9 bytes), and 10 µs.
    #[must_use]
    pub const fn gb_s(gb_s: f64) -> Self {
        Self { bytes_per_second: gb_s * 1e9, latency: Duration::from_micros(10) }
    }
}

impl SimulatedOptions {
    /// The defaults, under this identity.
    #[must_use]
    pub fn new(gpu_id: GpuId) -> Self {
        Self {
            gpu_id,
            name: "Simulated GPU".to_owned(),
            memory_mb: 80_000,
            compute_capability: ComputeCapability { major: 9, minor: 0 },
            thermals: Thermals::default(),
            sleeper: Sleeper::default(),
            host_link: LinkSpeed::gb_s(25.0),
            peer_link: Some(LinkSpeed::gb_s(200.0)),
            links: Vec::new(),
        }
    }

    pub(super) fn description(&self) -> GpuDescription {
        GpuDescription {
            gpu_id: self.gpu_id.clone(),
            name: self.name.clone(),
            memory_total_mb: self.memory_mb,
            compute_capability: self.compute_capability,
            hardware: Hardware { links: self.links.clone(), ..Hardware::default() },
        }
    }
}

impl Default for SimulatedOptions {
    fn default() -> Self {
        Self::new(GpuId::new("sim-0").expect("a literal that keeps the rule"))
    }
}

/// How heat, power and clock answer to load. The defaults resemble a 700 W data-centre GPU that throttles slightly under a long full load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thermals {
    /// Power without load, in W. Default: 70.
    pub idle_watts: f64,
    /// Power at full load, in W. Default: 700.
    pub full_watts: f64,
    /// Time in which power covers 63 % of the way to its target. Default: 300 ms.
    pub power_relaxation: Duration,
    /// Temperature without load, in °C. Default: 32.
    pub idle_celsius: f64,
    /// Temperature that a long full load ends at, in °C. Default: 84.
    pub full_celsius: f64,
    /// Time in which temperature covers 63 % of the way to its target. Default: 20 s.
    pub temperature_relaxation: Duration,
    /// SM clock without load, in MHz. Default: 345.
    pub idle_mhz: f64,
    /// SM clock under load while cool, in MHz. Default: 1,980.
    pub boost_mhz: f64,
    /// Above this temperature the clock falls, in °C. Default: 80.
    pub throttle_celsius: f64,
    /// By how much the clock falls with each degree above that, in MHz; never below `idle_mhz`. Default: 40.
    pub throttle_mhz_per_celsius: f64,
}

impl Default for Thermals {
    fn default() -> Self {
        Self {
            idle_watts: 70.0,
            full_watts: 700.0,
            power_relaxation: Duration::from_millis(300),
            idle_celsius: 32.0,
            full_celsius: 84.0,
            temperature_relaxation: Duration::from_secs(20),
            idle_mhz: 345.0,
            boost_mhz: 1_980.0,
            throttle_celsius: 80.0,
            throttle_mhz_per_celsius: 40.0,
        }
    }
}
