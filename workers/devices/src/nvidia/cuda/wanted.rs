//! Which work on the GPU somebody waits for.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The work that somebody waits for now, in the order in which it began.
#[derive(Debug, Clone, Default)]
pub(super) struct WantedWork(Arc<Mutex<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    wanted: BTreeSet<u64>,
}

/// One piece of work: it is wanted until this is dropped.
#[derive(Debug)]
pub(super) struct Wanted {
    all: WantedWork,
    number: u64,
}

/// What began before a moment.
#[derive(Debug)]
pub(super) struct Before {
    all: WantedWork,
    next: u64,
}

impl WantedWork {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work begins.
    pub(super) fn begin(&self) -> Wanted {
        let mut numbers = self.numbers();
        let number = numbers.next;
        numbers.next += 1;
        numbers.wanted.insert(number);
        Wanted { all: self.clone(), number }
    }
}

impl Wanted {
    /// It is wanted no more, and goes on; gives what began before this moment.
    pub(super) fn abandoned(self) -> Before {
        let all = self.all.clone();
        let next = all.numbers().next;
        Before { all, next }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.all.numbers().wanted.remove(&self.number);
    }
}

impl Before {
    /// Whether somebody still waits for any of it.
    pub(super) fn is_wanted(&self) -> bool {
        self.all.numbers().wanted.first().is_some_and(|first| *first < self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_work_that_began_before_counts() {
        let all = WantedWork::default();
        let (earlier, abandoned) = (all.begin(), all.begin());
        let before = abandoned.abandoned();
        let later = all.begin();
        assert!(before.is_wanted());
        drop(earlier);
        assert!(!before.is_wanted(), "later work stands behind it");
        drop(later);
        assert!(!before.is_wanted());
    }

    #[test]
    fn two_that_are_both_abandoned_do_not_wait_for_each_other() {
        let all = WantedWork::default();
        let (one, two) = (all.begin().abandoned(), all.begin().abandoned());
        assert!(!one.is_wanted() && !two.is_wanted());
    }
}
