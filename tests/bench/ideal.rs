//! The ideal queues: one line, first come first served, no hand-over ever takes time. With Poisson arrivals the one of many servers is M/D/c.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// How long each task takes from its arrival to its end. `arrivals` must be sorted.
pub(crate) fn latencies(arrivals: &[Duration], servers: usize, service: Duration) -> Vec<Duration> {
    let mut free_at: BinaryHeap<Reverse<Duration>> = (0..servers).map(|_| Reverse(Duration::ZERO)).collect();
    let serve = |arrival: &Duration| {
        let Reverse(free) = free_at.pop().unwrap_or_default();
        let end = free.max(*arrival) + service;
        free_at.push(Reverse(end));
        end - *arrival
    };
    arrivals.iter().map(serve).collect()
}

/// One server that runs several tasks at once, by the rule of the fleet: as soon as it has ended a run it takes what came meanwhile. Where nothing did, the next one to come
/// waits for others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunsTogether {
    /// Most tasks of a run, at least 1.
    pub(crate) largest: u32,
    /// How long the first waits for others, unless they fill the run earlier.
    pub(crate) wait: Duration,
    /// What every run takes, and what each of its tasks adds.
    pub(crate) fixed: Duration,
    pub(crate) item: Duration,
}

/// A task that was in a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RanTogether {
    /// From its arrival to the start of the run.
    pub(crate) wait: Duration,
    pub(crate) run: Duration,
    /// Tasks of the run.
    pub(crate) together: u32,
}

impl RunsTogether {
    /// How long a run of so many takes.
    pub(crate) fn takes(&self, together: u32) -> Duration {
        self.fixed + self.item * together
    }

    /// What becomes of each task. `arrivals` must be sorted.
    pub(crate) fn serve(&self, arrivals: &[Duration]) -> Vec<RanTogether> {
        let (mut ran, mut free_at, mut rest) = (Vec::with_capacity(arrivals.len()), Duration::ZERO, arrivals);
        while let Some(first) = rest.first() {
            let starts = if *first <= free_at { free_at } else { self.gathered(*first, rest) };
            let members = rest.iter().take(self.largest as usize).take_while(|arrival| **arrival <= starts);
            let (members, others) = rest.split_at(members.count());
            let together = u32::try_from(members.len()).unwrap_or(u32::MAX);
            let run = self.takes(together);
            ran.extend(members.iter().map(|arrival| RanTogether { wait: starts - *arrival, run, together }));
            (free_at, rest) = (starts + run, others);
        }
        ran
    }

    /// When a free server begins with these: the run is full, or the first of them has waited.
    fn gathered(&self, first: Duration, arrivals: &[Duration]) -> Duration {
        let waited = first + self.wait;
        arrivals.get(self.largest as usize - 1).map_or(waited, |last| waited.min(*last))
    }
}
