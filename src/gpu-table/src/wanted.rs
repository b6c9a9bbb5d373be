//! What a claim looked for, in words for people: the `wanted` of an answer that says nothing fits.

use protocol::{ClaimRequest, Unplaceable};

/// The answer that no living GPU fits this request.
pub(crate) fn nothing_fits(request: &ClaimRequest) -> Unplaceable {
    let mut wanted = format!("kind {}", request.kind);
    if let Some(memory_mb) = request.needs.memory_mb {
        wanted.push_str(&format!(", {memory_mb} MB of memory"));
    }
    if let Some(capability) = request.needs.compute_capability {
        wanted.push_str(&format!(", compute capability {}", String::from(capability)));
    }
    if let Some(gpu_id) = &request.specific_gpu_id {
        wanted.push_str(&format!(", GPU {gpu_id}"));
    }
    Unplaceable::NothingFits { wanted }
}
