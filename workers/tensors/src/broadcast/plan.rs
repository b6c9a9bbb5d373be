//! Who sends to whom next, when a tensor goes to many GPUs.
//!
//! There is no fixed tree: each time that somebody is free, what comes next is chosen anew from who has the tensor by then. Where all goes well this is a tree: a GPU that has it passes it on at once, one receiver
//! at a time, so that with each round twice as many have it. Where a receiver is slow or dead, others take over what would have been behind it.

use std::collections::BTreeSet;

use protocol::{GpuId, gpu::LinkPath};

use crate::Destination;

/// How far two GPUs are from each other where nothing is known of the way between them: farther than any that is known.
const SAME_HOST: u32 = 100;
const OTHER_HOST: u32 = 1_000;

/// The GPUs that take part, by their numbers in `gpus`.
pub(crate) struct Plan<'a> {
    gpus: &'a [Destination],
}

/// Where a broadcast stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Those that have it.
    pub(crate) have: BTreeSet<usize>,
    /// Those that are to have it, and to which nobody sends now.
    pub(crate) lack: BTreeSet<usize>,
    /// From whom to whom it goes now.
    pub(crate) going: Vec<Sending>,
    /// From whom to whom it did not go.
    pub(crate) failed: BTreeSet<(usize, usize)>,
}

/// One copy on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// It takes so long that nobody waits for it any more: the one who sends may send elsewhere meanwhile.
    pub(crate) is_late: bool,
}

impl<'a> Plan<'a> {
    pub(crate) const fn new(gpus: &'a [Destination]) -> Self {
        Self { gpus }
    }

    /// What can begin now, the nearest pairs first; each GPU is in one of them at most.
    pub(crate) fn next(&self, standing: &Standing) -> Vec<(usize, usize)> {
        let in_time = || standing.going.iter().filter(|sending| !sending.is_late);
        let mut free: BTreeSet<usize> = standing.have.iter().copied().collect();
        in_time().for_each(|sending| {
            free.remove(&sending.from);
        });
        // A host has its own copy, or one that is on its way to it: nothing else goes there from other hosts.
        let is_host_of = |to: usize, number: usize| self.gpus[to].host == self.gpus[number].host;
        let mut served: Vec<&str> = Vec::new();
        let mut pairs: Vec<_> = free.iter().flat_map(|from| standing.lack.iter().map(|to| (*from, *to))).collect();
        pairs.retain(|pair| !standing.failed.contains(pair));
        pairs.sort_by_key(|(from, to)| (self.distance(*from, *to), *from, *to));
        let mut lack = standing.lack.clone();
        let mut begun = Vec::new();
        for (from, to) in pairs {
            if !free.contains(&from) || !lack.contains(&to) {
                continue;
            }
            let host = self.gpus[to].host.as_str();
            if self.gpus[from].host != host {
                let can_come_from_there = |number: usize| is_host_of(to, number) && !standing.failed.contains(&(number, to));
                let has = standing.have.iter().any(|number| can_come_from_there(*number));
                if has || served.contains(&host) || in_time().any(|sending| can_come_from_there(sending.to)) {
                    continue;
                }
                served.push(host);
            }
            free.remove(&from);
            lack.remove(&to);
            begun.push((from, to));
        }
        begun
    }

    /// The way between two GPUs, from near to far.
    fn distance(&self, from: usize, to: usize) -> u32 {
        let (from, to) = (&self.gpus[from], &self.gpus[to]);
        if from.host != to.host {
            return OTHER_HOST;
        }
        let between = |one: &Destination, other: &GpuId| one.links.iter().find(|link| link.gpu_id == *other).cloned();
        match between(to, &from.gpu_id).or_else(|| between(from, &to.gpu_id)) {
            // More NVLinks are nearer.
            Some(link) if link.nvlinks > 0 || link.path == LinkPath::Nvlink => 20_u32.saturating_sub(link.nvlinks),
            Some(link) => 20 + 10 * rank(link.path) + 5 * u32::from(!link.peer_access),
            None => SAME_HOST + u32::from(from.numa_node != to.numa_node),
        }
    }
}

