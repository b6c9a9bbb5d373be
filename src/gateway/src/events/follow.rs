//! One client that follows one task.

use std::{collections::VecDeque, time::Duration};

use producer::{ItemSet, Pace, Patience};
use protocol::{ItemResult, Outcome, Reply, TaskId, TaskState, TaskStatus};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::{Event, HowFar, Source, log::Reader};
use crate::Gateway;

/// The pause between two looks into the store: after a change, and when nothing has changed for long.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// The longest stream. A client that wants more connects again, as browsers do by themselves.
pub(crate) const LONGEST: Duration = Duration::from_secs(3_600);

/// The items that were not told before their batch ended, then the reply. One event at a time: together they take twice what the reply does.
type Rest = Option<Box<dyn Iterator<Item = Event> + Send>>;

/// What is new of a task, until its reply.
pub(crate) struct Following {
    gateway: Gateway,
    task_id: TaskId,
    log: Option<Reader>,
    ready: VecDeque<Event>,
    state: Option<(TaskState, u32)>,
    progress: Option<HowFar>,
    /// The items of a batch whose results were told.
    told: ItemSet,
    /// The reply, until all that is to be told before it was.
    reply: Option<Reply>,
    rest: Rest,
    pace: Pace,
    look_at: Instant,
    ends_at: Instant,
    /// With its reply, and its last events, once it has ended.
    patience: Patience,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Following {
    /// Begins with `status`; of the log, with what follows the event `seen`.
    pub(super) fn new(gateway: Gateway, status: TaskStatus, seen: u64, permit: OwnedSemaphorePermit) -> Self {
        let (task_id, now) = (status.task_id.clone(), Instant::now());
        let log = gateway.watched.log_of(&task_id).map(|log| Reader::new(log, seen));
        let told = log.as_ref().map(Reader::told).unwrap_or_default();
        let [shortest, longest] = PAUSE;
        let mut new = Self {
            gateway,
            task_id,
            log,
            ready: VecDeque::new(),
            state: None,
            progress: None,
            told,
            reply: None,
            rest: None,
            pace: Pace::new(shortest, longest),
            look_at: now + shortest,
            ends_at: now + LONGEST,
            patience: Patience::default(),
            over: false,
            _permit: permit,
        };
        new.take(status);
        new
    }

    /// Asks the store. While it does not answer the stream goes on; the log may have news.
    async fn look(&mut self) {
        match self.gateway.ports.producer.status(&self.task_id).await {
            Ok(Some(status)) => self.take(status),
            // Forgotten meanwhile.
            Ok(None) => self.over = true,
            Err(error) => debug!(task_id = %self.task_id, %error, "follow a task"),
        }
        self.look_at = Instant::now() + self.pace.pause();
    }

    fn take(&mut self, status: TaskStatus) {
        let state = Some((status.state, status.attempt));
        if self.state != state {
            self.state = state;
            self.pace.quicken();
            self.ready.push_back(Event::new("status", &TaskStatus { progress: None, reply: None, ..status.clone() }));
        }
        // The log has the same, and sooner.
        let progress = HowFar::of(status.progress.as_ref(), status.items);
        if self.log.is_none() && self.progress != progress {
            self.pace.quicken();
            self.ready.extend(progress.as_ref().map(|progress| Event::new("progress", progress)));
            self.progress = progress;
        }
        match status.state.outcome() {
            Some(outcome) => self.end(status, outcome),
            None => self.patience.renew(),
        }
    }

    fn end(&mut self, status: TaskStatus, outcome: Outcome) {
        let is_over = self.patience.is_over();
        if !is_over && (status.reply.is_none() || self.log.is_some()) {
            return;
        }
        self.read_log();
        (self.over, self.log) = (true, None);
        self.reply = Some(status.reply.clone().unwrap_or_else(|| Reply::without_body(status, outcome)));
    }

    /// The next event that is at hand. No item is told twice.
    fn at_hand(&mut self) -> Option<Event> {
        while let Some(event) = self.ready.pop_front() {
            if event.item.is_none_or(|index| self.told.insert(index)) {
                return Some(event);
            }
        }
        if let Some(reply) = self.reply.take() {
            self.rest = Some(Box::new(rest(reply, self.told.clone())));
        }
        self.rest.as_mut()?.next()
    }

    /// What the log has new. At its end the store has the reply.
    fn read_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        let (events, over) = log.read();
        self.ready.extend(events);
        if over {
            self.log = None;
            self.look_at = Instant::now();
        }
    }
}

impl Source for Following {
    async fn next(&mut self) -> Option<Event> {
        loop {
            self.read_log();
            if let Some(event) = self.at_hand() {
                return Some(event);
            }
            if self.over || self.ends_at <= Instant::now() {
                return None;
            }
            tokio::select! {
                biased;
                () = self.gateway.closing.cancelled() => return None,
                () = grown(&mut self.log) => continue,
                () = sleep_until(self.look_at.min(self.ends_at)) => {}
            }
            self.look().await;
        }
    }
}

async fn grown(log: &mut Option<Reader>) {
    match log {
        Some(log) => log.grown().await,
        None => std::future::pending().await,
    }
}

/// The results of a batch's items that were not told, and the reply.
fn rest(reply: Reply, told: ItemSet) -> impl Iterator<Item = Event> + Send {
    // A task that is no batch has no list of results; neither has a batch that ended as a whole.
    let results = reply.results.elements().unwrap_or_default();
    let untold = (0..).zip(results).filter(move |(index, _)| !told.contains(*index));
    let items = untold.filter_map(|(index, came_out)| Some(Event::of_item(index, &came_out.to::<ItemResult>().ok()?)));
    items.chain(std::iter::once_with(move || Event::new("reply", &reply)))
}
