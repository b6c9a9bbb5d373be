//! Handing on what a running attempt reports: to the store, and to a producer that asked.
//!
//! Nothing rests on it. While an attempt reports nothing, nothing is written and nothing is sent. The store is told at most every
//! `progress_every_ms`, the last report wins. The producer gets one message at a time: while one is on its way, or the broker blocks, reports gather
//! in the attempt's bounded buffer. A message that could not be sent is dropped, and the numbers show it. Of items, each one's result goes along as it is there; those of a slice are
//! told under the id of its batch.
//!
//! Progress messages and the reply have the task's id as `message_id`, which keeps them in order on their way to the broker.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use executors::{Listening, Report, Reported, Reports};
use futures::FutureExt;
use protocol::{Envelope, IndexedItem, Partial, Progress, ProgressMessage, Task, Token, envelope::Headers, progress::PROGRESS_TYPE};
use task_queue::{Link, Outgoing, PublishError, Target};
use task_store::{ProgressAnswer, ProgressRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::items::ItemsSoFar;
use crate::{context::Context, delivery::InHand};

/// The pause after a message: a person sees text flow, and a task sends at most 20 messages a second.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest wait for the confirm of one message. It bounds how long the reply may wait for the last one.
const CONFIRM: Duration = Duration::from_secs(1);
/// How long a message is worth reading: a reply queue that nobody reads does not fill up with them.
const WORTH_READING: Duration = Duration::from_secs(60);

/// Hands on the reports of one attempt.
pub(crate) struct Relay<'a> {
    context: &'a Context,
    task: &'a Task,
    token: Token,
    address: Option<Address>,
    /// `None`: the task has a payload.
    items: Option<ItemsSoFar>,
    ended: CancellationToken,
    /// The store refused: a later holder speaks for the task now.
    late: CancellationToken,
}

/// Where the producer wants its progress messages.
struct Address {
    reply_to: String,
    correlation_id: String,
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Address {
    /// `None`: the producer did not ask, and would take a message for its reply.
    fn of(task: &Task, in_hand: &InHand) -> Option<Self> {
        let envelope = &in_hand.envelope;
        let reply_to = envelope.reply_to.clone().filter(|name| envelope.headers.progress && !name.is_empty())?;
        let correlation_id = envelope.correlation_id.clone().unwrap_or_else(|| task.id.batch().to_string());
        let Headers { traceparent, tracestate, .. } = &envelope.headers;
        Some(Self { reply_to, correlation_id, traceparent: traceparent.clone(), tracestate: tracestate.clone() })
    }
}

/// What became of a message.
#[derive(PartialEq, Eq)]
enum Sent {
    Confirmed,
    Dropped,
    /// Nobody is there to take any.
    NoQueue,
}

impl<'a> Relay<'a> {
    /// A relay for the attempt under `token`.
    pub(crate) fn new(context: &'a Context, task: &'a Task, in_hand: &InHand, token: Token) -> Self {
        let address = Address::of(task, in_hand);
        let items = ItemsSoFar::of(task, address.is_some());
        Self { context, task, token, address, items, ended: CancellationToken::new(), late: CancellationToken::new() }
    }

    /// Where the task's items tell how far they are; `None` if it has none.
    pub(crate) const fn items(&self) -> Option<&ItemsSoFar> {
        self.items.as_ref()
    }

    /// What the executor reports through, and what [`run`](Self::run) listens to.
    pub(crate) fn reports(&self) -> (Report, Reports) {
        Report::new(if self.address.is_some() { Listening::ToPartialsToo } else { Listening::ToProgress })
    }

    /// Hands reports on until the attempt [ended](Self::finish).
    pub(crate) async fn run(&self, reports: Reports) {
        // Store and producer see each progress, whether or not the other has.
        tokio::join!(self.note(reports.progress.clone()), async {
            tokio::select! {
                biased;
                () = self.late.cancelled() => {}
                () = self.send(reports) => {}
            }
        });
    }

    /// The attempt ended: sends what it said last, so that the reply comes after it. `running` is what [`run`](Self::run) gave.
    pub(crate) async fn finish(&self, running: Pin<&mut impl Future<Output = ()>>) {
        self.ended.cancel();
        if tokio::time::timeout(2 * CONFIRM, running).await.is_err() {
            self.context.metrics.progress("dropped");
        }
    }

    /// Notes progress in the store, the last report of each interval.
    async fn note(&self, mut reported: watch::Receiver<Reported>) {
        let noting = async {
            while reported.changed().await.is_ok() {
                let Reported { fraction, message } = reported.borrow_and_update().clone();
                let items = self.items().map(ItemsSoFar::own);
                let request = ProgressRequest { task_id: self.task.id.clone(), token: self.token, fraction, message, items };
                match self.context.ports.store.progress(&request).await {
                    Ok(ProgressAnswer::Noted(counts)) => {
                        self.context.metrics.progress("noted");
                        if let (Some(items), Some(counts)) = (self.items(), counts) {
                            items.batch_is_at(counts);
                        }
                    }
                    Ok(ProgressAnswer::Refused) => {
                        self.context.metrics.progress("refused");
                        self.late.cancel();
                        tracing::debug!(task_id = %self.task.id, "progress refused: a later holder began, or the task ended");
                        return;
                    }
                    Err(error) => tracing::debug!(task_id = %self.task.id, %error, "progress not noted; the next one may be"),
                }
                tokio::time::sleep(self.context.me.options.progress_every).await;
            }
        };
        tokio::select! {
            biased;
            () = self.ended.cancelled() => {}
            () = noting => {}
        }
    }

