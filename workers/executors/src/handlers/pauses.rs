//! How long a handler rests before it is started anew.

use std::time::Duration;

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// A process that was ready for so long has proved itself: the next failure is a first one.
const PROVED: Duration = Duration::from_secs(60);

/// 0, 1, 2, 4 … 60 seconds.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
}

impl Pauses {
    /// The pause after another failure of a process that was ready for so long; `None`: it never was.
    pub(super) fn after(&mut self, ready_for: Option<Duration>) -> Duration {
        if ready_for.is_some_and(|ready_for| ready_for >= PROVED) {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => LONGEST.min(Duration::from_secs(1 << (failures - 1).min(10))),
        };
        self.failures += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_process_has_proved_itself() {
        let mut pauses = Pauses::default();
        let seconds: Vec<u64> = (0..9).map(|_| pauses.after(None).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses.after(Some(Duration::from_secs(59))).as_secs(), 60);
        assert_eq!(pauses.after(Some(Duration::from_secs(60))).as_secs(), 0);
        assert_eq!(pauses.after(None).as_secs(), 1);
    }
}
