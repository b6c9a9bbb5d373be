//! The trait between a worker and its GPU.

use std::fmt;

use async_trait::async_trait;
use protocol::{GpuDescription, GpuSample, Health};

use crate::{DeviceMemory, simulated::Sleeper};

/// What an attempt will use of a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Use {
    /// Memory, in MB (10^6 bytes).
    pub memory_mb: u64,
    /// Share of the GPU's compute that the work keeps busy, 0 to 1.
    pub compute_share: f64,
}

/// The GPU does not have the memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the GPU has {free_mb} MB free of {total_mb} MB, the task needs {wanted_mb} MB")]
pub struct OutOfMemory {
    /// What was asked for, in MB.
    pub wanted_mb: u64,
    /// What was free, in MB.
    pub free_mb: u64,
    /// What there is, in MB.
    pub total_mb: u64,
}

/// Work on the GPU: its memory and compute are in use until this is dropped.
pub struct WorkOn(Box<dyn Send + Sync>);

impl WorkOn {
    /// For devices: `guard` gives back what is in use when it is dropped.
    #[must_use]
    pub fn new(guard: Box<dyn Send + Sync>) -> Self {
        Self(guard)
    }
}

impl fmt::Debug for WorkOn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.0;
        formatter.write_str("WorkOn")
    }
}

/// Something that went wrong with a GPU by itself, whatever its tasks say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What follows from it.
    pub what: Consequence,
    /// What it is, for operators.
    pub reason: String,
    /// The number of the Xid event that told it, if one did.
    pub xid: Option<u64>,
}

/// What follows from trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing: it is counted and logged.
    Noted,
    /// The GPU is watched: it goes on taking tasks.
    Suspected,
    /// The GPU takes no tasks until its [`probe`](Device::probe) passes.
    Quarantined,
    /// This process can use the GPU no more: it ends, and a new one probes the GPU first.
    Lost {
        /// Whether a task that runs may have done it, so that each of them is a suspect.
        by_a_task: bool,
    },
}

/// One GPU.
#[async_trait]
pub trait Device: Send + Sync + 'static {
    /// What it is. Does not change.
    fn description(&self) -> &GpuDescription;

    /// What it does right now, or did when it last answered (`age_ms`). Never blocks.
    fn sample(&self) -> GpuSample;

    /// Its health, and the reason where it is not healthy.
    fn health(&self) -> (Health, String);

    /// Takes memory and compute for an attempt.
    ///
    /// # Errors
    /// [`OutOfMemory`], with what is free.
    fn begin(&self, wanted: Use) -> Result<WorkOn, OutOfMemory>;

    /// How fast work goes, against what is normal: 0.5 takes twice as long. Above 0. Default: 1.
    fn speed(&self) -> f64 {
        1.0
    }

    /// How simulated work on it waits for its end. Default: by tokio's timer alone.
    fn sleeper(&self) -> Sleeper {
        Sleeper::default()
    }

    /// Runs a small piece of work with a known answer: whether a GPU that was taken out works again. Default: it does.
    ///
    /// # Errors
    /// What went wrong, for operators.
    async fn probe(&self) -> Result<(), String> {
        Ok(())
    }

    /// Waits for the next trouble, and tells it once. One may wait at a time. Default: there is never any.
    async fn trouble(&self) -> Trouble {
        std::future::pending().await
    }

    /// Whether this process can use the GPU no more. [`trouble`](Self::trouble) tells why, then or soon. Default: it always can.
    fn is_lost(&self) -> bool {
        false
    }

    /// CUDA on this GPU, for executors that need it. Default: none, as on a simulated GPU.
    fn cuda(&self) -> Option<&crate::Cuda> {
        None
    }

    /// Its memory, for data that stays there between tasks. Default: none.
    fn memory(&self) -> Option<&dyn DeviceMemory> {
        None
    }

    /// The error that an attempt which began now runs into, if any. Executors ask once for each attempt, right after [`begin`](Self::begin).
    /// Default: none.
    fn take_fault(&self) -> Option<String> {
        None
    }
}