    /// Sends messages to the producer that asked, and one last when the attempt ended.
    async fn send(&self, reports: Reports) {
        let Some(address) = &self.address else { return };
        let mut link = self.context.ports.queue.link();
        let mut outbox = Outbox { reports, progressed: false, number: 0 };
        loop {
            tokio::select! {
                biased;
                () = self.ended.cancelled() => break,
                () = outbox.sendable(&mut link, self.items()) => {}
            }
            let Some(message) = self.message(&mut outbox) else { continue };
            if self.publish(address, &message).await == Sent::NoQueue {
                return;
            }
            tokio::select! {
                biased;
                () = self.ended.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        let Some(last) = self.message(&mut outbox) else { return };
        if *link.borrow() == Link::Up {
            self.publish(address, &last).await;
        } else {
            self.context.metrics.progress("dropped");
        }
    }

    /// What is new; `None` if nothing is.
    fn message(&self, outbox: &mut Outbox) -> Option<ProgressMessage> {
        let (reported, partials) = outbox.take();
        let at_ms = self.context.ports.now_ms();
        let progress = reported.map(|Reported { fraction, message }| Progress { fraction, message, at_ms });
        let results: Vec<IndexedItem> = self.items().map(ItemsSoFar::take).unwrap_or_default();
        if progress.is_none() && partials.is_empty() && results.is_empty() {
            return None;
        }
        outbox.number += 1;
        Some(ProgressMessage {
            task_id: self.task.id.batch(),
            attempt: self.task.attempt,
            token: self.token,
            number: outbox.number,
            slice: self.task.slice(),
            items: self.items().and_then(ItemsSoFar::of_batch),
            results,
            progress,
            partials,
        })
    }

    async fn publish(&self, address: &Address, message: &ProgressMessage) -> Sent {
        let headers = Headers {
            traceparent: address.traceparent.clone(),
            tracestate: address.tracestate.clone(),
            attempt: Some(message.attempt),
            token: Some(message.token.0),
            ..Headers::default()
        };
        let mut envelope = Envelope {
            message_id: Some(message.task_id.to_string()),
            kind: Some(PROGRESS_TYPE.to_owned()),
            correlation_id: Some(address.correlation_id.clone()),
            content_type: Some("application/json".to_owned()),
            timestamp: Some(self.context.ports.now_ms() / 1_000),
            headers,
            ..Envelope::default()
        };
        envelope.expires_in(WORTH_READING);
        let body = Bytes::from(serde_json::to_vec(message).expect("a message has string keys only"));
        let outgoing = Outgoing::new(Target::ReplyTo(address.reply_to.clone()), envelope, body).transient(CONFIRM);
        let sent = match self.context.ports.queue.publish(outgoing).await {
            Ok(()) => Sent::Confirmed,
            Err(PublishError::Unroutable { .. }) => Sent::NoQueue,
            Err(error) => {
                tracing::debug!(task_id = %message.task_id, number = message.number, %error, "a progress message is dropped");
                Sent::Dropped
            }
        };
        self.context.metrics.progress(if sent == Sent::Confirmed { "sent" } else { "dropped" });
        sent
    }
}

/// What waits to be sent.
struct Outbox {
    reports: Reports,
    /// Progress was seen to change, and was not taken yet.
    progressed: bool,
    /// The number of the last message.
    number: u64,
}

impl Outbox {
    /// Waits until there is something to say and the broker takes it. Cancel safe.
    async fn sendable(&mut self, link: &mut watch::Receiver<Link>, items: Option<&ItemsSoFar>) {
        let Reports { progress, partials } = &mut self.reports;
        if !self.progressed {
            tokio::select! {
                biased;
                () = changed(progress) => self.progressed = true,
                () = partials.arrived() => {}
                () = items_arrived(items) => {}
            }
        }
        if link.wait_for(|link| *link == Link::Up).await.is_err() {
            // The queue is closed for good.
            std::future::pending::<()>().await;
        }
    }

    fn take(&mut self) -> (Option<Reported>, Vec<Partial>) {
        self.progressed |= matches!(self.reports.progress.changed().now_or_never(), Some(Ok(())));
        let reported = std::mem::take(&mut self.progressed).then(|| self.reports.progress.borrow_and_update().clone());
        (reported, self.reports.partials.take())
    }
}

/// Waits for results of items; for ever where there are no items. Cancel safe.
async fn items_arrived(items: Option<&ItemsSoFar>) {
    match items {
        Some(items) => items.arrived().await,
        None => std::future::pending().await,
    }
}

/// Waits for another progress; for ever once nobody can report any. Cancel safe.
async fn changed(progress: &mut watch::Receiver<Reported>) {
    if progress.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
