//! One publishing channel: batches of messages, each settled as a whole.
//!
//! The client library attaches a returned message to whichever confirm resolves next. So a channel has one batch at a time, whose messages that came back are told apart by
//! their `message_id`; a batch never holds two messages with the same id.
//!
//! One queue that does not confirm (its process hangs, its quorum has no majority) must not hold up the others. A batch that is not confirmed soon stays behind on its channel
//! and is [seen to its end](flight) there, while the lane opens another channel and goes on. The queues that did not confirm are [slow] for a while, and have a lane of their
//! own.

mod flight;
mod slow;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use lapin::{
    BasicProperties, Channel, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::flight::Flight;
pub(super) use self::slow::SlowQueues;
use super::{
    failure::Failure,
    line::{Kept, Line},
};
use crate::{Link, PublishError, message::is_direct_reply};

/// Most messages of one batch.
const BATCH_MAX: usize = 256;
/// How long a lane waits for the confirms of a batch before it leaves it behind. A broker that writes to disk takes some milliseconds, and one that is busy some hundred; a
/// message that is delayed by so much by another queue's trouble is not late yet.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most batches of one lane that are left behind at once, each with a channel of its own. With so many it waits for the next one itself.
const LEFT_BEHIND_MAX: usize = 8;

/// What a lane carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cargo {
    /// Messages to queues.
    Queues,
    /// Direct replies, on a connection of their own: the broker (3.10.8) ends the connection over a reply address that some other broker made.
    DirectReplies,
}

/// One message to publish.
pub(super) struct Job {
    /// The queue's name.
    pub(super) target: String,
    pub(super) routing_key: ShortString,
    pub(super) message_id: String,
    pub(super) properties: BasicProperties,
    pub(super) body: bytes::Bytes,
    pub(super) deadline: Instant,
    /// The time from its publish to the deadline.
    pub(super) timeout: Duration,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
}

impl Job {
    /// Answers. Nobody hears it if the publisher gave up.
    fn settle(self, answer: Result<(), PublishError>) {
        let _unheard = self.answer.send(answer);
    }

    fn down(self, reason: String) {
        let target = self.target.clone();
        self.settle(Err(PublishError::Disconnected { target, reason }));
    }

    fn refused(self, reason: String) {
        let target = self.target.clone();
        self.settle(Err(PublishError::Refused { target, reason }));
    }

    /// There was no confirm by its deadline.
    fn late(self) {
        let late = PublishError::timeout(self.target.clone(), self.timeout);
        self.settle(Err(late));
    }
}

/// What the lanes of a publisher have in common.
pub(super) struct Around {
    pub(super) stop: CancellationToken,
    /// Where batches that were left behind live on.
    pub(super) tasks: TaskTracker,
    /// The queues that did not confirm soon.
    pub(super) slow: SlowQueues,
}

pub(super) struct Lane {
    cargo: Cargo,
    jobs: mpsc::Receiver<Job>,
    connection: watch::Receiver<Option<Arc<Kept>>>,
    link: watch::Receiver<Link>,
    around: Arc<Around>,
    /// The lane of the slow queues; `None` for that lane itself, and for direct replies.
    slow_lane: Option<mpsc::Sender<Job>>,
    /// Copies of a message in the batch before: first in the next one.
    held_over: VecDeque<Job>,
    /// Published one by one, because the broker closed the channel or the connection over the batch they were in.
    suspects: VecDeque<Job>,
    channel: Option<Channel>,
    /// A permit for each batch that may be left behind.
    left_behind: Arc<Semaphore>,
}

/// How a batch came to its end, for its lane.
enum Ending {
    Confirmed,
    /// No confirm can be expected any more.
    Unusable,
    /// No deadline of its messages is left.
    Late,
    /// Its confirms take too long for the others that wait.
    OutOfPatience,
}

impl Lane {
    pub(super) fn new(
        cargo: Cargo,
        jobs: mpsc::Receiver<Job>,
        line: &Line,
        slow_lane: Option<mpsc::Sender<Job>>,
        around: Arc<Around>,
    ) -> Self {
        Self {
            cargo,
            jobs,
            connection: line.connection.clone(),
            link: line.link.clone(),
            around,
            slow_lane,
            held_over: VecDeque::new(),
            suspects: VecDeque::new(),
            channel: None,
            left_behind: Arc::new(Semaphore::new(LEFT_BEHIND_MAX)),
        }
    }

