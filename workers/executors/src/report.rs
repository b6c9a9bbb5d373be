//! What a running attempt says before its result: how far it is, and parts of its output.
//!
//! [`Report`] is the executor's side: it never blocks and never waits, and may be used from any thread. [`Reports`] is the worker's. Between them,
//! progress is one value, the last; parts wait in a bounded buffer that drops its oldest, and their numbers show the gap.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::{Fraction, Json, Partial, Progress};
use tokio::sync::{Notify, watch};

/// Parts that wait at most; beyond it the oldest are dropped.
const PARTIALS_MAX: usize = 256;
/// What waiting parts may take together, in bytes of JSON; a part that is larger by itself is dropped.
const PARTIAL_BYTES_MAX: usize = 1 << 20;

/// How far an attempt said it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reported {
    /// The share of the work that is done.
    pub fraction: Fraction,
    /// What it does now, for people.
    pub message: Option<String>,
}

/// Through which an executor reports. Cheap to clone; a call costs less than a microsecond, and nothing that it says is sure to arrive.
#[derive(Debug, Clone)]
pub struct Report {
    progress: watch::Sender<Reported>,
    partials: Option<Arc<Partials>>,
    share: Share,
}

/// The share of the work that a report speaks of: where it begins, and how large it is.
#[derive(Debug, Clone, Copy)]
struct Share {
    from: f64,
    of: f64,
}

impl Share {
    const ALL: Self = Self { from: 0.0, of: 1.0 };
}

/// Who listens to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// Progress only: parts are dropped where they are made.
    ToProgress,
    /// Progress and parts of the output.
    ToPartialsToo,
}

impl Report {
    /// A report and its listening side.
    #[must_use]
    pub fn new(listening: Listening) -> (Self, Reports) {
        let (progress, listener) = watch::channel(Reported::default());
        let partials = (listening == Listening::ToPartialsToo).then(Arc::<Partials>::default);
        (
            Self { progress, partials: partials.clone(), share: Share::ALL },
            Reports { progress: listener, partials: ReportedPartials(partials) },
        )
    }

    /// A report that nobody listens to.
    #[must_use]
    pub fn to_nobody() -> Self {
        Self::new(Listening::ToProgress).0
    }

    /// A report of one piece of the work, which begins at the share `from` of the whole and is so large: what it says counts for that much. Its parts of the output go nowhere.
    #[must_use]
    pub fn of_piece(&self, from: f64, of: f64) -> Self {
        Self { progress: self.progress.clone(), partials: None, share: Share { from, of } }
    }

    /// Says how far the attempt is: a share of the work, 0 to 1 (anything else is brought there), and what it does now, for people; empty is
    /// nothing. The last call wins.
    pub fn progress(&self, fraction: f64, message: &str) {
        let message = message.chars().take(Progress::MESSAGE_CHARACTERS_MAX).collect::<String>();
        let message = Some(message).filter(|message| !message.is_empty());
        let fraction = Fraction::clamped(self.share.from + Fraction::clamped(fraction).get() * self.share.of);
        self.progress.send_replace(Reported { fraction, message });
    }

    /// Gives a part of the output. Parts are numbered in the order of the calls, from 1.
    pub fn partial(&self, value: Json) {
        if let Some(partials) = &self.partials {
            partials.add(value);
        }
    }

    /// Whether anybody listens to parts. Making them can be left out otherwise.
    #[must_use]
    pub fn wants_partials(&self) -> bool {
        self.partials.is_some()
    }
}

/// What an attempt has reported and nobody has taken yet.
#[derive(Debug)]
pub struct Reports {
    /// How far it is. Every call of [`Report::progress`] is a change.
    pub progress: watch::Receiver<Reported>,
    /// The parts of its output.
    pub partials: ReportedPartials,
}

/// The parts of an attempt's output that wait to be taken.
#[derive(Debug)]
pub struct ReportedPartials(Option<Arc<Partials>>);

impl ReportedPartials {
    /// Waits until there are parts to take; for ever where nobody listens to them. Cancel safe.
    pub async fn arrived(&self) {
        let Some(partials) = &self.0 else { return std::future::pending().await };
        while partials.lock().waiting.is_empty() {
            partials.arrived.notified().await;
        }
    }

