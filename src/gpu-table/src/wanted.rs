//! What a task asks of a GPU: the same for every GPU, and whoever asks.

use std::fmt;

use protocol::{ClaimRequest, GpuId, GpuRow, Kind, Needs, Unplaceable};

use crate::eligibility::{has_all, has_all_but_is_down};

/// What a task asks of a GPU, in words for people: `kind echo, 90000 MB of memory`.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Its kind.
    pub kind: Kind,
    /// What the GPU must have.
    pub needs: Needs,
    /// The only GPU that will do, if any.
    pub specific_gpu_id: Option<GpuId>,
}

impl Wanted {
    /// What the task of a claim asks for.
    #[must_use]
    pub fn of(request: &ClaimRequest) -> Self {
        Self { kind: request.kind.clone(), needs: request.needs.clone(), specific_gpu_id: request.specific_gpu_id.clone() }
    }

    /// Whether this GPU could ever run it, where tasks may use the share `memory_threshold` of its memory.
    #[must_use]
    pub fn fits(&self, row: &GpuRow, memory_threshold: f64) -> bool {
        has_all(row, memory_threshold, (&self.kind, &self.needs), self.specific_gpu_id.as_ref())
    }

    /// As [`fits`](Self::fits), once the kind is up there again: now it is down.
    pub(crate) fn fits_later(&self, row: &GpuRow, memory_threshold: f64) -> bool {
        has_all_but_is_down(row, memory_threshold, (&self.kind, &self.needs), self.specific_gpu_id.as_ref())
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "kind {}", self.kind)?;
        if let Some(memory_mb) = self.needs.memory_mb {
            write!(formatter, ", {memory_mb} MB of memory")?;
        }
        if let Some(capability) = self.needs.compute_capability {
            write!(formatter, ", compute capability {}", String::from(capability))?;
        }
        match &self.specific_gpu_id {
            Some(gpu_id) => write!(formatter, ", GPU {gpu_id}"),
            None => Ok(()),
        }
    }
}

/// The answer that no living GPU fits this request.
pub(crate) fn nothing_fits(request: &ClaimRequest) -> Unplaceable {
    Unplaceable::NothingFits { wanted: Wanted::of(request).to_string() }
}
