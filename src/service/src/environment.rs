//! The real clock, the system's randomness and tokio's spawning, for programs. Simulations bring their own [`Environment`].

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use protocol::{
    Environment,
    environment::{Clock, Job, Random, Spawn},
};
use tracing::Instrument;
use uuid::Uuid;

/// The environment of a real process: wall clock, operating system's randomness, jobs on the tokio runtime that is current at each spawn.
#[must_use]
pub fn system_environment() -> Environment {
    Environment { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom), spawner: Arc::new(TokioSpawner), traces: None }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now_us(&self) -> u64 {
        // A clock before 1970 is a machine without a battery: 0 keeps it running until its clock is set.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        // A version 4 UUID fixes four bits of its upper half and two of its lower half, at different places: folded, all 64 are random.
        let (upper, lower) = Uuid::new_v4().as_u64_pair();
        upper ^ lower
    }
}

struct TokioSpawner;

impl Spawn for TokioSpawner {
    fn spawn(&self, name: &'static str, job: Job) {
        tokio::spawn(job.instrument(tracing::debug_span!("job", name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_reads_this_century_in_microseconds() {
        let now_us = system_environment().clock.now_us();
        assert!((1_577_836_800_000_000..4_102_444_800_000_000).contains(&now_us), "{now_us}");
    }

    #[test]
    fn every_bit_of_a_random_number_varies() {
        let random = system_environment().random;
        let numbers: Vec<u64> = (0..256).map(|_| random.next_u64()).collect();
        assert_eq!(numbers.iter().fold(0, |seen, number| seen | number), u64::MAX, "a bit is never set");
        assert_eq!(numbers.iter().fold(u64::MAX, |seen, number| seen & number), 0, "a bit is always set");
    }

    #[tokio::test]
    async fn a_spawned_job_runs() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        system_environment().spawn("test", async move {
            sender.send(7).expect("the test listens");
        });
        assert_eq!(receiver.await, Ok(7));
    }
}
