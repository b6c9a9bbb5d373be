//! The ideal queue: one line for all servers, first come first served, no hand-over ever takes time. With Poisson arrivals it is M/D/c.

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
