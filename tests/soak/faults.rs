//! What is done to the fleet, and when: drawn from the seed before anything starts.
//!
//! Workers are killed, restarted and drained through the whole run, but for the first of them, which lives as long as the run. The gateway and the servers are restarted in its first half: a
//! process that was started a moment ago has grown, and nobody could tell by how much it should.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::programs::{End, GPUS_OF_EACH, WORKERS, gpus_of};

/// Between two faults of workers.
const BETWEEN: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(45)];
/// Where in the run something may happen, as shares of it: to workers, to the gateway, to the servers.
const OF_WORKERS: [f64; 2] = [0.05, 0.92];
const OF_THE_GATEWAY: [f64; 2] = [0.08, 0.25];
const OF_SERVERS: [f64; 2] = [0.10, 0.45];

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upset {
    /// A worker's process ends and is started again.
    Worker(usize, End),
    /// A GPU is drained for so long.
    Drain(String, Duration),
    Gateway(End),
    /// The broker is stopped (or killed) and started again.
    Broker {
        kill: bool,
    },
    /// Redis is stopped and started again.
    Redis,
}

impl Upset {
    /// What the report counts it as.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Worker(_, End::Kill) => "worker killed",
            Self::Worker(_, End::Term) => "worker restarted",
            Self::Drain(..) => "GPU drained and undrained",
            Self::Gateway(End::Kill) => "gateway killed",
            Self::Gateway(End::Term) => "gateway restarted",
            Self::Broker { kill: true } => "broker killed",
            Self::Broker { kill: false } => "broker restarted",
            Self::Redis => "Redis restarted",
        }
    }
}

/// All faults of a run, in the order of their moments.
pub(crate) fn planned(seed: u64, lasting: Duration) -> Vec<(Duration, Upset)> {
    // Not the numbers of the load, which is drawn from the same seed.
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xfa17);
    let hours = lasting.as_secs_f64() / 3_600.0;
    let within = |random: &mut ChaCha8Rng, [from, to]: [f64; 2]| lasting.mul_f64(random.random_range(from..to));
    let mut faults = Vec::new();
    let mut at = lasting.mul_f64(OF_WORKERS[0]);
    while at < lasting.mul_f64(OF_WORKERS[1]) {
        faults.push((at, of_a_worker(&mut random)));
        at += BETWEEN[0] + (BETWEEN[1] - BETWEEN[0]).mul_f64(random.random::<f64>());
    }
    for end in [End::Term, End::Kill] {
        faults.push((within(&mut random, OF_THE_GATEWAY), Upset::Gateway(end)));
    }
    // One of each in every run, and another one for each hour.
    let restarts = 1 + hours as usize;
    for number in 0..restarts {
        faults.push((within(&mut random, OF_SERVERS), Upset::Redis));
        faults.push((within(&mut random, OF_SERVERS), Upset::Broker { kill: number % 2 == 1 }));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn of_a_worker(random: &mut ChaCha8Rng) -> Upset {
    let mortal = random.random_range(1..WORKERS);
    match random.random_range(0..10) {
        0..3 => Upset::Worker(mortal, End::Kill),
        3..5 => Upset::Worker(mortal, End::Term),
        _ => {
            let (worker, gpu) = (random.random_range(0..WORKERS), random.random_range(0..GPUS_OF_EACH));
            let gpu = gpus_of(worker).nth(gpu).unwrap_or_default();
            Upset::Drain(gpu, Duration::from_secs(random.random_range(8..25)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTING: Duration = Duration::from_secs(4 * 3_600);

    #[test]
    fn the_same_seed_plans_the_same_faults_and_another_one_others() {
        assert_eq!(planned(5, LASTING), planned(5, LASTING));
        assert_ne!(planned(5, LASTING), planned(6, LASTING));
    }

    #[test]
    fn the_first_worker_is_never_ended_and_what_must_live_long_is_left_alone_in_the_second_half() {
        for seed in 0..20 {
            let faults = planned(seed, LASTING);
            assert!(faults.is_sorted_by_key(|(at, _)| *at));
            for (at, fault) in &faults {
                assert!(!matches!(fault, Upset::Worker(0, _)), "{fault:?}");
                let is_late = *at > LASTING.mul_f64(0.5);
                assert!(!is_late || matches!(fault, Upset::Worker(..) | Upset::Drain(..)), "{at:?} {fault:?}");
            }
        }
    }

    #[test]
    fn every_sort_of_fault_happens_in_a_long_run_and_the_servers_are_restarted_in_a_short_one() {
        let names: std::collections::BTreeSet<&str> = planned(1, LASTING).iter().map(|(_, fault)| fault.name()).collect();
        assert_eq!(names.len(), 8, "{names:?}");
        let short = planned(1, Duration::from_secs(180));
        let count = |name: &str| short.iter().filter(|(_, fault)| fault.name() == name).count();
        assert_eq!((count("broker restarted"), count("Redis restarted"), count("gateway killed")), (1, 1, 1));
    }
}