const fn rank(path: LinkPath) -> u32 {
    match path {
        LinkPath::Nvlink | LinkPath::SameBoard => 0,
        LinkPath::PcieSwitch => 1,
        LinkPath::PcieSwitches => 2,
        LinkPath::HostBridge => 3,
        LinkPath::NumaNode => 4,
        LinkPath::System => 5,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::gpu::GpuLink;

    use super::*;
    use crate::doubles::{destination, gpu};

    /// The rounds of a broadcast in which every copy takes as long.
    fn rounds(gpus: &[Destination], have: &[usize]) -> Vec<Vec<(usize, usize)>> {
        let plan = Plan::new(gpus);
        let have: BTreeSet<usize> = have.iter().copied().collect();
        let lack = (0..gpus.len()).filter(|number| !have.contains(number)).collect();
        let mut standing = Standing { have, lack, ..Standing::default() };
        let mut rounds = Vec::new();
        while !standing.lack.is_empty() {
            let begun = plan.next(&standing);
            assert!(!begun.is_empty(), "nothing goes on: {standing:?}");
            for (_, to) in &begun {
                standing.lack.remove(to);
                standing.have.insert(*to);
            }
            rounds.push(begun);
        }
        rounds
    }

    fn hosts(names: &[&str]) -> Vec<Destination> {
        names.iter().enumerate().map(|(number, host)| destination(&format!("g{number}"), host)).collect()
    }

    fn link(one: &mut Destination, other: &str, path: LinkPath, nvlinks: u32) {
        one.links.push(GpuLink { gpu_id: gpu(other), path, nvlinks, peer_access: true });
    }

    #[test]
    fn each_other_host_gets_it_once_and_spreads_it_itself() {
        let gpus = hosts(&["a", "a", "a", "b", "b", "b", "c"]);
        let all = rounds(&gpus, &[0]).concat();
        let across: Vec<_> = all.iter().filter(|(from, to)| gpus[*from].host != gpus[*to].host).collect();
        assert_eq!(across.len(), 2, "{all:?}");
    }

    #[test]
    fn the_nearest_pairs_come_first() {
        let mut gpus = hosts(&["a", "a", "a", "b"]);
        link(&mut gpus[1], "g0", LinkPath::System, 0);
        link(&mut gpus[2], "g0", LinkPath::Nvlink, 4);
        assert_eq!(Plan::new(&gpus).next(&Standing { have: [0].into(), lack: [1, 2, 3].into(), ..Standing::default() }), [(0, 2)]);
        link(&mut gpus[2], "g1", LinkPath::PcieSwitch, 0);
        assert_eq!(rounds(&gpus, &[0]), [vec![(0, 2)], vec![(2, 1), (0, 3)]]);
    }

    #[test]
    fn a_gpu_sends_to_one_at_a_time_but_does_not_wait_for_one_that_is_late() {
        let gpus = hosts(&["a", "a", "a"]);
        let sending = |is_late| Sending { from: 0, to: 1, is_late };
        let standing = |is_late| Standing { have: [0].into(), lack: [2].into(), going: vec![sending(is_late)], ..Standing::default() };
        assert_eq!(Plan::new(&gpus).next(&standing(false)), []);
        assert_eq!(Plan::new(&gpus).next(&standing(true)), [(0, 2)]);
    }

    #[test]
    fn a_host_whose_first_receiver_is_late_is_sent_another_copy() {
        let gpus = hosts(&["a", "a", "b", "b"]);
        let going = |is_late| vec![Sending { from: 0, to: 2, is_late }];
        let standing = |is_late| Standing { have: [0, 1].into(), lack: [3].into(), going: going(is_late), ..Standing::default() };
        assert_eq!(Plan::new(&gpus).next(&standing(false)), [], "it comes from there soon");
        assert_eq!(Plan::new(&gpus).next(&standing(true)), [(0, 3)]);
    }

    #[test]
    fn who_could_not_read_from_one_reads_from_another() {
        let gpus = hosts(&["a", "b", "b"]);
        let failed = Standing { have: [0, 1].into(), lack: [2].into(), failed: [(1, 2)].into(), ..Standing::default() };
        assert_eq!(Plan::new(&gpus).next(&failed), [(0, 2)]);
        let everywhere = Standing { failed: [(0, 2), (1, 2)].into(), ..failed };
        assert_eq!(Plan::new(&gpus).next(&everywhere), []);
    }

    proptest! {
        #[test]
        fn every_gpu_gets_it_once_from_one_that_has_it(hosts_of in prop::collection::vec(0_u8..4, 1..20), holders in 1_usize..4) {
            let names: Vec<String> = hosts_of.iter().map(u8::to_string).collect();
            let gpus = hosts(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let have: Vec<usize> = (0..holders.min(gpus.len())).collect();
            let mut has: BTreeSet<usize> = have.iter().copied().collect();
            for round in rounds(&gpus, &have) {
                let senders: BTreeSet<_> = round.iter().map(|(from, _)| from).collect();
                prop_assert_eq!(senders.len(), round.len(), "each sends to one at a time");
                prop_assert!(round.iter().all(|(from, _)| has.contains(from)));
                for (_, to) in round {
                    prop_assert!(has.insert(to), "twice to {}", to);
                }
            }
            prop_assert_eq!(has.len(), gpus.len());
        }

        #[test]
        fn where_all_links_are_alike_twice_as_many_have_it_with_each_round(others in 0_usize..40) {
            let gpus = hosts(&vec!["a"; others + 1]);
            let depth = rounds(&gpus, &[0]).len();
            let most = (others + 1).next_power_of_two().ilog2() as usize;
            prop_assert!(depth <= most, "{} rounds for {}", depth, others);
        }
    }
}
