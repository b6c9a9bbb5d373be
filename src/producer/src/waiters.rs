//! Who waits for which reply. One short lock, never held across an await.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use protocol::{BodyHash, Outcome, TaskId};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{ProgressStream, SubmitError};

/// What a producer has counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tasks that are waited for now.
    pub waiting: u64,
    /// Replies that arrived and were waited for.
    pub replies: u64,
    /// Replies that nobody waited for: late ones, copies, strangers.
    pub replies_ignored: u64,
    /// Replies that were found in the store instead of arriving.
    pub replies_looked_up: u64,
    /// Progress messages that arrived and were wanted.
    pub progress: u64,
    /// Progress messages that nobody wanted, or whose reader was too slow.
    pub progress_dropped: u64,
}

/// What ends a wait.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The reply's bytes. The waiter reads them, so that the dispatcher stays fast.
    Reply(Bytes),
    /// It ended, and the reply's bytes are gone.
    Gone(Outcome),
}

/// A task that the store is to be asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doubt {
    pub(crate) number: u64,
    pub(crate) task_id: TaskId,
    pub(crate) body_hash: BodyHash,
}

struct Waiter {
    task_id: TaskId,
    body_hash: BodyHash,
    sender: oneshot::Sender<Ending>,
    progress: Option<mpsc::Sender<Bytes>>,
    look_at: Instant,
    look_again_after: Duration,
}

#[derive(Default)]
struct State {
    last: u64,
    open: BTreeMap<u64, Waiter>,
    closed: bool,
}

/// Every wait of one producer, by the number that is its `correlation_id`.
pub(crate) struct Waiters {
    state: Mutex<State>,
    bound: usize,
    look_after: Duration,
    replies: AtomicU64,
    ignored: AtomicU64,
    looked_up: AtomicU64,
    progress: AtomicU64,
    progress_dropped: AtomicU64,
}

/// One wait. Dropped, it is forgotten.
pub(crate) struct Ticket {
    waiters: Arc<Waiters>,
    number: u64,
    pub(crate) ending: oneshot::Receiver<Ending>,
    /// Progress messages as they arrive, where the task asked for them.
    pub(crate) progress: Option<mpsc::Receiver<Bytes>>,
}

