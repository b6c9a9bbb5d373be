//! A batch of messages that was written to its channel, and what the broker says of them.

use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use lapin::{Confirmation, PublisherConfirm};
use tokio::time::Instant;

use super::Job;
use crate::{PublishError, rabbitmq::failure::Failure};

/// How often the messages of a batch that was left behind are settled. A confirm counts once it is as old: a returned message comes to light with its own confirm or with
/// another one that the broker sent at the same moment, and by then all of these have been read.
const SETTLE_EVERY: Duration = Duration::from_millis(50);

/// How one message ended on the wire.
type Confirmed = Result<Confirmation, lapin::Error>;

/// What is known of one message: what its publisher is to hear, or that the client library gave it up.
pub(super) type Verdict = Result<Result<(), PublishError>, lapin::Error>;

/// A batch on its channel.
pub(super) struct Flight {
    /// By their places in the batch; `None`: settled.
    jobs: Vec<Option<Job>>,
    confirms: FuturesUnordered<Placed>,
    /// What was said of them, in the order in which it came.
    said: VecDeque<(usize, Confirmed)>,
    /// The ids of the messages that came back.
    returned: BTreeSet<String>,
    alone: bool,
}

impl Flight {
    /// `sent`: for each job, in the same order, its confirm to come, or why it was not written.
    pub(super) fn new(batch: Vec<Job>, sent: Vec<Result<PublisherConfirm, lapin::Error>>) -> Self {
        let (alone, confirms, mut said) = (batch.len() == 1, FuturesUnordered::new(), VecDeque::new());
        for (place, sent) in sent.into_iter().enumerate() {
            match sent {
                Ok(confirm) => confirms.push(Placed { place, confirm }),
                Err(error) => said.push_back((place, Err(error))),
            }
        }
        Self { jobs: batch.into_iter().map(Some).collect(), confirms, said, returned: BTreeSet::new(), alone }
    }

    /// Whether it has one message only, which then is to blame for whatever the broker says.
    pub(super) fn is_of_one(&self) -> bool {
        self.alone
    }

    /// Until something was said of every message. Cancel safe.
    pub(super) async fn confirmed(&mut self) {
        while let Some((place, confirmed)) = self.confirms.next().await {
            self.returned.extend(returned_id(&confirmed));
            self.said.push_back((place, confirmed));
        }
    }

    /// The queues of which nothing was heard.
    pub(super) fn silent(&self) -> BTreeSet<String> {
        let heard: BTreeSet<usize> = self.said.iter().map(|(place, _)| *place).collect();
        let unheard = self.jobs.iter().enumerate().filter(|(place, _)| !heard.contains(place));
        unheard.filter_map(|(_, job)| Some(job.as_ref()?.target.clone())).collect()
    }

    /// All messages of which something was said, in the order of the batch.
    pub(super) fn take_said(&mut self) -> Vec<(Job, Verdict)> {
        self.take_first(self.said.len())
    }

    /// The messages of which nothing was said.
    pub(super) fn into_rest(self) -> impl Iterator<Item = Job> {
        self.jobs.into_iter().flatten()
    }

    fn take_first(&mut self, count: usize) -> Vec<(Job, Verdict)> {
        let mut first: Vec<(usize, Confirmed)> = self.said.drain(..count).collect();
        first.sort_by_key(|(place, _)| *place);
        let mut taken = Vec::new();
        for (place, confirmed) in first {
            let Some(job) = self.jobs[place].take() else { continue };
            let target = || job.target.clone();
            let verdict = confirmed.map(|confirmation| match confirmation {
                _ if self.returned.contains(&job.message_id) => Err(PublishError::Unroutable { target: target() }),
                Confirmation::Nack(_) => Err(PublishError::Full { target: target() }),
                Confirmation::Ack(_) | Confirmation::NotRequested => Ok(()),
            });
            taken.push((job, verdict));
        }
        taken
    }

    /// Sees to the end of a batch that its lane has left behind: each message is settled soon after it was confirmed, and what is not by `last` is not waited for.
    pub(super) async fn live_on(mut self, unusable: impl Future<Output = ()>, last: Instant) {
        let mut unusable = pin!(unusable);
        loop {
            let heard = self.said.len();
            tokio::select! {
                biased;
                () = self.confirmed() => return self.settle_first(self.said.len()),
                () = &mut unusable => {
                    self.settle_first(self.said.len());
                    return self.into_rest().for_each(|job| job.down("the link went down before a confirm".to_owned()));
                }
                () = tokio::time::sleep_until(last) => {
                    self.settle_first(self.said.len());
                    return self.into_rest().for_each(Job::late);
                }
                () = tokio::time::sleep(SETTLE_EVERY) => self.settle_first(heard),
            }
        }
    }

    fn settle_first(&mut self, count: usize) {
        let alone = self.alone;
        for (job, verdict) in self.take_first(count) {
            match verdict {
                Ok(answer) => job.settle(answer),
                Err(error) => settle_failed(job, Failure::from(error), alone),
            }
        }
    }
}

/// A message whose lane has gone on cannot be published again from here: its publisher is told to.
fn settle_failed(job: Job, failure: Failure, alone: bool) {
    match failure {
        Failure::Refused { text, .. } if alone => job.refused(text),
        Failure::Refused { text, .. }
        | Failure::Inaccessible(text)
        | Failure::Stumbled(text)
        | Failure::Unsent(text)
        | Failure::Away(text) => job.down(text),
    }
}

/// The confirm of the message at this place.
struct Placed {
    place: usize,
    confirm: PublisherConfirm,
}

impl Future for Placed {
    type Output = (usize, Confirmed);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let place = self.place;
        Pin::new(&mut self.confirm).poll(context).map(|confirmed| (place, confirmed))
    }
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
