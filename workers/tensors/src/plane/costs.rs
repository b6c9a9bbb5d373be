//! What it would cost to bring tensors to GPUs.

use std::collections::BTreeMap;

use protocol::{DataCosts, GpuId, TensorRecord, TransferWay};

use super::{Shared, here};

/// Usual bandwidths, in GB/s (10^9 bytes), where none was measured: within a process, within a host, between hosts.
const HERE_GB_S: f64 = 50.0;
const HOST_GB_S: f64 = 5.0;
const FAR_GB_S: f64 = 1.0;
/// A smaller difference is no reason to go elsewhere.
const DIFFERENCE_MS_MIN: f64 = 0.1;

impl Shared {
    /// See [`DataPlane::costs`](super::DataPlane::costs).
    pub(crate) fn costs(&self, copies: &[TensorRecord]) -> Option<DataCosts> {
        weigh(copies, |from, to| self.gb_s(from, to))
    }

    /// How fast a copy comes to a GPU that has another one, or (`None`) to one that is like this one and has none.
    fn gb_s(&self, from: &TensorRecord, to: Option<&TensorRecord>) -> f64 {
        if to.is_none_or(|to| self.is_own(to))
            && let Some(measured) = self.ways.gb_s(&from.gpu_id, &TransferWay::ALL)
        {
            return measured;
        }
        let is_here = |record: &TensorRecord| self.is_own(record) || here::find(&record.incarnation, &record.gpu_id).is_some();
        if is_here(from) && to.is_none_or(is_here) {
            return HERE_GB_S;
        }
        let system = |record: &TensorRecord| record.port.as_ref().map(|port| port.system.clone());
        let to_system = to.map_or_else(|| self.system.clone(), system);
        if to_system.is_some() && system(from) == to_system { HOST_GB_S } else { FAR_GB_S }
    }
}

/// Weighs what each GPU lacks.
fn weigh(copies: &[TensorRecord], gb_s: impl Fn(&TensorRecord, Option<&TensorRecord>) -> f64) -> Option<DataCosts> {
    let mut tensors: BTreeMap<_, Vec<&TensorRecord>> = BTreeMap::new();
    let mut gpus: BTreeMap<&GpuId, &TensorRecord> = BTreeMap::new();
    for copy in copies {
        tensors.entry((&copy.name, copy.version)).or_default().push(copy);
        gpus.entry(&copy.gpu_id).or_insert(copy);
    }
    let cost = |to: Option<&TensorRecord>| -> f64 {
        let lacks = |holders: &&Vec<&TensorRecord>| !to.is_some_and(|to| holders.iter().any(|copy| copy.gpu_id == to.gpu_id));
        tensors.values().filter(lacks).map(|holders| milliseconds(holders, |from| gb_s(from, to))).sum()
    };
    let elsewhere_ms = cost(None);
    let mut at_ms: Vec<_> = gpus.into_iter().map(|(gpu_id, copy)| (gpu_id.clone(), cost(Some(copy)))).collect();
    at_ms.retain(|(_, ms)| elsewhere_ms - ms >= DIFFERENCE_MS_MIN);
    at_ms.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    at_ms.truncate(DataCosts::GPUS_MAX);
    (!at_ms.is_empty()).then(|| DataCosts { elsewhere_ms, at_ms: at_ms.into_iter().collect() })
}

/// From the holder that is nearest.
fn milliseconds(holders: &[&TensorRecord], gb_s: impl Fn(&TensorRecord) -> f64) -> f64 {
    let fastest = holders.iter().map(|from| gb_s(from)).fold(f64::MIN_POSITIVE, f64::max);
    holders.first().map_or(0.0, |copy| copy.bytes as f64 / (fastest * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doubles::{gpu, record};

    const MB: u64 = 1_000_000;

    #[test]
    fn a_gpu_costs_what_it_lacks_and_a_difference_that_does_not_matter_is_none() {
        let usual = |_: &TensorRecord, _: Option<&TensorRecord>| 10.0;
        let copies = [record("x", 1, "a", 100 * MB), record("x", 1, "b", 100 * MB), record("y", 1, "b", 300 * MB)];
        let costs = weigh(&copies, usual).unwrap();
        assert_eq!(costs.elsewhere_ms, 40.0);
        assert_eq!(costs.at_ms, BTreeMap::from([(gpu("a"), 30.0), (gpu("b"), 0.0)]));
        assert_eq!(weigh(&[record("x", 1, "a", MB / 2)], usual), None, "0.05 ms");
        assert_eq!(weigh(&[], usual), None);
    }

    #[test]
    fn the_nearest_holder_counts() {
        let by_holder = |from: &TensorRecord, _: Option<&TensorRecord>| if from.gpu_id == gpu("a") { 1.0 } else { 50.0 };
        let copies = [record("x", 1, "a", 50 * MB), record("x", 1, "b", 50 * MB)];
        assert_eq!(weigh(&copies, by_holder).unwrap().elsewhere_ms, 1.0);
    }

    #[test]
    fn a_claim_tells_of_a_bounded_number_of_gpus() {
        let copies: Vec<_> = (0..100).map(|number| record("x", 1, &format!("g{number}"), 100 * MB)).collect();
        assert_eq!(weigh(&copies, |_, _| 1.0).unwrap().at_ms.len(), DataCosts::GPUS_MAX);
    }
}