impl Waiters {
    pub(crate) fn new(bound: usize, look_after: Duration) -> Self {
        let (replies, ignored, looked_up, progress, progress_dropped) = Default::default();
        Self { state: Mutex::default(), bound, look_after, replies, ignored, looked_up, progress, progress_dropped }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one insertion or removal: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for a reply, and for progress before it if it is `wanted`.
    pub(crate) fn wait_for(self: &Arc<Self>, task_id: TaskId, body_hash: BodyHash, wanted: bool) -> Result<Ticket, SubmitError> {
        let (sender, ending) = oneshot::channel();
        let (progress, arriving) = wanted.then(|| mpsc::channel(ProgressStream::WAITING_MAX)).unzip();
        let mut state = self.state();
        if state.closed {
            return Err(SubmitError::Closed);
        }
        if state.open.len() >= self.bound {
            return Err(SubmitError::TooManyWaiting { bound: self.bound });
        }
        state.last += 1;
        let number = state.last;
        let look_at = Instant::now() + self.look_after;
        state.open.insert(number, Waiter { task_id, body_hash, sender, progress, look_at, look_again_after: self.look_after });
        Ok(Ticket { waiters: Arc::clone(self), number, ending, progress: arriving })
    }

    /// Hands a reply that arrived to its waiter, if there is one.
    pub(crate) fn deliver(&self, correlation_id: Option<&str>, body: Bytes) {
        let number = correlation_id.and_then(|text| text.parse::<u64>().ok());
        let waiter = number.and_then(|number| self.state().open.remove(&number));
        let taken = waiter.is_some_and(|waiter| waiter.sender.send(Ending::Reply(body)).is_ok());
        let counter = if taken { &self.replies } else { &self.ignored };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Hands a progress message to the reader of its task, if there is one that keeps up. The wait goes on.
    pub(crate) fn progress(&self, correlation_id: Option<&str>, body: Bytes) {
        let number = correlation_id.and_then(|text| text.parse::<u64>().ok());
        let reader = number.and_then(|number| self.state().open.get(&number)?.progress.clone());
        let taken = reader.is_some_and(|reader| reader.try_send(body).is_ok());
        let counter = if taken { &self.progress } else { &self.progress_dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Hands over what the store says.
    pub(crate) fn settle(&self, number: u64, ending: Ending) {
        let waiter = self.state().open.remove(&number);
        if waiter.is_some_and(|waiter| waiter.sender.send(ending).is_ok()) {
            self.looked_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The reply queue was lost: any reply may have been lost with it. From now on every present wait is looked up `every` so often.
    pub(crate) fn doubt_all(&self, every: Duration) {
        let now = Instant::now();
        for waiter in self.state().open.values_mut() {
            waiter.look_at = waiter.look_at.min(now);
            waiter.look_again_after = every;
        }
    }

    /// The waits that are due to be looked up, most overdue first, at most `max`; their next look is set.
    pub(crate) fn due(&self, max: usize) -> Vec<Doubt> {
        let now = Instant::now();
        let mut state = self.state();
        let mut due: Vec<(Instant, u64)> =
            state.open.iter().filter(|(_, waiter)| waiter.look_at <= now).map(|(number, waiter)| (waiter.look_at, *number)).collect();
        due.sort_unstable();
        due.truncate(max);
        let numbers = due.into_iter().map(|(_, number)| number);
        numbers
            .filter_map(|number| {
                let waiter = state.open.get_mut(&number)?;
                waiter.look_at = now + waiter.look_again_after;
                Some(Doubt { number, task_id: waiter.task_id.clone(), body_hash: waiter.body_hash.clone() })
            })
            .collect()
    }

    /// No reply will arrive any more: every wait ends, and no new one begins.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        // A dropped sender is what the waiter sees.
        state.open.clear();
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            waiting: self.state().open.len() as u64,
            replies: self.replies.load(Ordering::Relaxed),
            replies_ignored: self.ignored.load(Ordering::Relaxed),
            replies_looked_up: self.looked_up.load(Ordering::Relaxed),
            progress: self.progress.load(Ordering::Relaxed),
            progress_dropped: self.progress_dropped.load(Ordering::Relaxed),
        }
    }
}

impl Ticket {
    /// What the reply's `correlation_id` must be.
    pub(crate) fn correlation_id(&self) -> String {
        self.number.to_string()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.waiters.state().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiters(bound: usize) -> Arc<Waiters> {
        Arc::new(Waiters::new(bound, Duration::from_secs(15)))
    }

    fn wait(waiters: &Arc<Waiters>, id: &str) -> Ticket {
        waiters.wait_for(TaskId::new(id).expect("valid"), BodyHash::of(b"{}"), false).expect("room")
    }

    #[tokio::test]
    async fn a_dropped_wait_leaves_nothing_behind() {
        let waiters = waiters(2);
        let (first, second) = (wait(&waiters, "a"), wait(&waiters, "b"));
        assert!(waiters.wait_for(TaskId::new("c").expect("valid"), BodyHash::of(b""), false).is_err_and(|error| error.is_full()));
        drop((first, second));
        assert_eq!(waiters.counts(), Counts::default());
    }

    #[tokio::test]
    async fn a_copy_a_late_and_a_foreign_reply_are_ignored_and_counted() {
        let waiters = waiters(8);
        let mut ticket = wait(&waiters, "a");
        let correlation = ticket.correlation_id();
        waiters.deliver(Some(&correlation), Bytes::from_static(b"1"));
        waiters.deliver(Some(&correlation), Bytes::from_static(b"2"));
        waiters.deliver(Some("who?"), Bytes::new());
        waiters.deliver(None, Bytes::new());
        assert!(matches!(ticket.ending.try_recv(), Ok(Ending::Reply(body)) if body == "1"));
        let counts = waiters.counts();
        assert_eq!((counts.replies, counts.replies_ignored), (1, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_are_bounded_and_reach_every_wait_in_turn() {
        let waiters = waiters(8);
        let _tickets: Vec<Ticket> = ["a", "b", "c"].map(|id| wait(&waiters, id)).into();
        assert!(waiters.due(8).is_empty());
        waiters.doubt_all(Duration::from_secs(1));
        let mut looked_up = Vec::new();
        for _ in 0..3 {
            looked_up.extend(waiters.due(1).into_iter().map(|doubt| doubt.task_id.to_string()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        looked_up.sort();
        assert_eq!(looked_up, ["a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_silence_is_looked_up_without_a_lost_queue() {
        let waiters = waiters(8);
        let _ticket = wait(&waiters, "a");
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(waiters.due(8).len(), 1);
        assert!(waiters.due(8).is_empty());
    }
}