    pub(super) async fn live(mut self) {
        while let Some(batch) = self.next_batch().await {
            let last = batch.iter().map(|job| job.deadline).max().unwrap_or_else(Instant::now);
            if batch.is_empty() {
                continue;
            }
            match self.open_channel(last).await {
                Ok(channel) => self.publish(channel, batch, last).await,
                Err(reason) => batch.into_iter().for_each(|job| job.down(reason.clone())),
            }
        }
        // Dropping the jobs answers those still waiting.
    }

    /// What waits, up to the bound and without copies; `None` once closed.
    async fn next_batch(&mut self) -> Option<Vec<Job>> {
        if let Some(suspect) = self.suspects.pop_front() {
            return Some(vec![suspect]);
        }
        let mut ids = BTreeSet::new();
        let mut batch = Vec::new();
        for job in std::mem::take(&mut self.held_over) {
            self.add(&mut batch, &mut ids, job);
        }
        if batch.is_empty() {
            let job = tokio::select! {
                biased;
                () = self.around.stop.cancelled() => return None,
                job = self.jobs.recv() => job?,
            };
            self.add(&mut batch, &mut ids, job);
            // The senders that run now have more to send: a batch of one is the slowest there is.
            tokio::task::yield_now().await;
        }
        while batch.len() < BATCH_MAX
            && self.held_over.len() < BATCH_MAX
            && let Ok(job) = self.jobs.try_recv()
        {
            self.add(&mut batch, &mut ids, job);
        }
        Some(batch)
    }

    fn add(&mut self, batch: &mut Vec<Job>, ids: &mut BTreeSet<String>, job: Job) {
        // One whose publisher has given up already need not be sent.
        if job.answer.is_closed() {
            return;
        }
        let Some(job) = self.set_aside(job) else { return };
        if ids.insert(job.message_id.clone()) {
            batch.push(job);
        } else {
            self.held_over.push_back(job);
        }
    }

    /// A message for a slow queue goes to the lane of these, if there is room.
    fn set_aside(&self, job: Job) -> Option<Job> {
        match &self.slow_lane {
            Some(slow_lane) if self.around.slow.has(&job.target) => slow_lane.try_send(job).err().map(TrySendError::into_inner),
            _ => Some(job),
        }
    }

