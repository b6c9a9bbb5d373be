//! Crashes: attempts that began and never ended, because the worker that ran them is gone, or the process in which it ran them.

use protocol::{DeliveryId, GpuId, Incarnation, Token};

/// The holder of an attempt that began and has no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The token that it began under.
    pub token: Token,
    /// The GPU.
    pub gpu_id: GpuId,
    /// Its worker's incarnation, which lives or is gone.
    pub incarnation: Incarnation,
    /// The delivery that it was begun for.
    pub delivery: DeliveryId,
}

/// What became of a [`Holder`], as the next one found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whose.
    pub token: Token,
    /// Its worker is gone, or, where the worker itself says so, the process that the attempt ran in: the attempt crashed. Otherwise it lives and has let go of the task; an outcome of it will
    /// be refused.
    pub gone: bool,
}

/// One crash of a task's worker while the task ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// In which attempt.
    pub attempt: u32,
    /// On which GPU.
    pub gpu_id: GpuId,
    /// When it was found, in Unix milliseconds of the store's clock.
    pub found_ms: u64,
    /// Whether the task ran alone on its GPU, so that nothing else can have been the cause.
    pub alone: bool,
}
