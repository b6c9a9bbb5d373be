//! Ways of tensors between GPUs that are left out for a while because they failed.

use std::collections::BTreeMap;

use protocol::{TransferWay, gpu::GpuView};

use super::Finding;
use crate::gpus::one_line;

/// How many pairs are named for each reason.
const NAMED_MAX: usize = 4;

/// A warning for each way and reason.
pub(super) fn look(gpus: &[GpuView]) -> Vec<Finding> {
    let mut found = BTreeMap::<(TransferWay, String), Vec<String>>::new();
    for view in gpus {
        for way in view.row.data.ways.iter().filter(|way| way.demoted_for_ms.is_some()) {
            let pair = format!("{} to {}", way.from, view.row.gpu.gpu_id);
            found.entry((way.way, one_line(&way.reason))).or_default().push(pair);
        }
    }
    found.into_iter().map(|((way, reason), pairs)| told(way, &reason, &pairs)).collect()
}

fn told(way: TransferWay, reason: &str, pairs: &[String]) -> Finding {
    let mut named: Vec<&str> = pairs.iter().map(String::as_str).take(NAMED_MAX).collect();
    if pairs.len() > named.len() {
        named.push("…");
    }
    let detail = format!(
        "left out for a while, since it failed: {reason} ({}). Tensors take the next way meanwhile, which may be slower; `gpufleet gpus <id>` shows all ways to a GPU",
        named.join(", ")
    );
    Finding::warning(format!("transfers, {}", way.name()), detail)
}
