//! When to look again at what changes now and then, and for how long.

use std::time::Duration;

use tokio::time::Instant;

/// The pause between two looks: it doubles from the shortest to the longest, as long as nothing is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    shortest: Duration,
    longest: Duration,
    pause: Duration,
}

impl Pace {
    /// A pace that begins with the shortest pause.
    #[must_use]
    pub const fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, pause: shortest }
    }

    /// Something is new: the next pause is the shortest.
    pub fn quicken(&mut self) {
        self.pause = self.shortest;
    }

    /// The pause before the next look.
    pub fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.longest);
        pause
    }

    /// The pause before the next look, the last of which is at the end of the time; `None` once that is there.
    pub fn pause_until(&mut self, end: Instant) -> Option<Duration> {
        let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(self.pause().min(left))
    }
}

/// For how long a task that has ended may lack its reply: it is on its way. Two seconds from when that was first seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patience(Option<Instant>);

impl Patience {
    const LONGEST: Duration = Duration::from_secs(2);

    /// Notes that the task has ended. Whether it was so for too long.
    pub fn is_over(&mut self) -> bool {
        self.0.get_or_insert_with(Instant::now).elapsed() >= Self::LONGEST
    }

    /// The task goes on.
    pub fn renew(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_look_is_at_the_end_of_the_time() {
        let mut pace = Pace::new(Duration::from_millis(200), Duration::from_secs(2));
        let (end, mut pauses) = (Instant::now() + Duration::from_secs(1), Vec::new());
        while let Some(pause) = pace.pause_until(end) {
            pauses.push(pause.as_millis());
            advance(pause).await;
        }
        assert_eq!((pauses, Instant::now()), (vec![200, 400, 400], end));
        pace.quicken();
        assert_eq!([0; 5].map(|_| pace.pause().as_millis()), [200, 400, 800, 1_600, 2_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_begins_when_a_task_was_first_seen_to_have_ended() {
        let mut patience = Patience::default();
        assert!(!patience.is_over());
        advance(Duration::from_millis(1_999)).await;
        assert!(!patience.is_over());
        advance(Duration::from_millis(1)).await;
        assert!(patience.is_over());
        patience.renew();
        assert!(!patience.is_over());
    }
}
