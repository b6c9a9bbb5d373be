//! Whether this GPU may take tasks: what its device says, and what became of the attempts on it.
//!
//! ```text
//!                   a failure                    so many different tasks in a row, others can take over
//!  healthy ───────────────────────► suspect ──────────────────────────────────────────────► quarantined ◄─┐
//!     ▲    ◄─── a success ─────────    ▲  a failure, once re-admitted                            │ a pause │ the canary
//!     │                                │ ───────────────────────────────────────────────► ▲      ▼         │ fails
//!     └── enough successes ────────────┴──────────── the canary passes ───────────────────── probation ────┘
//! ```
//! A GPU that fails every task at once is always free, so without this it would attract nearly all of them. Re-admitted, it has one slot on offer until it has proved itself.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::{Health, TaskId};
use tokio::sync::watch;

/// Successes that make a re-admitted GPU healthy.
const PROVED_BY: u32 = 5;
/// The longest pause before a canary.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What became of the attempts on this GPU.
#[derive(Debug, Default)]
struct State {
    standing: Health,
    reason: String,
    /// The tasks that failed since the last success.
    failed: BTreeSet<TaskId>,
    /// Whether these are reason enough is being looked at.
    judging: bool,
    /// Since it was re-admitted; `None` if it never had to be.
    successes: Option<u32>,
    /// Quarantines since it was last healthy.
    quarantines: u32,
    /// Out because the GPU itself said so, or its canary: it stays out whatever the others do.
    certain: bool,
}

/// The health of a worker's GPU.
#[derive(Debug)]
pub(crate) struct HealthWatch {
    state: Mutex<State>,
    /// Whether it takes tasks, as far as its attempts go.
    taking: watch::Sender<bool>,
}

impl Default for HealthWatch {
    fn default() -> Self {
        Self { state: Mutex::default(), taking: watch::Sender::new(true) }
    }
}

