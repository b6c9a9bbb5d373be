//! What an executor says that takes several payloads at once, and what it is given then.

use std::{sync::Arc, time::Duration};

use devices::Device;
use protocol::{Json, Segments, Task};
use tokio_util::sync::CancellationToken;

use crate::{Report, Usage};

/// How many payloads an executor takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Most payloads of one run.
    pub largest: usize,
    /// Most that their [sizes](crate::Executor::size) may come to together; a payload that is larger by itself runs alone. `None`: no bound.
    pub size_max: Option<u64>,
    /// How many runs may go on beside each other on one GPU.
    pub at_once: usize,
    /// How long the first payload of a run may wait for others, where the configuration's `batch.wait_ms` says nothing of the kind. Default: `None`, not at all.
    pub wait: Option<Duration>,
}

impl Batching {
    /// Up to so many payloads, of any size, in one run at a time.
    #[must_use]
    pub const fn up_to(largest: usize) -> Self {
        Self { largest, size_max: None, at_once: 1, wait: None }
    }
}

/// Payloads that run together: of one task or of many.
pub struct RunBatch<'a> {
    /// The GPU they run on.
    pub device: &'a Arc<dyn Device>,
    /// The payloads, at least one, in the order in which the answers are to come.
    pub members: Vec<BatchMember<'a>>,
    /// Fires when nobody waits for any of the answers any more.
    pub cancel: CancellationToken,
}

/// One of the payloads that run together.
pub struct BatchMember<'a> {
    /// Its task.
    pub task: &'a Task,
    /// The task's payload, or one of its items.
    pub payload: &'a Json,
    /// Fires when nobody waits for this answer any more; the others go on.
    pub cancel: CancellationToken,
    /// Takes progress and parts of the output of this payload.
    pub report: Report,
    /// Takes what this payload takes of the GPU; [`Usage::share`] divides what the run took.
    pub usage: Usage,
}

impl BatchMember<'_> {
    /// The raw bytes that the payload refers to.
    #[must_use]
    pub const fn segments(&self) -> &Segments {
        &self.task.body.segments
    }
}