    /// The parts since the last call, in order.
    #[must_use]
    pub fn take(&self) -> Vec<Partial> {
        self.0.as_ref().map(|partials| partials.take()).unwrap_or_default()
    }
}

/// The parts that wait.
#[derive(Debug, Default)]
struct Partials {
    state: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The number of the last part, dropped or not.
    last: u64,
    waiting: VecDeque<(usize, Partial)>,
    bytes: usize,
}

impl Partials {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds this lock, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, value: Json) {
        let bytes = value.as_bytes().len();
        self.lock().add(value, bytes);
        self.arrived.notify_one();
    }

    fn take(&self) -> Vec<Partial> {
        let mut state = self.lock();
        state.bytes = 0;
        state.waiting.drain(..).map(|(_, partial)| partial).collect()
    }
}

impl Waiting {
    fn add(&mut self, value: Json, bytes: usize) {
        self.last += 1;
        if bytes > PARTIAL_BYTES_MAX {
            return;
        }
        while self.waiting.len() >= PARTIALS_MAX || self.bytes + bytes > PARTIAL_BYTES_MAX {
            let Some((dropped, _)) = self.waiting.pop_front() else { break };
            self.bytes -= dropped;
        }
        self.bytes += bytes;
        self.waiting.push_back((bytes, Partial { number: self.last, value }));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn numbers(reports: &Reports) -> Vec<u64> {
        reports.partials.take().iter().map(|partial| partial.number).collect()
    }

    #[test]
    fn the_last_progress_wins_and_is_brought_between_0_and_1() {
        let (report, mut reports) = Report::new(Listening::ToProgress);
        assert!(!reports.progress.has_changed().unwrap());
        report.progress(0.5, "half");
        report.progress(7.0, "");
        assert!(reports.progress.has_changed().unwrap());
        assert_eq!(*reports.progress.borrow_and_update(), Reported { fraction: Fraction::clamped(1.0), message: None });
        report.progress(f64::NAN, &"ü".repeat(1_000));
        let reported = reports.progress.borrow_and_update().clone();
        assert_eq!((reported.fraction.get(), reported.message.unwrap().chars().count()), (0.0, 256));
    }

    #[test]
    fn the_report_of_a_piece_counts_for_its_share() {
        let (report, mut reports) = Report::new(Listening::ToPartialsToo);
        let second_of_four = report.of_piece(0.25, 0.25);
        second_of_four.progress(0.5, "half of it");
        second_of_four.partial(json!(1).into());
        let reported = reports.progress.borrow_and_update().clone();
        assert_eq!((reported.fraction.get(), reported.message.as_deref()), (0.375, Some("half of it")));
        second_of_four.progress(f64::NAN, "");
        assert_eq!(reports.progress.borrow_and_update().fraction.get(), 0.25);
        assert!(reports.partials.take().is_empty() && !second_of_four.wants_partials());
    }

    #[tokio::test]
    async fn parts_from_another_thread_arrive_in_order_and_numbered() {
        let (report, reports) = Report::new(Listening::ToPartialsToo);
        let thread = std::thread::spawn(move || (0..10).for_each(|n| report.partial(json!(n).into())));
        let mut taken = Vec::new();
        while taken.len() < 10 {
            reports.partials.arrived().await;
            taken.extend(reports.partials.take());
        }
        thread.join().unwrap();
        let expected: Vec<Partial> = (0..10).map(|n| Partial { number: n + 1, value: json!(n).into() }).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_full_buffer_drops_the_oldest_and_the_numbers_show_the_gap() {
        let (report, reports) = Report::new(Listening::ToPartialsToo);
        (0..300).for_each(|n| report.partial(json!(n).into()));
        assert_eq!(numbers(&reports), (45..=300).collect::<Vec<u64>>());
        let half = Json::of(&"x".repeat(600_000));
        report.partial(half.clone());
        report.partial(Json::of(&"x".repeat(2_000_000)));
        report.partial(half);
        assert_eq!(numbers(&reports), [303], "what is too large by itself, and what it would not fit beside");
        report.partial(json!(1).into());
        assert_eq!(numbers(&reports), [304]);
    }

    #[test]
    fn parts_that_nobody_listens_to_are_not_kept() {
        let (report, reports) = Report::new(Listening::ToProgress);
        report.partial(json!(1).into());
        assert!(!report.wants_partials() && reports.partials.take().is_empty());
    }
}
