//! Which queues take no replies at present: so that a queue that hangs is not waited for by every reply, and the log says once when one begins to refuse and when it takes again.

use std::{collections::BTreeMap, time::Duration};

use task_queue::PublishError;
use tokio::time::Instant;

/// Most queues that are remembered; the one that refused longest ago makes room.
const QUEUES_MAX: usize = 1_000;
/// How long replies that have waited already leave a queue alone that has just refused one.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// How long all replies leave a queue alone that did not confirm one in time.
const AFTER_SILENCE: Duration = Duration::from_secs(5);
/// How long one reply may find out whether such a queue confirms again, while the others leave it alone. It is longer than a publish waits for its confirm.
const FINDING_OUT: Duration = Duration::from_secs(60);
/// How long a queue that has taken a reply counts as one that is being emptied.
const LATELY: Duration = Duration::from_secs(10);
/// A queue that takes and refuses in turns is logged so often at most.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Why a queue did not take a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is at its bound.
    Full,
    /// The broker's node that has it is down.
    Unreachable,
    /// It did not confirm in time, while the broker as a whole is there.
    NoConfirm,
    /// No queue has the name.
    Gone,
}

impl Why {
    /// What a failed publish says of its queue; `None`: nothing.
    pub(crate) const fn of(error: &PublishError) -> Option<Self> {
        match error {
            PublishError::Full { .. } => Some(Self::Full),
            PublishError::Inaccessible { .. } => Some(Self::Unreachable),
            PublishError::Timeout { .. } => Some(Self::NoConfirm),
            PublishError::Unroutable { .. } => Some(Self::Gone),
            PublishError::Blocked { .. } | PublishError::Disconnected { .. } | PublishError::Refused { .. } => None,
        }
    }

    /// Its name in metrics and the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::NoConfirm => "no_confirm",
            Self::Gone => "gone",
        }
    }

    /// Why a reply for it waits, for people.
    pub(crate) const fn waits(self) -> &'static str {
        match self {
            Self::Full => "its queue is full",
            Self::Unreachable => "its queue cannot be reached",
            Self::NoConfirm => "its queue does not confirm",
            Self::Gone => "its queue is gone",
        }
    }

    const fn pause(self) -> Duration {
        match self {
            Self::Full | Self::Unreachable => AFTER_REFUSAL,
            Self::NoConfirm => AFTER_SILENCE,
            Self::Gone => Duration::ZERO,
        }
    }
}

/// Which try of a reply it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Try {
    /// The first: its delivery is in a worker's hand.
    First,
    /// A later one: it has waited.
    Again,
}

/// What is remembered of a queue.
struct Known {
    why: Why,
    refuses: bool,
    refused_at: Instant,
    took_at: Option<Instant>,
    next_try: Instant,
    logged_at: Option<Instant>,
    /// Whether the log says that it refuses.
    shown: bool,
}

/// The queues that did not take a reply, by name.
#[derive(Default)]
pub(super) struct Refusing(BTreeMap<String, Known>);

impl Refusing {
    /// Why this try is better not made now; `None`: it is to be made. One that is at its bound refuses at once, which costs a first try nothing; one that does not confirm
    /// is tried by one reply at a time.
    pub(super) fn leaves_alone(&mut self, queue: &str, which: Try, now: Instant) -> Option<Why> {
        let known = self.0.get_mut(queue).filter(|known| known.refuses)?;
        let silent = known.why == Why::NoConfirm;
        if now < known.next_try && (silent || which == Try::Again) {
            return Some(known.why);
        }
        if silent {
            known.next_try = now + FINDING_OUT;
        }
        None
    }

    /// Takes note that a queue refused. Whether the log is to say so.
    pub(super) fn refused(&mut self, queue: &str, why: Why, now: Instant) -> bool {
        if !self.0.contains_key(queue) {
            self.make_room();
        }
        let known = self.0.entry(queue.to_owned()).or_insert(Known {
            why,
            refuses: false,
            refused_at: now,
            took_at: None,
            next_try: now,
            logged_at: None,
            shown: false,
        });
        (known.why, known.refused_at, known.next_try) = (why, now, now + why.pause());
        if std::mem::replace(&mut known.refuses, true) {
            return false;
        }
        known.shown = known.logged_at.is_none_or(|at| now.duration_since(at) >= LOG_EVERY);
        if known.shown {
            known.logged_at = Some(now);
        }
        known.shown
    }

