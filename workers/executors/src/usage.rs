//! What an attempt took of its GPU, as far as its executor measures it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use devices::nvidia::cuda::Ran;

/// What an attempt took. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Usage(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    device_time: Option<Duration>,
    peak_bytes: u64,
    batch_size: Option<u32>,
    run_time: Option<Duration>,
    load_time: Option<Duration>,
    transfer_time: Option<Duration>,
}

/// What is there already is found in no time, which is not worth telling.
const WORTH_TELLING: Duration = Duration::from_millis(1);

impl Usage {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one piece of work on the GPU: its times add up, of its memory the largest counts. Gives what it gave.
    pub fn add<T>(&self, ran: Ran<T>) -> T {
        let mut taken = self.lock();
        *taken.device_time.get_or_insert_default() += ran.device_time;
        taken.peak_bytes = taken.peak_bytes.max(ran.peak_bytes);
        ran.value
    }

    /// Divides what one piece of work for several payloads took evenly among them: what all of them took together is what the GPU gave. Gives what the work gave.
    pub fn share<'a, T>(usages: impl ExactSizeIterator<Item = &'a Self>, ran: Ran<T>) -> T {
        let members = u32::try_from(usages.len()).unwrap_or(u32::MAX).max(1);
        let (device_time, peak_bytes) = (ran.device_time / members, ran.peak_bytes.div_ceil(u64::from(members)));
        for usage in usages {
            usage.add(Ran { value: (), device_time, peak_bytes });
        }
        ran.value
    }

    /// Takes note that so many payloads ran together; of several runs the largest counts.
    pub fn ran_together(&self, payloads: usize) {
        let payloads = u32::try_from(payloads).unwrap_or(u32::MAX);
        let mut taken = self.lock();
        taken.batch_size = taken.batch_size.max(Some(payloads));
    }

    /// Takes note that a run that succeeded took so long by itself, without what was waited for before it: a place in a process, the load of a model. Of several runs the times add up. An executor that never
    /// calls it has no such waits.
    pub fn ran_for(&self, took: Duration) {
        *self.lock().run_time.get_or_insert_default() += took;
    }

    /// Takes note that a model was waited for so long: it was loaded, or there was no room for it yet. Less than a millisecond is no wait. Of several the times add up.
    pub fn loaded_for(&self, took: Duration) {
        if took >= WORTH_TELLING {
            *self.lock().load_time.get_or_insert_default() += took;
        }
    }

    /// Takes note that it took so long to bring tensors to the GPU. Less than a millisecond is nothing. Of several the times add up.
    pub fn brought_for(&self, took: Duration) {
        if took >= WORTH_TELLING {
            *self.lock().transfer_time.get_or_insert_default() += took;
        }
    }

    /// How long models were waited for. `None`: they were not, as far as that is measured.
    #[must_use]
    pub fn load_time(&self) -> Option<Duration> {
        self.lock().load_time
    }

    /// How long it took to bring tensors to the GPU. `None`: there was nothing to bring.
    #[must_use]
    pub fn transfer_time(&self) -> Option<Duration> {
        self.lock().transfer_time
    }

    /// How long the runs took by themselves. `None`: as long as the executor was busy with them.
    #[must_use]
    pub fn run_time(&self) -> Option<Duration> {
        self.lock().run_time
    }

    /// How many payloads ran together at most. `None`: it ran by itself.
    #[must_use]
    pub fn batch_size(&self) -> Option<u32> {
        self.lock().batch_size
    }

    /// How long the GPU worked, by its own clock. `None`: not measured.
    #[must_use]
    pub fn device_time(&self) -> Option<Duration> {
        self.lock().device_time
    }

    /// The most memory that it held at once, in MB (10^6 bytes), rounded up; 0: not measured.
    #[must_use]
    pub fn peak_mb(&self) -> u64 {
        self.lock().peak_bytes.div_ceil(1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_took_is_divided_among_its_payloads() {
        let usages = [Usage::default(), Usage::default(), Usage::default()];
        let given = Usage::share(usages.iter(), Ran { value: 7, device_time: Duration::from_millis(30), peak_bytes: 4_000_000 });
        assert_eq!(given, 7);
        for usage in &usages {
            assert_eq!((usage.device_time(), usage.peak_mb()), (Some(Duration::from_millis(10)), 2), "rounded up");
        }
    }

    #[test]
    fn the_times_of_several_runs_add_up() {
        let usage = Usage::default();
        assert_eq!(usage.run_time(), None);
        usage.ran_for(Duration::from_millis(3));
        usage.clone().ran_for(Duration::from_millis(4));
        assert_eq!(usage.run_time(), Some(Duration::from_millis(7)));
    }

    #[test]
    fn what_was_there_already_was_not_waited_for() {
        let usage = Usage::default();
        usage.loaded_for(Duration::from_micros(900));
        usage.brought_for(Duration::from_micros(900));
        assert_eq!((usage.load_time(), usage.transfer_time()), (None, None));
        usage.loaded_for(Duration::from_millis(2));
        usage.loaded_for(Duration::from_millis(3));
        assert_eq!((usage.load_time(), usage.transfer_time()), (Some(Duration::from_millis(5)), None));
    }

    #[test]
    fn of_several_runs_the_largest_is_told() {
        let usage = Usage::default();
        assert_eq!(usage.batch_size(), None);
        for payloads in [3, 8, 1] {
            usage.ran_together(payloads);
        }
        assert_eq!(usage.batch_size(), Some(8));
    }
}
