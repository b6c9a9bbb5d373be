//! What was submitted, and what came back for it: every task is in the books until the end of the run.
//!
//! A task has one reply. A broker or a worker that ends between a reply and the word that it went out makes a second copy of it, which must be the same to the last byte; how many such
//! copies may be is counted by whoever ends them. A reply that differs from the first, one for nobody's task, and none at all are failures.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ::tests::statistics::Percentiles;
use protocol::{Outcome, Reply, TaskId};
use tokio::time::Instant;

/// Priorities of tasks.
pub(crate) const PRIORITIES: usize = 10;
/// Sentences of each sort that are kept.
const EXAMPLES: usize = 5;
const PREFIX: &str = "soak-";

/// How a task must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Succeeds,
    Fails,
    /// It is cancelled, which may come too late.
    SucceedsOrIsCancelled,
    /// It needs something that a fault may take away.
    SucceedsOrFails,
}

impl Due {
    const fn is_met_by(self, outcome: Outcome) -> bool {
        match self {
            Self::Succeeds => matches!(outcome, Outcome::Succeeded),
            Self::Fails => matches!(outcome, Outcome::Failed),
            Self::SucceedsOrIsCancelled => matches!(outcome, Outcome::Succeeded | Outcome::Cancelled),
            Self::SucceedsOrFails => matches!(outcome, Outcome::Succeeded | Outcome::Failed),
        }
    }
}

/// What the ledger is told of a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    /// What sort of work it is.
    pub(crate) work: &'static str,
    pub(crate) priority: u8,
    pub(crate) due: Due,
    /// Whether its time counts as a latency: it should run at once.
    pub(crate) timed: bool,
}

struct Task {
    opened: Opened,
    at: Instant,
    /// The first reply.
    answer: Option<u64>,
}

/// The books.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    last: u64,
    tasks: HashMap<u64, Task>,
    open: usize,
    answered: u64,
    copies: u64,
    resubmits: u64,
    /// Latencies in ms by priority since they were last asked for, and of the whole run.
    lately: [Vec<f64>; PRIORITIES],
    all: [Vec<f32>; PRIORITIES],
    outcomes: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    wrong: Examples,
    different: Examples,
    foreign: Examples,
    refused: Examples,
}

/// How many there were, and the first of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Examples {
    pub(crate) count: u64,
    pub(crate) first: Vec<String>,
}

impl Examples {
    fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < EXAMPLES {
            self.first.push(text());
        }
    }
}

/// What the books say.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    pub(crate) submitted: u64,
    pub(crate) answered: u64,
    /// Those without a reply.
    pub(crate) lost: Examples,
    /// Further copies of a reply, the same to the last byte.
    pub(crate) copies: u64,
    /// Submits that were repeated under the same id, because nobody knows whether the broker had the first.
    pub(crate) resubmits: u64,
    /// Further replies that differ from the first.
    pub(crate) different: Examples,
    /// Replies to nobody's tasks.
    pub(crate) foreign: Examples,
    /// Tasks that ended otherwise than they should.
    pub(crate) wrong: Examples,
    /// Tasks that could not be submitted.
    pub(crate) refused: Examples,
    /// By work, by outcome.
    pub(crate) outcomes: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Latencies in ms of the whole run, by priority.
    pub(crate) latencies: Vec<Percentiles>,
}

impl Ledger {
    /// Enters a task, before it is submitted; its identity.
    pub(crate) fn open(&self, opened: Opened) -> TaskId {
        let mut books = self.books();
        books.last += 1;
        let number = books.last;
        books.tasks.insert(number, Task { opened, at: Instant::now(), answer: None });
        books.open += 1;
        TaskId::new(format!("{PREFIX}{number}")).expect("letters, a hyphen and digits")
    }

    /// A submit was repeated.
    pub(crate) fn resubmitted(&self) {
        self.books().resubmits += 1;
    }

    /// A task could not be submitted, and will not be.
    pub(crate) fn refused(&self, task_id: &TaskId, why: &str) {
        let mut books = self.books();
        let removed = number(task_id.as_str()).and_then(|number| books.tasks.remove(&number));
        books.open -= usize::from(removed.is_some_and(|task| task.answer.is_none()));
        books.refused.add(|| format!("{task_id}: {why}"));
    }

    /// Enters a reply. `redelivered`: the broker may have brought it before.
    pub(crate) fn answered(&self, body: &[u8], redelivered: bool) {
        let Ok(reply) = serde_json::from_slice::<Reply>(body) else {
            self.books().foreign.add(|| format!("no reply at all: {}", shortened(&String::from_utf8_lossy(body))));
            return;
        };
        let mut books = self.books();
        books.enter(&reply, digest(body), redelivered);
    }

    /// Whether a task has its reply.
    pub(crate) fn has_reply(&self, task_id: &TaskId) -> bool {
        let books = self.books();
        number(task_id.as_str()).and_then(|number| books.tasks.get(&number)).is_none_or(|task| task.answer.is_some())
    }

    /// How many tasks have no reply yet.
    pub(crate) fn open_tasks(&self) -> usize {
        self.books().open
    }

    /// How many replies came so far.
    pub(crate) fn answers(&self) -> u64 {
        self.books().answered
    }

    /// The latencies since this was asked last, by priority.
    pub(crate) fn latencies_lately(&self) -> [Percentiles; PRIORITIES] {
        let lately = std::mem::take(&mut self.books().lately);
        lately.map(Percentiles::of)
    }

