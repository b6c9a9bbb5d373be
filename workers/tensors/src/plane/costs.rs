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
/// So little is what is left of numbers that are taken off each other.
const NOTHING_MS: f64 = 1e-6;

/// How the copies of one GPU are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reach {
    /// It is the GPU that asks.
    is_own: bool,
    /// It is a GPU of this process.
    is_here: bool,
    /// The running system that it is part of, where that is known.
    system: Option<String>,
}

impl Shared {
    /// See [`DataPlane::costs`](super::DataPlane::costs).
    pub(crate) fn costs(&self, copies: &[TensorRecord]) -> Option<DataCosts> {
        weigh(copies, |copy| self.reach(copy), |from, reach| self.gb_s(from, reach))
    }

    fn reach(&self, copy: &TensorRecord) -> Reach {
        let is_own = self.is_own(copy);
        let is_here = is_own || here::find(&copy.incarnation, &copy.gpu_id).is_some();
        Reach { is_own, is_here, system: copy.port.as_ref().map(|port| port.system.clone()) }
    }

    /// How fast a copy comes to this GPU, or to one that is like it.
    fn gb_s(&self, from: &TensorRecord, reach: &Reach) -> f64 {
        if let Some(measured) = self.ways.gb_s(&from.gpu_id, &TransferWay::ALL) {
            return measured;
        }
        match reach {
            Reach { is_here: true, .. } => HERE_GB_S,
            Reach { system: Some(_), .. } if reach.system == self.system => HOST_GB_S,
            _ => FAR_GB_S,
        }
    }
}

/// What it takes to bring tensors somewhere, in ms, by where that is.
#[derive(Default)]
struct Totals<'a> {
    /// To the GPU that asks, or to one that is like it and has none.
    own: f64,
    /// To another one, from far away all of them.
    far: f64,
    /// What of that is saved within this process: for what a GPU of it has.
    saved_here: f64,
    /// What is saved within a system that has some of them; and the same for its GPUs that are of this process, of what no GPU of this process has.
    saved: BTreeMap<&'a str, f64>,
    saved_beside: BTreeMap<&'a str, f64>,
}

/// Weighs what each GPU lacks, in time that grows with the copies that there are: of a GPU that has some, what all would take there is known by where it is, and what it has is taken off.
fn weigh(
    copies: &[TensorRecord],
    reach_of: impl Fn(&TensorRecord) -> Reach,
    gb_s: impl Fn(&TensorRecord, &Reach) -> f64,
) -> Option<DataCosts> {
    let mut reaches: BTreeMap<&GpuId, Reach> = BTreeMap::new();
    let mut tensors: BTreeMap<_, Vec<&TensorRecord>> = BTreeMap::new();
    for copy in copies {
        tensors.entry((&copy.name, copy.version)).or_default().push(copy);
        reaches.entry(&copy.gpu_id).or_insert_with(|| reach_of(copy));
    }
    let (mut totals, mut has) = (Totals::default(), BTreeMap::<&GpuId, f64>::new());
    for holders in tensors.values() {
        totals.add(holders, &reaches, &gb_s, &mut has);
    }
    let at = |(gpu_id, reach): (&&GpuId, &Reach)| {
        let ms = totals.to(reach) - has.get(gpu_id).copied().unwrap_or(0.0);
        ((*gpu_id).clone(), if ms < NOTHING_MS { 0.0 } else { ms })
    };
    let mut at_ms: Vec<_> = reaches.iter().map(at).collect();
    at_ms.retain(|(_, ms)| totals.own - ms >= DIFFERENCE_MS_MIN);
    at_ms.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    at_ms.truncate(DataCosts::GPUS_MAX);
    (!at_ms.is_empty()).then(|| DataCosts { elsewhere_ms: totals.own, at_ms: at_ms.into_iter().collect() })
}