impl HealthWatch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Healthy; after trouble re-admitted, since its canary passed at the start.
    pub(crate) fn after(trouble: Option<&str>) -> Self {
        let watch = Self::default();
        if let Some(reason) = trouble {
            reason.clone_into(&mut watch.lock().reason);
            watch.readmit();
        }
        watch
    }

    /// Something is wrong with the GPU that does not keep it from working: the next success takes it back.
    pub(crate) fn doubt(&self, reason: &str) {
        let mut state = self.lock();
        if state.standing.takes_tasks() {
            state.standing = Health::Suspect;
            reason.clone_into(&mut state.reason);
        }
    }

    /// Why its standing is what it is.
    pub(super) fn reason(&self) -> String {
        self.lock().reason.clone()
    }

    /// Whether attempts may begin.
    pub(crate) fn takes_tasks(&self) -> bool {
        *self.taking.borrow()
    }

    /// How many of `slots` may be offered: one, while a re-admitted GPU proves itself.
    pub(crate) fn limit(&self, slots: u32) -> u32 {
        if self.lock().successes.is_some() { 1 } else { slots }
    }

    /// The worse of what its attempts and its device say, with the reason.
    pub(crate) fn together_with(&self, device: (Health, String)) -> (Health, String) {
        let state = self.lock();
        let badness = |health: Health| match health {
            Health::Healthy => 0,
            Health::Suspect => 1,
            Health::Probation => 2,
            Health::Quarantined => 3,
        };
        if badness(state.standing) > badness(device.0) { (state.standing, state.reason.clone()) } else { device }
    }

    /// An attempt succeeded.
    pub(crate) fn succeeded(&self) {
        let mut state = self.lock();
        if state.standing == Health::Healthy {
            return;
        }
        state.failed.clear();
        state.successes = state.successes.map(|successes| successes + 1).filter(|successes| *successes < PROVED_BY);
        if state.successes.is_none() && state.standing == Health::Suspect {
            *state = State::default();
        }
    }

    /// An attempt failed in a way that may be the GPU's fault. Whether that is reason enough to quarantine it.
    pub(super) fn suspect(&self, task_id: &TaskId, error: &str, failures_max: u32) -> bool {
        let mut state = self.lock();
        if !state.standing.takes_tasks() || state.judging {
            return false;
        }
        // More than enough are not kept.
        if state.failed.len() < failures_max as usize {
            state.failed.insert(task_id.clone());
        }
        state.standing = Health::Suspect;
        state.reason = format!("{} tasks in a row failed here, the last with: {error}", state.failed.len());
        state.judging = state.successes.is_some() || state.failed.len() >= failures_max as usize;
        state.judging
    }

    /// It stays: the count begins anew, so that the table is not asked after every failure.
    pub(super) fn stays(&self) {
        let mut state = self.lock();
        state.judging = false;
        state.failed.clear();
    }

    /// Takes it out, and says for how long. `None`: it is out already, and the canary of that time decides.
    pub(super) fn take_out(&self, reason: &str, cause: Cause, first_pause: Duration) -> Option<Duration> {
        let mut state = self.lock();
        let certain = cause == Cause::Trouble;
        if !state.standing.takes_tasks() {
            state.certain |= certain;
            return None;
        }
        Some(self.out(state, reason, certain, first_pause))
    }

    /// Its canary failed: it stays out.
    pub(super) fn keep_out(&self, reason: &str, first_pause: Duration) -> Duration {
        self.out(self.lock(), reason, true, first_pause)
    }

    fn out(&self, mut state: MutexGuard<'_, State>, reason: &str, certain: bool, first_pause: Duration) -> Duration {
        let pause = first_pause.saturating_mul(1 << state.quarantines.min(16)).min(LONGEST_PAUSE.max(first_pause));
        let quarantines = state.quarantines + 1;
        *state = State { standing: Health::Quarantined, reason: reason.to_owned(), quarantines, certain, ..State::default() };
        drop(state);
        self.taking.send_replace(false);
        pause
    }

    /// Lets it back in, unless its own word or its canary keeps it out. Whether it is in.
    pub(super) fn readmit_unless_certain(&self) -> bool {
        let state = self.lock();
        let readmitted = !state.certain;
        if readmitted {
            self.back_in(state);
        }
        readmitted
    }

    pub(super) fn probation(&self) {
        self.lock().standing = Health::Probation;
    }

    pub(super) fn readmit(&self) {
        self.back_in(self.lock());
    }

    fn back_in(&self, mut state: MutexGuard<'_, State>) {
        let reason = format!("re-admitted after: {}", state.reason);
        *state = State { standing: Health::Suspect, reason, successes: Some(0), quarantines: state.quarantines, ..State::default() };
        drop(state);
        self.taking.send_replace(true);
    }
}

/// Why a GPU is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Tasks failed, here and not elsewhere as far as is known: it goes on where too few others take tasks.
    Failures,
    /// The GPU itself says so.
    Trouble,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    #[test]
    fn a_gpu_that_is_out_is_not_taken_out_again_and_its_own_word_is_kept() {
        let watch = HealthWatch::default();
        assert_eq!(watch.take_out("tasks fail", Cause::Failures, PAUSE), Some(PAUSE));
        assert!(!watch.takes_tasks());
        assert_eq!(watch.take_out("memory errors", Cause::Trouble, PAUSE), None);
        assert!(!watch.readmit_unless_certain(), "it stays out, even if the other GPUs fail too");
        watch.probation();
        assert_eq!(watch.take_out("memory errors", Cause::Trouble, PAUSE), None);
        assert_eq!(watch.keep_out("its canary failed", PAUSE), PAUSE * 2, "the pauses double");
        watch.readmit();
        assert!(watch.takes_tasks() && watch.limit(8) == 1);
        assert_eq!(watch.take_out("tasks fail", Cause::Failures, PAUSE), Some(PAUSE * 4));
        assert!(watch.readmit_unless_certain() && watch.takes_tasks(), "the others cannot take over");
    }
}
