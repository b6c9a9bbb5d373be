//! What the tasks said that were submitted here with `progress`: kept while they run and a little longer, for clients that follow them.
//!
//! Bounded by events and bytes for each task, and by tasks; a client that reads too slowly misses the oldest, and the numbers of the parts show it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use producer::{ItemSet, Pending, ProgressStream};
use protocol::{ProgressMessage, TaskId};
use tokio::sync::watch;

use super::Event;
use crate::Gateway;

/// Tasks that are watched at once; above it a task is submitted all the same, and its parts are not kept.
const TASKS_MAX: usize = 1_024;
/// Events kept of each.
const EVENTS_MAX: usize = 512;
/// What they may take together, in bytes.
const BYTES_MAX: usize = 256 * 1_024;
/// How long a task is watched at most.
pub(crate) const WATCHED: Duration = Duration::from_secs(3_600);
/// How long its log is kept after the end, for a client that comes late or again.
const KEPT: Duration = Duration::from_secs(60);

/// The logs, by task.
#[derive(Default)]
pub(crate) struct Watched(Mutex<BTreeMap<TaskId, Arc<Log>>>);

impl Watched {
    fn logs(&self) -> MutexGuard<'_, BTreeMap<TaskId, Arc<Log>>> {
        // Every change is one insertion or removal: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log_of(&self, task_id: &TaskId) -> Option<Arc<Log>> {
        self.logs().get(task_id).cloned()
    }

    /// Whether one more task can be watched, and this one is not yet.
    pub(crate) fn has_room_for(&self, task_id: Option<&TaskId>) -> bool {
        let logs = self.logs();
        logs.len() < TASKS_MAX && task_id.is_none_or(|task_id| !logs.contains_key(task_id))
    }

    fn begin(&self, task_id: &TaskId) -> Option<Arc<Log>> {
        let mut logs = self.logs();
        if logs.len() >= TASKS_MAX || logs.contains_key(task_id) {
            return None;
        }
        let log = Arc::<Log>::default();
        logs.insert(task_id.clone(), Arc::clone(&log));
        Some(log)
    }
}

impl Gateway {
    /// Keeps what `pending` says, in the background. Does nothing for a task that is watched already.
    pub(crate) fn watch(&self, pending: Pending) {
        if let Some(log) = self.watched.begin(pending.task_id()) {
            tokio::spawn(keep(self.clone(), pending, log));
        }
    }
}

async fn keep(gateway: Gateway, mut pending: Pending, log: Arc<Log>) {
    let task_id = pending.task_id().clone();
    let mut said = Said::of(&mut pending);
    let kept = async {
        loop {
            tokio::select! {
                biased;
                message = said.next() => log.add(Event::of(&message)),
                // Whatever it is, the store has it too.
                _reply = &mut pending => break,
            }
        }
        log.end();
        tokio::time::sleep(KEPT).await;
    };
    tokio::select! {
        biased;
        () = gateway.closing.cancelled() => {}
        () = kept => {}
    }
    gateway.watched.logs().remove(&task_id);
}

/// What a task says before its reply.
pub(crate) struct Said {
    stream: Option<ProgressStream>,
    /// The most items of a batch that a slice has told of.
    done: u32,
}

impl Said {
    /// Of the task whose reply is waited for.
    pub(crate) fn of(pending: &mut Pending) -> Self {
        Self { stream: pending.progress(), done: 0 }
    }

    /// The next message; for ever none once there are no more. Slices hear of each other at different times: counts of items that were overtaken are left out. Cancel safe.
    pub(crate) async fn next(&mut self) -> ProgressMessage {
        if let Some(stream) = &mut self.stream
            && let Some(message) = stream.next().await
        {
            return self.without_old_counts(message);
        }
        self.stream = None;
        std::future::pending().await
    }

    fn without_old_counts(&mut self, message: ProgressMessage) -> ProgressMessage {
        match (message.slice, message.items) {
            (Some(_), Some(items)) if items.done < self.done => ProgressMessage { items: None, ..message },
            (Some(_), Some(items)) => {
                self.done = items.done;
                message
            }
            _ => message,
        }
    }
}

/// What one task said.
#[derive(Default)]
pub(crate) struct Log {
    state: Mutex<State>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    last: u64,
    events: VecDeque<Event>,
    bytes: usize,
    over: bool,
}

impl Log {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, events: Vec<Event>) {
        let mut state = self.state();
        for event in events {
            state.add(event);
        }
        drop(state);
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn end(&self) {
        self.state().over = true;
        self.changes.send_modify(|changes| *changes += 1);
    }
}

