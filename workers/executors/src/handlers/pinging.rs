//! Whether a process still answers.

use std::time::Duration;

use tokio::time::Instant;

/// One ping at a time: the next goes out a third of the time limit after the answer to the last.
#[derive(Debug)]
pub(super) struct Pinging {
    hang: Duration,
    last: u64,
    /// When the ping went out that has no answer.
    unanswered: Option<Instant>,
    next: Instant,
}

impl Pinging {
    /// For a process that hangs if it gives no answer for so long.
    pub(super) fn new(hang: Duration) -> Self {
        Self { hang, last: 0, unanswered: None, next: Instant::now() }
    }

    /// From now on it can answer.
    pub(super) fn begin(&mut self, now: Instant) {
        self.next = now + self.hang / 3;
    }

    /// The ping that is to go out now, if one is, and when to ask again.
    ///
    /// # Errors
    /// It hangs: there was no answer for so long.
    pub(super) fn due(&mut self, now: Instant) -> Result<(Option<u64>, Instant), Duration> {
        match self.unanswered {
            Some(since) if now >= since + self.hang => Err(self.hang),
            Some(since) => Ok((None, since + self.hang)),
            None if now >= self.next => {
                self.last += 1;
                self.unanswered = Some(now);
                Ok((Some(self.last), now + self.hang))
            }
            None => Ok((None, self.next)),
        }
    }

    /// Takes an answer; one to an earlier ping says nothing.
    pub(super) fn answered(&mut self, n: u64, now: Instant) {
        if n == self.last {
            self.unanswered = None;
            self.next = now + self.hang / 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ping_is_out_at_a_time_and_silence_is_a_hang() {
        let (start, third) = (Instant::now(), Duration::from_secs(10));
        let mut pinging = Pinging::new(3 * third);
        pinging.begin(start);
        assert_eq!(pinging.due(start), Ok((None, start + third)));
        assert_eq!(pinging.due(start + third), Ok((Some(1), start + 4 * third)));
        assert_eq!(pinging.due(start + 2 * third), Ok((None, start + 4 * third)));
        pinging.answered(1, start + 2 * third);
        assert_eq!(pinging.due(start + 3 * third), Ok((Some(2), start + 6 * third)));
        pinging.answered(1, start + 5 * third);
        assert_eq!(pinging.due(start + 6 * third), Err(3 * third), "the answer to an earlier ping is none");
    }
}
