//! When a task may start at the earliest: at a time, or after a delay. One rule for every way in which a task comes.

use crate::{Limits, Refusal};

/// What a producer says of when its task may start at the earliest. Default: at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EarliestStart {
    /// Not before this time, in Unix milliseconds, at most 30 days ahead. A time in the past means at once.
    pub not_before_ms: Option<u64>,
    /// Not before so many milliseconds have passed since it was published, at most 30 days.
    pub delay_ms: Option<u64>,
}

impl EarliestStart {
    /// The names of the two, as fields of a request.
    pub const FIELDS: [&'static str; 2] = ["not_before_ms", "delay_ms"];

    /// The time before which the task must not start, in Unix milliseconds; it may have passed. `None`: nothing is said. `names` are those under which the producer gave the
    /// two.
    ///
    /// # Errors
    /// A [`Refusal`] of one of the names, where both are given or the time is more than 30 days ahead.
    pub fn at(self, (published_ms, now_ms): (u64, u64), names: [&str; 2]) -> Result<Option<u64>, Refusal> {
        let [not_before, delay] = names;
        match self {
            Self { not_before_ms: None, delay_ms: None } => Ok(None),
            Self { not_before_ms: Some(_), delay_ms: Some(_) } => {
                Err(Refusal::new(delay, format!("must be absent where {not_before} is given: a task starts after a delay or at a time")))
            }
            Self { not_before_ms: Some(at_ms), delay_ms: None } => {
                let latest_ms = now_ms.saturating_add(Limits::LONGEST_MS);
                if at_ms > latest_ms {
                    return Err(Refusal::new(
                        not_before,
                        format!(
                            "must be a time in Unix milliseconds at most {} ms (30 days) ahead (now up to {latest_ms}), not {at_ms}",
                            Limits::LONGEST_MS
                        ),
                    ));
                }
                Ok(Some(at_ms))
            }
            Self { not_before_ms: None, delay_ms: Some(ms) } => {
                if ms > Limits::LONGEST_MS {
                    return Err(Refusal::new(delay, format!("must be at most {} ms (30 days), not {ms}", Limits::LONGEST_MS)));
                }
                Ok(Some(published_ms.saturating_add(ms)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn at(not_before_ms: Option<u64>, delay_ms: Option<u64>) -> Result<Option<u64>, String> {
        let asked = EarliestStart { not_before_ms, delay_ms };
        asked.at((NOW - 10, NOW), EarliestStart::FIELDS).map_err(|refusal| refusal.field)
    }

    #[test]
    fn a_delay_counts_from_the_publish_and_a_time_is_what_it_says() {
        assert_eq!(at(None, None), Ok(None));
        assert_eq!(at(None, Some(0)), Ok(Some(NOW - 10)));
        assert_eq!(at(None, Some(500)), Ok(Some(NOW + 490)));
        assert_eq!([0, NOW - 1, NOW + 1].map(|ms| at(Some(ms), None)), [0, NOW - 1, NOW + 1].map(|ms| Ok(Some(ms))));
    }

    #[test]
    fn thirty_days_are_accepted_and_a_millisecond_more_is_not() {
        let longest = Limits::LONGEST_MS;
        assert_eq!([at(None, Some(longest)), at(Some(NOW + longest), None)], [Ok(Some(NOW - 10 + longest)), Ok(Some(NOW + longest))]);
        assert_eq!(at(None, Some(longest + 1)), Err("delay_ms".to_owned()));
        assert_eq!(at(Some(NOW + longest + 1), None), Err("not_before_ms".to_owned()));
        assert_eq!([at(None, Some(u64::MAX)).is_err(), at(Some(u64::MAX), None).is_err()], [true, true]);
    }

    #[test]
    fn both_are_refused() {
        assert_eq!(at(Some(NOW), Some(1)), Err("delay_ms".to_owned()));
    }
}