impl<'a> Totals<'a> {
    /// Adds one tensor that these have, and notes what each of them need not have brought.
    fn add(
        &mut self,
        holders: &[&'a TensorRecord],
        reaches: &'a BTreeMap<&'a GpuId, Reach>,
        gb_s: &impl Fn(&TensorRecord, &Reach) -> f64,
        has: &mut BTreeMap<&'a GpuId, f64>,
    ) {
        let bytes = holders.first().map_or(0.0, |copy| copy.bytes as f64);
        let ms = |gb_s: f64| bytes / (gb_s * 1e6);
        let reached: Vec<_> = holders.iter().filter_map(|copy| Some((*copy, reaches.get(&copy.gpu_id)?))).collect();
        // From the holder that is nearest.
        let own_ms = ms(reached.iter().map(|(copy, reach)| gb_s(copy, reach)).fold(f64::MIN_POSITIVE, f64::max));
        let is_any_here = reached.iter().any(|(_, reach)| reach.is_here);
        let mut systems: Vec<&'a str> = reached.iter().filter_map(|(_, reach)| reach.system.as_deref()).collect();
        systems.sort_unstable();
        systems.dedup();
        self.own += own_ms;
        self.far += ms(FAR_GB_S);
        if is_any_here {
            self.saved_here += ms(FAR_GB_S) - ms(HERE_GB_S);
        }
        for system in systems {
            *self.saved.entry(system).or_default() += ms(FAR_GB_S) - ms(HOST_GB_S);
            if !is_any_here {
                *self.saved_beside.entry(system).or_default() += ms(FAR_GB_S) - ms(HOST_GB_S);
            }
        }
        for (copy, reach) in reached {
            *has.entry(&copy.gpu_id).or_default() += match reach {
                Reach { is_own: true, .. } => own_ms,
                Reach { is_here: true, .. } => ms(HERE_GB_S),
                Reach { system: Some(_), .. } => ms(HOST_GB_S),
                Reach { system: None, .. } => ms(FAR_GB_S),
            };
        }
    }

    /// What all of them take to a GPU.
    fn to(&self, Reach { is_own, is_here, system }: &Reach) -> f64 {
        let saved = |of: &BTreeMap<&str, f64>| system.as_deref().and_then(|system| of.get(system)).copied().unwrap_or(0.0);
        match (is_own, is_here) {
            (true, _) => self.own,
            (false, true) => self.far - self.saved_here - saved(&self.saved_beside),
            (false, false) => self.far - saved(&self.saved),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::doubles::{gpu, record};

    const MB: u64 = 1_000_000;

    fn here(_: &TensorRecord) -> Reach {
        Reach { is_own: false, is_here: true, system: None }
    }

    fn weigh_here(copies: &[TensorRecord]) -> Option<DataCosts> {
        weigh(copies, here, |_, _| HERE_GB_S)
    }

    #[test]
    fn a_gpu_costs_what_it_lacks_and_a_difference_that_does_not_matter_is_none() {
        let copies = [record("x", 1, "a", 500 * MB), record("x", 1, "b", 500 * MB), record("y", 1, "b", 1_500 * MB)];
        let costs = weigh_here(&copies).unwrap();
        assert_eq!(costs.elsewhere_ms, 40.0);
        assert_eq!(costs.at_ms, BTreeMap::from([(gpu("a"), 30.0), (gpu("b"), 0.0)]));
        assert_eq!(weigh_here(&[record("x", 1, "a", 2 * MB)]), None, "0.04 ms");
        assert_eq!(weigh_here(&[]), None);
    }

    #[test]
    fn the_nearest_holder_counts() {
        let by_holder = |from: &TensorRecord, _: &Reach| if from.gpu_id == gpu("a") { 1.0 } else { 50.0 };
        let copies = [record("x", 1, "a", 50 * MB), record("x", 1, "b", 50 * MB)];
        assert_eq!(weigh(&copies, here, by_holder).unwrap().elsewhere_ms, 1.0);
    }

    #[test]
    fn where_a_gpu_is_says_how_fast_each_copy_comes_there() {
        let reach = |copy: &TensorRecord| {
            let gpu_id = copy.gpu_id.as_str();
            let system = gpu_id.split('-').next().filter(|system| *system != "alone").map(str::to_owned);
            Reach { is_own: gpu_id == "this-0", is_here: gpu_id.ends_with("-0"), system }
        };
        // Slow, so that each of these is nearer to them than this GPU is.
        let slow = |_: &TensorRecord, _: &Reach| 0.1;
        let on = ["this-0", "this-1", "alone-0", "that-1", "that-2", "alone-1"];
        let mut copies: Vec<_> = on.iter().map(|gpu_id| record(&format!("of.{gpu_id}"), 1, gpu_id, 100 * MB)).collect();
        copies.push(record("both", 1, "this-1", 100 * MB));
        copies.push(record("both", 1, "that-1", 100 * MB));
        let costs = weigh(&copies, reach, slow).unwrap();
        // By each pair of GPUs, as it is meant.
        for to in on {
            let there = reach(&record("x", 1, to, 1));
            let speed = |from: &TensorRecord| {
                let from = reach(from);
                match () {
                    () if there.is_own => 0.1,
                    () if from.is_here && there.is_here => HERE_GB_S,
                    () if from.system.is_some() && from.system == there.system => HOST_GB_S,
                    () => FAR_GB_S,
                }
            };
            let mut tensors: BTreeMap<&str, Vec<&TensorRecord>> = BTreeMap::new();
            copies.iter().for_each(|copy| tensors.entry(copy.name.as_str()).or_default().push(copy));
            let lacked = tensors.values().filter(|holders| !holders.iter().any(|copy| copy.gpu_id.as_str() == to));
            let meant: f64 = lacked.map(|holders| 100.0 / holders.iter().map(|from| speed(from)).fold(0.0, f64::max)).sum();
            let told = costs.at_ms.get(&gpu(to)).copied().unwrap_or(costs.elsewhere_ms);
            assert!((told - meant).abs() < 1e-6, "{to}: {told} and not {meant}");
        }
    }

    #[test]
    fn many_names_on_many_gpus_are_looked_at_once_each() {
        let looks = Cell::new(0_usize);
        let counted = |_: &TensorRecord, _: &Reach| {
            looks.set(looks.get() + 1);
            1.0
        };
        let on = |name: usize| (0..3).map(move |copy| record(&format!("t.{name}"), 1, &format!("g{}", (name * 7 + copy) % 500), MB));
        let copies: Vec<_> = (0..2_000).flat_map(on).collect();
        assert!(weigh(&copies, here, counted).is_some());
        assert_eq!(looks.get(), copies.len());
    }

    #[test]
    fn a_claim_tells_of_a_bounded_number_of_gpus() {
        let copies: Vec<_> = (0..100).map(|number| record("x", 1, &format!("g{number}"), 100 * MB)).collect();
        assert_eq!(weigh_here(&copies).unwrap().at_ms.len(), DataCosts::GPUS_MAX);
    }
}
