//! How long the servers lately took to answer this worker: for its row, for operators and for the verdict on what holds the fleet back.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use protocol::gpu::ServerTimes;

use super::Link;

/// After so long a call that failed says that its server is slow, in microseconds.
const LONG_US: u64 = 100_000;

/// The times of each link, smoothed, in microseconds; 0 where none is known.
#[derive(Debug, Default)]
pub(crate) struct Times {
    broker_us: AtomicU64,
    table_us: AtomicU64,
    store_us: AtomicU64,
}

impl Times {
    const fn of(&self, link: Link) -> &AtomicU64 {
        match link {
            Link::Broker => &self.broker_us,
            Link::Table => &self.table_us,
            Link::Store => &self.store_us,
        }
    }

    /// Takes note of one call. That a server which is away refuses at once does not make it quick: of a call that failed only a long time counts.
    pub(crate) fn answered(&self, link: Link, took: Duration, is_ok: bool) {
        let known = self.of(link);
        let (before, took_us) = (known.load(Ordering::Relaxed), u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1, 60_000_000));
        if !is_ok && took_us <= before.max(LONG_US) {
            return;
        }
        // Two that end at once may lose one of them: it is a smoothed value.
        let smoothed = if before == 0 { took_us } else { (before * 7 + took_us) / 8 };
        known.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// What is known, in ms.
    pub(crate) fn known(&self, broker_blocked: bool) -> ServerTimes {
        let ms = |link| Some(self.of(link).load(Ordering::Relaxed)).filter(|us| *us > 0).map(|us| us as f64 / 1e3);
        ServerTimes { broker_ms: ms(Link::Broker), store_ms: ms(Link::Store), table_ms: ms(Link::Table), broker_blocked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_smoothed_and_a_server_that_is_away_is_not_quick() {
        let (times, ms) = (Times::default(), Duration::from_millis);
        times.answered(Link::Store, Duration::from_micros(50), false);
        assert_eq!(times.known(false), ServerTimes::default(), "one that was never there has no time");
        times.answered(Link::Store, ms(8), true);
        times.answered(Link::Store, ms(16), true);
        times.answered(Link::Store, Duration::ZERO, false);
        let known = times.known(true);
        assert_eq!((known.store_ms, known.broker_ms, known.table_ms, known.broker_blocked), (Some(9.0), None, None, true));
        times.answered(Link::Store, ms(1_000), false);
        assert!(times.known(false).store_ms.is_some_and(|known_ms| known_ms > 100.0), "a time-out says that it is slow");
    }
}