    /// Takes note that a queue took a reply. Whether the log is to say so.
    pub(super) fn took(&mut self, queue: &str, now: Instant) -> bool {
        let Some(known) = self.0.get_mut(queue) else { return false };
        (known.took_at, known.next_try) = (Some(now), now);
        std::mem::replace(&mut known.refuses, false) && known.shown
    }

    /// Whether a queue that refuses now has taken a reply a moment ago: somebody empties it.
    pub(super) fn took_lately(&self, queue: &str, now: Instant) -> bool {
        let took_at = self.0.get(queue).and_then(|known| known.took_at);
        took_at.is_some_and(|at| now.duration_since(at) < LATELY)
    }

    fn make_room(&mut self) {
        if self.0.len() < QUEUES_MAX {
            return;
        }
        let oldest = self.0.iter().min_by_key(|(_, known)| known.refused_at).map(|(queue, _)| queue.clone());
        if let Some(oldest) = oldest {
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "answers";

    #[test]
    fn a_full_queue_is_tried_by_every_first_reply_and_by_later_ones_after_a_pause() {
        let (mut refusing, now) = (Refusing::default(), Instant::now());
        assert_eq!(refusing.leaves_alone(QUEUE, Try::Again, now), None);
        refusing.refused(QUEUE, Why::Full, now);
        assert_eq!(refusing.leaves_alone(QUEUE, Try::First, now), None);
        assert_eq!(refusing.leaves_alone(QUEUE, Try::Again, now), Some(Why::Full));
        assert_eq!(refusing.leaves_alone(QUEUE, Try::Again, now + AFTER_REFUSAL), None);
        assert_eq!(refusing.leaves_alone("another", Try::Again, now), None);
        refusing.took(QUEUE, now);
        assert_eq!(refusing.leaves_alone(QUEUE, Try::Again, now), None);
    }

    #[test]
    fn a_silent_queue_is_tried_by_one_reply_at_a_time() {
        let (mut refusing, now) = (Refusing::default(), Instant::now());
        refusing.refused(QUEUE, Why::NoConfirm, now);
        assert_eq!(refusing.leaves_alone(QUEUE, Try::First, now), Some(Why::NoConfirm));
        let later = now + AFTER_SILENCE;
        assert_eq!(refusing.leaves_alone(QUEUE, Try::First, later), None);
        assert_eq!(refusing.leaves_alone(QUEUE, Try::First, later), Some(Why::NoConfirm), "one finds out, the others wait for it");
        refusing.took(QUEUE, later);
        assert_eq!(refusing.leaves_alone(QUEUE, Try::First, later), None);
        assert!(refusing.took_lately(QUEUE, later) && !refusing.took_lately(QUEUE, later + LATELY));
    }

    #[test]
    fn a_queue_that_refuses_and_takes_in_turns_is_not_logged_each_time() {
        let (mut refusing, now) = (Refusing::default(), Instant::now());
        assert!(refusing.refused(QUEUE, Why::Full, now));
        assert!(!refusing.refused(QUEUE, Why::Full, now), "once, and not for each reply");
        assert!(refusing.took(QUEUE, now));
        assert!(!refusing.took(QUEUE, now));
        assert!(!refusing.refused(QUEUE, Why::Full, now), "it is said already that it does");
        assert!(!refusing.took(QUEUE, now));
        assert!(refusing.refused(QUEUE, Why::Full, now + LOG_EVERY));
    }

    #[test]
    fn the_queue_that_refused_longest_ago_makes_room() {
        let (mut refusing, now) = (Refusing::default(), Instant::now());
        for number in 0..=QUEUES_MAX {
            refusing.refused(&number.to_string(), Why::Full, now + Duration::from_millis(number as u64));
        }
        assert_eq!(refusing.0.len(), QUEUES_MAX);
        assert!(!refusing.0.contains_key("0") && refusing.0.contains_key("1"));
    }
}
