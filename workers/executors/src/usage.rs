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
}

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