    /// The open channel, or a new one in confirm mode; why there is none.
    async fn open_channel(&mut self, last: Instant) -> Result<Channel, String> {
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        self.channel = None;
        let connection = self.connection(last).await.ok_or("reconnecting")?;
        let opening = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<Channel, lapin::Error>(channel)
        };
        let opened = tokio::select! {
            biased;
            // Nothing is written while the broker blocks, so no channel can be opened.
            () = self.unusable() => return Err("the link went down or is blocked".to_owned()),
            () = tokio::time::sleep_until(last) => return Err("no channel in time".to_owned()),
            opened = opening => opened.map_err(|error| error.to_string())?,
        };
        self.channel = Some(opened.clone());
        Ok(opened)
    }

    /// The connection; for direct replies, the next one if it has just ended, so that the innocent of a batch are published again.
    async fn connection(&self, last: Instant) -> Option<Arc<Kept>> {
        if self.cargo == Cargo::Queues {
            return self.connection.borrow().clone();
        }
        let mut connection = self.connection.clone();
        let connected = connection.wait_for(|connection| connection.as_ref().is_some_and(|connection| connection.connected()));
        tokio::select! {
            biased;
            connected = connected => connected.ok()?.clone(),
            () = self.around.stop.cancelled() => None,
            () = tokio::time::sleep_until(last) => None,
        }
    }

    async fn unusable(&self) {
        unusable(self.link.clone(), self.cargo).await;
    }

    /// Until a batch has been waited for long enough. Never for direct replies: what the broker does over one of them is learnt from the whole batch.
    async fn out_of_patience(&self) {
        match self.cargo {
            Cargo::Queues => tokio::time::sleep(PATIENCE).await,
            Cargo::DirectReplies => std::future::pending().await,
        }
    }

    /// Publishes a batch, and answers each message or leaves them behind. A batch that is not confirmed in time spoils its channel: late confirms and returned messages
    /// must not meet the next batch.
    async fn publish(&mut self, channel: Channel, batch: Vec<Job>, last: Instant) {
        let written = tokio::select! {
            biased;
            written = join_all(batch.iter().map(|job| write(&channel, job))) => Ok(written),
            () = self.unusable() => Err(Ending::Unusable),
            () = tokio::time::sleep_until(last) => Err(Ending::Late),
        };
        let written = match written {
            Ok(written) => written,
            Err(ending) => return self.give_up(batch, &ending),
        };
        let mut flight = Flight::new(batch, written);
        let ending = tokio::select! {
            biased;
            () = flight.confirmed() => Ending::Confirmed,
            () = self.unusable() => Ending::Unusable,
            () = tokio::time::sleep_until(last) => Ending::Late,
            () = self.out_of_patience() => Ending::OutOfPatience,
        };
        match ending {
            Ending::Confirmed => {
                self.settle(&mut flight);
                // One that the broker closed would keep its connection open until the next batch, if that has been replaced.
                self.channel.take_if(|channel| !channel.status().connected());
            }
            Ending::OutOfPatience => self.leave_behind(flight, channel, last).await,
            Ending::Unusable | Ending::Late => {
                self.settle(&mut flight);
                self.give_up(flight.into_rest(), &ending);
            }
        }
    }

    /// Answers messages that are not waited for any more, and lets go of their channel.
    fn give_up(&mut self, jobs: impl IntoIterator<Item = Job>, ending: &Ending) {
        self.channel = None;
        for job in jobs {
            match ending {
                Ending::Late => job.late(),
                _ => job.down("no confirm before the channel was given up".to_owned()),
            }
        }
    }

    /// Goes on without a batch, on another channel. Its own is closed once its messages are settled; with too many of these the lane sees to the end of this one first.
    async fn leave_behind(&mut self, flight: Flight, channel: Channel, last: Instant) {
        self.channel = None;
        let slow = self.around.slow.add(flight.silent());
        if !slow.is_empty() {
            tracing::info!(
                queues = slow.join(", "),
                within_ms = PATIENCE.as_millis(),
                "not confirmed soon; messages for other queues go on"
            );
        }
        let life = flight.live_on(unusable(self.link.clone(), self.cargo), last);
        match Arc::clone(&self.left_behind).try_acquire_owned() {
            Ok(permit) => drop(self.around.tasks.spawn(async move {
                life.await;
                drop((channel, permit));
            })),
            Err(_) => life.await,
        }
    }

    fn settle(&mut self, flight: &mut Flight) {
        let alone = flight.is_of_one();
        for (job, verdict) in flight.take_said() {
            match verdict {
                Ok(answer) => job.settle(answer),
                Err(error) => self.settle_failed(job, Failure::from(error), alone),
            }
        }
    }

    fn settle_failed(&mut self, job: Job, failure: Failure, alone: bool) {
        match failure {
            Failure::Stumbled(text) if self.cargo == Cargo::Queues => job.down(text),
            Failure::Refused { text, .. } | Failure::Stumbled(text) if alone => job.refused(text),
            // One message of the batch is to blame; alone it will be found, and the others go through.
            Failure::Refused { .. } | Failure::Stumbled(_) => self.suspects.push_back(job),
            // Another one's refusal was closing the channel. A new one will do, or there is none.
            Failure::Unsent(_) if Instant::now() < job.deadline => {
                self.channel = None;
                self.suspects.push_back(job);
            }
            Failure::Inaccessible(reason) | Failure::Unsent(reason) | Failure::Away(reason) => job.down(reason),
        }
    }
}

/// Until no confirm can be expected soon. Publishers see it too and give up by themselves.
async fn unusable(mut link: watch::Receiver<Link>, cargo: Cargo) {
    let unusable = |link: &Link| match cargo {
        Cargo::Queues => *link != Link::Up,
        // The confirms of a connection that ended say whose fault it was.
        Cargo::DirectReplies => matches!(link, Link::Blocked(_)),
    };
    // An error means that the link's keeper is gone.
    let _either = link.wait_for(unusable).await;
}

/// Writes a message to its channel; its confirm is still to come.
async fn write(channel: &Channel, job: &Job) -> Result<PublisherConfirm, lapin::Error> {
    let options = BasicPublishOptions { mandatory: !is_direct_reply(&job.target), ..BasicPublishOptions::default() };
    channel.basic_publish("".into(), job.routing_key.clone(), options, &job.body, job.properties.clone()).await
}