impl State {
    fn add(&mut self, event: Event) {
        self.last += 1;
        self.bytes += event.data.len();
        self.events.push_back(Event { id: Some(self.last), ..event });
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.data.len();
        }
    }
}

/// One client's place in a log.
pub(super) struct Reader {
    log: Arc<Log>,
    changes: watch::Receiver<u64>,
    read: u64,
}

impl Reader {
    /// Begins after the event `read`; 0 is the beginning, and so is one that this log never had.
    pub(super) fn new(log: Arc<Log>, read: u64) -> Self {
        let (changes, last) = (log.changes.subscribe(), log.state().last);
        Self { log, changes, read: if read > last { 0 } else { read } }
    }

    /// The items that its client had before, as far as the log still knows.
    pub(super) fn told(&self) -> ItemSet {
        let mut told = ItemSet::default();
        let state = self.log.state();
        for item in state.events.iter().filter(|event| event.id <= Some(self.read)).filter_map(|event| event.item) {
            told.insert(item);
        }
        told
    }

    /// What is new, and whether that is all there will be.
    pub(super) fn read(&mut self) -> (Vec<Event>, bool) {
        self.changes.mark_unchanged();
        let state = self.log.state();
        let new = state.events.iter().filter(|event| event.id > Some(self.read)).cloned().collect();
        self.read = state.last;
        (new, state.over)
    }

    /// Waits until there may be more to read. Cancel safe.
    pub(super) async fn grown(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(events: &[Event]) -> Vec<u64> {
        events.iter().filter_map(|event| event.id).collect()
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_a_strange_place_is_the_beginning() {
        let log = Arc::<Log>::default();
        log.add((0..5).map(|n| Event::new("partial", &n)).collect());
        assert_eq!(numbers(&Reader::new(log.clone(), 0).read().0), [1, 2, 3, 4, 5]);
        let mut reader = Reader::new(log.clone(), 3);
        assert_eq!((numbers(&reader.read().0), reader.read()), (vec![4, 5], (vec![], false)));
        assert_eq!(Reader::new(log.clone(), 900).read().0.len(), 5);
        log.end();
        assert_eq!(reader.read(), (vec![], true));
    }

    #[test]
    fn a_reader_that_comes_back_knows_which_items_it_had() {
        let log = Arc::<Log>::default();
        let item = |index| Event::of_item(index, &protocol::ItemResult::succeeded(protocol::Json::null()));
        log.add(vec![item(4), Event::new("progress", &1), item(0), item(7)]);
        let told = Reader::new(log.clone(), 3).told();
        assert_eq!([0, 4, 7].map(|index| told.contains(index)), [true, true, false]);
        assert_eq!(Reader::new(log, 0).told(), ItemSet::default());
    }

    #[test]
    fn counts_of_items_never_go_back() {
        let mut said = Said { stream: None, done: 0 };
        let mut done_of = |slice: &str, done: u32| {
            let text = format!(r#"{{"task_id":"b","attempt":1,"token":7,"number":1,"slice":"{slice}","items":{{"of":8,"done":{done}}}}}"#);
            said.without_old_counts(serde_json::from_str(&text).expect("a message")).items.map(|items| items.done)
        };
        assert_eq!([done_of("0..4", 3), done_of("4..8", 2), done_of("4..8", 3), done_of("0..4", 5)], [Some(3), None, Some(3), Some(5)]);
    }

    #[test]
    fn a_log_keeps_the_newest_within_its_bounds() {
        let log = Arc::<Log>::default();
        log.add((0..1_000).map(|n| Event::new("partial", &n)).collect());
        assert_eq!(numbers(&Reader::new(log.clone(), 0).read().0), (489..=1_000).collect::<Vec<u64>>());
        log.add(vec![Event::new("partial", &"x".repeat(200_000)), Event::new("partial", &"x".repeat(200_000))]);
        assert_eq!(numbers(&Reader::new(log, 0).read().0), [1_002]);
    }

    #[test]
    fn watched_tasks_are_bounded_and_watched_once() {
        let watched = Watched::default();
        let id = |n: usize| TaskId::new(format!("t{n}")).expect("valid");
        assert!((0..TASKS_MAX - 1).all(|n| watched.begin(&id(n)).is_some()));
        assert!(watched.begin(&id(0)).is_none() && !watched.has_room_for(Some(&id(0))));
        assert!(watched.has_room_for(None) && watched.begin(&id(TASKS_MAX)).is_some());
        assert!(!watched.has_room_for(None) && watched.begin(&id(TASKS_MAX + 1)).is_none());
    }
}
