//! One publishing channel: batches of messages, each settled as a whole.
//!
//! The client library attaches a returned message to whichever confirm resolves next. So a lane has one batch on its channel at a time, waits for
//! all its confirms, and only then says which messages came back, by their `message_id`; a batch never holds two messages with the same id.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use futures::future::join_all;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{failure::Failure, line::Kept};
use crate::{Link, PublishError, message::is_direct_reply};

/// Most messages of one batch.
const BATCH_MAX: usize = 256;

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
}

/// How one message of a batch ended on the wire.
type Confirmed = Result<Confirmation, lapin::Error>;

pub(super) struct Lane {
    pub(super) cargo: Cargo,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) connection: watch::Receiver<Option<Arc<Kept>>>,
    pub(super) link: watch::Receiver<Link>,
    pub(super) stop: CancellationToken,
    /// Copies of a message in the batch before: first in the next one.
    pub(super) held_over: VecDeque<Job>,
    /// Published one by one, because the broker closed the channel or the connection over the batch they were in.
    pub(super) suspects: VecDeque<Job>,
    pub(super) channel: Option<Channel>,
}

impl Lane {
    pub(super) async fn live(mut self) {
        while let Some(batch) = self.next_batch().await {
            let last = batch.iter().map(|job| job.deadline).max().unwrap_or_else(Instant::now);
            if batch.is_empty() {
                continue;
            }
            match self.open_channel(last).await {
                Ok(channel) => self.publish(&channel, batch, last).await,
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
                () = self.stop.cancelled() => return None,
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
        if ids.insert(job.message_id.clone()) {
            batch.push(job);
        } else {
            self.held_over.push_back(job);
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
            () = self.stop.cancelled() => None,
            () = tokio::time::sleep_until(last) => None,
        }
    }

    /// Until no confirm can be expected soon. Publishers see it too and give up by themselves.
    async fn unusable(&self) {
        let mut link = self.link.clone();
        let unusable = |link: &Link| match self.cargo {
            Cargo::Queues => *link != Link::Up,
            // The confirms of a connection that ended say whose fault it was.
            Cargo::DirectReplies => matches!(link, Link::Blocked(_)),
        };
        // An error means that the link's keeper is gone.
        let _either = link.wait_for(unusable).await;
    }

    /// Publishes a batch and answers each message. A batch that is not confirmed in time spoils its channel: late confirms and returned messages
    /// must not meet the next batch.
    async fn publish(&mut self, channel: &Channel, batch: Vec<Job>, last: Instant) {
        let confirmed = tokio::select! {
            biased;
            confirmed = join_all(batch.iter().map(|job| publish_one(channel, job))) => Some(confirmed),
            () = self.unusable() => None,
            () = tokio::time::sleep_until(last) => None,
        };
        match confirmed {
            Some(confirmed) => {
                self.settle(batch, confirmed);
                // One that the broker closed would keep its connection open until the next batch, if that has been replaced.
                self.channel.take_if(|channel| !channel.status().connected());
            }
            None => {
                self.channel = None;
                batch.into_iter().for_each(|job| job.down("no confirm before the channel was given up".to_owned()));
            }
        }
    }

    fn settle(&mut self, batch: Vec<Job>, confirmed: Vec<Confirmed>) {
        let alone = batch.len() == 1;
        let returned: BTreeSet<String> = confirmed.iter().filter_map(returned_id).collect();
        for (job, confirmed) in batch.into_iter().zip(confirmed) {
            let target = job.target.clone();
            match confirmed {
                Ok(_) if returned.contains(&job.message_id) => job.settle(Err(PublishError::Unroutable { target })),
                Ok(Confirmation::Nack(_)) => job.settle(Err(PublishError::Full { target })),
                Ok(_) => job.settle(Ok(())),
                Err(error) => self.settle_failed(job, Failure::from(error), alone),
            }
        }
    }

    fn settle_failed(&mut self, job: Job, failure: Failure, alone: bool) {
        let target = job.target.clone();
        match failure {
            Failure::Stumbled(text) if self.cargo == Cargo::Queues => job.down(text),
            Failure::Refused { text, .. } | Failure::Stumbled(text) if alone => {
                job.settle(Err(PublishError::Refused { target, reason: text }))
            }
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

async fn publish_one(channel: &Channel, job: &Job) -> Confirmed {
    let options = BasicPublishOptions { mandatory: !is_direct_reply(&job.target), ..BasicPublishOptions::default() };
    channel.basic_publish("".into(), job.routing_key.clone(), options, &job.body, job.properties.clone()).await?.await
}

/// The id of the returned message that a confirm carries, whosever it is.
fn returned_id(confirmed: &Confirmed) -> Option<String> {
    match confirmed {
        Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
            returned.properties.message_id().as_ref().map(|id| id.as_str().to_owned())
        }
        _ => None,
    }
}