    /// What the books say now.
    pub(crate) fn balance(&self) -> Balance {
        let books = self.books();
        let mut lost = Examples::default();
        for (number, task) in books.tasks.iter().filter(|(_, task)| task.answer.is_none()) {
            lost.add(|| format!("{PREFIX}{number} ({}, priority {})", task.opened.work, task.opened.priority));
        }
        let latencies = books.all.iter().map(|times| Percentiles::of(times.iter().copied().map(f64::from)));
        Balance {
            submitted: books.tasks.len() as u64,
            answered: books.answered,
            lost,
            copies: books.copies,
            resubmits: books.resubmits,
            different: books.different.clone(),
            foreign: books.foreign.clone(),
            wrong: books.wrong.clone(),
            refused: books.refused.clone(),
            outcomes: books.outcomes.clone(),
            latencies: latencies.collect(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn enter(&mut self, reply: &Reply, digest: u64, redelivered: bool) {
        // No task has the number 0.
        let number = number(reply.task_id.as_str()).unwrap_or(0);
        let Some(task) = self.tasks.get_mut(&number) else {
            self.foreign.add(|| reply.task_id.to_string());
            return;
        };
        match task.answer {
            // What this process had in hand when its connection ended comes again.
            Some(first) if first == digest => self.copies += u64::from(!redelivered),
            Some(_) => self.different.add(|| format!("{} ({})", reply.task_id, task.opened.work)),
            None => {
                task.answer = Some(digest);
                let (opened, took) = (task.opened, task.at.elapsed());
                self.open -= 1;
                self.answered += 1;
                *self.outcomes.entry(opened.work).or_default().entry(reply.outcome.name()).or_default() += 1;
                if opened.timed {
                    let (ms, priority) = (took.as_secs_f64() * 1e3, usize::from(opened.priority).min(PRIORITIES - 1));
                    self.lately[priority].push(ms);
                    self.all[priority].push(ms as f32);
                }
                if !opened.due.is_met_by(reply.outcome) {
                    let why = reply.error.as_ref().map_or_else(String::new, |error| format!(": {} {}", error.code, error.message));
                    self.wrong.add(|| format!("{} ({}) {}{}", reply.task_id, opened.work, reply.outcome.name(), shortened(&why)));
                }
            }
        }
    }
}

fn number(task_id: &str) -> Option<u64> {
    task_id.strip_prefix(PREFIX)?.parse().ok()
}

fn digest(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

fn shortened(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENED: Opened = Opened { work: "echo", priority: 3, due: Due::Succeeds, timed: true };

    fn reply(task_id: &TaskId, outcome: Outcome, ended_at_ms: u64) -> Vec<u8> {
        serde_json::to_vec(&Reply::ended(task_id.clone(), outcome, ended_at_ms)).unwrap()
    }

    #[test]
    fn a_task_without_a_reply_is_lost_and_one_with_two_different_ones_is_told() {
        let ledger = Ledger::default();
        let [lost, twice, copied] = [0; 3].map(|_| ledger.open(OPENED));
        for body in [reply(&twice, Outcome::Succeeded, 1), reply(&twice, Outcome::Succeeded, 2), reply(&copied, Outcome::Succeeded, 1)] {
            ledger.answered(&body, false);
        }
        ledger.answered(&reply(&copied, Outcome::Succeeded, 1), false);
        ledger.answered(&reply(&copied, Outcome::Succeeded, 1), true);
        let balance = ledger.balance();
        assert_eq!((balance.submitted, balance.answered, balance.lost.count, ledger.open_tasks()), (3, 2, 1, 1));
        assert!(balance.lost.first[0].contains(lost.as_str()), "{:?}", balance.lost);
        assert_eq!((balance.different.count, balance.copies), (1, 1), "what was delivered again is no copy");
        assert_eq!(balance.outcomes["echo"]["succeeded"], 2);
    }

    #[test]
    fn a_task_that_ends_otherwise_than_it_should_and_a_reply_to_nobodys_task_are_told() {
        let ledger = Ledger::default();
        let task_id = ledger.open(OPENED);
        ledger.answered(&reply(&task_id, Outcome::Failed, 1), false);
        ledger.answered(&reply(&TaskId::new("soak-99").unwrap(), Outcome::Succeeded, 1), false);
        ledger.answered(&reply(&TaskId::new("strange").unwrap(), Outcome::Succeeded, 1), false);
        ledger.answered(b"{}", false);
        let balance = ledger.balance();
        assert_eq!((balance.wrong.count, balance.foreign.count), (1, 3), "{balance:?}");
    }

    #[test]
    fn a_task_that_was_refused_is_not_waited_for() {
        let ledger = Ledger::default();
        let task_id = ledger.open(OPENED);
        ledger.refused(&task_id, "as asked");
        assert_eq!((ledger.open_tasks(), ledger.balance().refused.count, ledger.balance().lost.count), (0, 1, 0));
        assert!(ledger.has_reply(&task_id));
    }

    #[test]
    fn latencies_are_told_once_by_priority_and_kept_for_the_whole_run() {
        let ledger = Ledger::default();
        let task_id = ledger.open(OPENED);
        ledger.answered(&reply(&task_id, Outcome::Succeeded, 1), false);
        assert!(ledger.latencies_lately()[3].p50 >= 0.0);
        assert!(ledger.latencies_lately()[3].p50.is_nan(), "nothing since");
        assert!(ledger.balance().latencies[3].p50 >= 0.0 && ledger.balance().latencies[0].p50.is_nan());
    }
}
