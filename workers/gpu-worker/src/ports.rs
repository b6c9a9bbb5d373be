//! Queue, table and store as a worker uses them: tried again while they are away, bounded by the worker's stop.
//!
//! The one place that knows what is transient and how long to pause. What no retry mends is logged here, and the delivery it was for is abandoned.

mod groups;
mod times;

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use gpu_table::{GpuTable, Seen, TableError};
use protocol::{ClaimAnswer, ClaimRequest, Environment, GpuId, PoolName, Slice, TaskId, Token, gpu::GpuView};
use task_queue::{Outgoing, PublishError, Queue, QueueError, Target, TaskQueue};
use task_store::{
    Begin, BeginRequest, DelayRequest, Fence, FenceRequest, KnownGpu, Look, LookRequest, Record, RecordRequest, RetryAnswer, RetryRequest,
    SliceRecord, SliceRecordRequest, SplitAnswer, SplitRequest, StoreError, TaskStore,
};

use tokio::time::Instant;

pub(crate) use self::times::Times;
use crate::{delivery::Identity, outage::Outage, worker::Stop};

/// How long a stopping worker may take to note that an attempt was handed back.
pub(crate) const HAND_BACK: Duration = Duration::from_secs(2);

/// The delivery is left unacked, and the broker will deliver it again: the worker stops at once, or an operation failed in a way that no retry mends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// Pauses that grow from 50 ms to 5 s, each shortened by up to half at random.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST_MS: u64 = 50;
    const LONGEST_MS: u64 = 5_000;

    /// The next pause.
    pub(crate) fn next(&mut self, environment: &Environment) -> Duration {
        let full = Self::FIRST_MS.saturating_mul(1 << self.failures.min(10)).min(Self::LONGEST_MS);
        self.failures += 1;
        Duration::from_millis(full).mul_f64(0.5 + environment.random.unit() / 2.0)
    }
}

/// A server that a worker depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Broker,
    Table,
    Store,
}

/// The outages of the links, for the log.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    broker: Outage,
    table: Outage,
    store: Outage,
}

impl Outages {
    const fn of(&self, link: Link) -> (&Outage, &'static str) {
        match link {
            Link::Broker => (&self.broker, "broker"),
            Link::Table => (&self.table, "table"),
            Link::Store => (&self.store, "store"),
        }
    }
}

/// Errors that say whether a later retry can succeed.
pub(crate) trait Transience: Display {
    /// What was asked.
    const LINK: Link;

    fn is_transient(&self) -> bool;
}

macro_rules! transience {
    ($($error:ty => $link:expr),+) => {
        $(impl Transience for $error {
            const LINK: Link = $link;

            fn is_transient(&self) -> bool {
                Self::is_transient(self)
            }
        })+
    };
}

transience!(TableError => Link::Table, StoreError => Link::Store, QueueError => Link::Broker, PublishError => Link::Broker);

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is there, confirmed.
    There,
    /// No such queue, or none that can be reached now; of a [`Ports::publish_unless_full`] also: one that is full.
    NoQueue(PublishError),
    /// The message cannot be sent at all.
    Unsendable(PublishError),
}

/// The ports of one worker, with what every call needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) table: Arc<dyn GpuTable>,
    pub(crate) store: Arc<dyn TaskStore>,
    pub(crate) environment: Environment,
    pub(crate) stop: Stop,
    pub(crate) outages: Arc<Outages>,
    /// How long the servers take to answer.
    pub(crate) times: Arc<Times>,
}

impl Ports {
    /// Unix time in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.environment.clock.now_ms()
    }

    /// Sleeps, unless the worker stops at once.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<(), Abandoned> {
        tokio::select! {
            biased;
            () = self.stop.now.cancelled() => Err(Abandoned),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Says that an operation will be tried again: once for each outage of its link, at `debug` all else.
    pub(crate) fn tried_again<E: Transience>(&self, error: &E, pause: Duration) {
        let (outage, link) = self.outages.of(E::LINK);
        if outage.failed(self.now_ms()) {
            tracing::warn!(link, %error, "a server does not answer as it should: everything that needs it is tried again until it does");
        } else {
            tracing::debug!(link, %error, pause_ms = millis(pause), "will try again");
        }
    }

    /// Takes note that a link answers, be it with a refusal.
    pub(crate) fn answered(&self, link: Link) {
        let (outage, link) = self.outages.of(link);
        if outage.is_on()
            && let Some(over) = outage.ended(self.now_ms())
        {
            tracing::info!(link, failures = over.failures, lasted_ms = over.lasted_ms, "the server answers again");
        }
    }

    /// Repeats `operation` while it fails transiently. An error that no retry mends is given back; a stop at once abandons.
    async fn try_until_settled<T, E, F>(&self, mut operation: impl FnMut() -> F) -> Result<Tried<T, E>, Abandoned>
    where
        E: Transience,
        F: Future<Output = Result<T, E>>,
    {
        let mut backoff = Backoff::default();
        loop {
            let result = tokio::select! {
                biased;
                () = self.stop.now.cancelled() => return Err(Abandoned),
                result = operation() => result,
            };
            let settled = match result {
                Ok(done) => Tried::Done(done),
                Err(error) if error.is_transient() => {
                    let pause = backoff.next(&self.environment);
                    self.tried_again(&error, pause);
                    self.pause(pause).await?;
                    continue;
                }
                Err(error) => Tried::Failed(error),
            };
            self.answered(E::LINK);
            return Ok(settled);
        }
    }

    /// As [`Ports::try_until_settled`]; an error that no retry mends is logged with the task that it is about, and the delivery is abandoned.
    async fn insist<T, E, F>(&self, task_id: Option<&TaskId>, operation: impl FnMut() -> F) -> Result<T, Abandoned>
    where
        E: Transience,
        F: Future<Output = Result<T, E>>,
    {
        let mut operation = operation;
        let timed = || {
            let asked = Instant::now();
            let answering = operation();
            async move {
                let answer = answering.await;
                self.times.answered(E::LINK, asked.elapsed(), answer.is_ok());
                answer
            }
        };
        match self.try_until_settled(timed).await? {
            Tried::Done(done) => Ok(done),
            Tried::Failed(error) => {
                let task_id = task_id.map(TaskId::as_str);
                tracing::error!(task_id, %error, "no retry mends this: the delivery stays unacked");
                Err(Abandoned)
            }
        }
    }

    /// Claims a slot, and begins the attempt in the same trip where table and store are one server. The claim's answer, and the beginning's if it came to one.
    pub(crate) async fn claim(
        &self,
        request: &ClaimRequest,
        begin: Option<&BeginRequest>,
    ) -> Result<(ClaimAnswer, Option<Begin>), Abandoned> {
        let rider = begin.and_then(|begin| self.store.begin_rider(begin));
        let (answer, ridden) = self.insist(Some(&request.task_id), || self.table.claim_with(request, rider.as_ref())).await?;
        let (Some(begin), Some(ridden)) = (begin, ridden) else { return Ok((answer, None)) };
        let begun = self.store.begin_ridden(&begin.task_id, ridden).await;
        // The beginning is asked for once more, and says the same again if it had happened.
        let begun = begun.inspect_err(|error| tracing::debug!(task_id = %begin.task_id, %error, "did not begin with the claim")).ok();
        Ok((answer, begun))
    }

    /// Notes that this worker stops before the attempt has ended, or does not run it: it is nobody's crash.
    pub(crate) async fn hand_back(&self, task_id: &TaskId, token: Token) {
        match tokio::time::timeout(HAND_BACK, self.store.hand_back(task_id, token)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%task_id, %error, "not noted as handed back: it will count as a crash"),
            Err(_) => tracing::warn!(%task_id, "not noted as handed back in time: it will count as a crash"),
        }
    }

    pub(crate) async fn steady(&self, pool: &PoolName) -> Result<Duration, Abandoned> {
        self.insist(None, || self.table.steady(pool)).await
    }

    pub(crate) async fn rows(&self, pool: &PoolName) -> Result<Vec<GpuView>, Abandoned> {
        self.insist(None, || self.table.rows(pool)).await
    }

    pub(crate) async fn seen(&self, pool: &PoolName, gpu_id: &GpuId) -> Result<Seen, Abandoned> {
        self.insist(None, || self.table.seen(pool, gpu_id)).await
    }

    /// What the store knows of a task, before anything is done with its delivery.
    pub(crate) async fn look(&self, identity: &Identity) -> Result<Look, Abandoned> {
        let request = looking(identity);
        self.insist(Some(&identity.task_id), || self.store.look(&request)).await
    }

    /// The same; what it says of a task that ended may lack the reply.
    pub(crate) async fn look_briefly(&self, identity: &Identity) -> Result<Look, Abandoned> {
        let request = looking(identity);
        self.insist(Some(&identity.task_id), || self.store.look_briefly(&request)).await
    }

    pub(crate) async fn begin(&self, request: &BeginRequest) -> Result<Begin, Abandoned> {
        self.insist(Some(&request.task_id), || self.store.begin(request)).await
    }

    pub(crate) async fn fence(&self, request: &FenceRequest) -> Result<Fence, Abandoned> {
        self.insist(Some(&request.task_id), || self.store.fence(request)).await
    }

    pub(crate) async fn record(&self, request: &RecordRequest) -> Result<Record, Abandoned> {
        self.insist(Some(&request.task_id), || self.store.record(request)).await
    }

    pub(crate) async fn split(&self, request: &SplitRequest) -> Result<SplitAnswer, Abandoned> {
        self.insist(Some(&request.task_id), || self.store.split(request)).await
    }

    pub(crate) async fn record_slice(&self, request: &SliceRecordRequest) -> Result<SliceRecord, Abandoned> {
        self.insist(Some(&request.task_id), || self.store.record_slice(request)).await
    }

    /// The results of slices of a batch that have items from `from` on.
    pub(crate) async fn slice_results(&self, batch: &TaskId, from: u32, bytes_max: usize) -> Result<Vec<(Slice, Bytes)>, Abandoned> {
        self.insist(Some(batch), || self.store.slice_results(batch, from, bytes_max)).await
    }

    pub(crate) async fn record_retry(&self, request: &RetryRequest) -> Result<RetryAnswer, Abandoned> {
        self.insist(Some(&request.task_id), || self.store.retry(request)).await
    }

    /// Notes that a task must not begin before a time.
    pub(crate) async fn note_delayed(&self, request: &DelayRequest) -> Result<(), Abandoned> {
        self.insist(Some(&request.task_id), || self.store.delayed(request)).await
    }

    pub(crate) async fn announced(&self) -> Result<Vec<KnownGpu>, Abandoned> {
        self.insist(None, || self.store.announced()).await
    }

    /// Whether a cancel was asked for. An error is a no: it is asked again.
    pub(crate) async fn cancel_asked(&self, task_id: &TaskId) -> bool {
        self.store.cancel_asked(task_id).await.unwrap_or_else(|error| {
            tracing::debug!(%task_id, %error, "not known whether it is cancelled; asks again");
            false
        })
    }

    /// Publishes, trying again while the broker is away or blocked. Not while only this one queue cannot be reached: there are others.
    pub(crate) async fn publish(&self, outgoing: &Outgoing) -> Result<Sent, Abandoned> {
        let publish = async || match self.confirmed(outgoing).await {
            Ok(()) => Ok(Sent::There),
            Err(error @ (PublishError::Unroutable { .. } | PublishError::Inaccessible { .. })) => Ok(Sent::NoQueue(error)),
            Err(error) => Err(error),
        };
        Ok(match self.try_until_settled(publish).await? {
            Tried::Done(sent) => sent,
            Tried::Failed(error) => {
                tracing::error!(task_id = outgoing.envelope.message_id.as_deref(), %error, "cannot be sent");
                Sent::Unsendable(error)
            }
        })
    }

    /// Publishes once, and takes note of how long the confirm took.
    async fn confirmed(&self, outgoing: &Outgoing) -> Result<(), PublishError> {
        let asked = Instant::now();
        let answer = self.queue.publish(outgoing.clone()).await;
        self.times.answered(Link::Broker, asked.elapsed(), answer.is_ok());
        answer
    }

    /// As [`Ports::publish`], for a hand that others wait for: a queue that is full is not waited for either.
    pub(crate) async fn publish_unless_full(&self, outgoing: &Outgoing) -> Result<Sent, Abandoned> {
        let passes = |error: &PublishError| error.is_of_the_broker() || matches!(error, PublishError::Timeout { .. });
        Ok(match self.publish_while(passes, outgoing).await? {
            Ok(()) => Sent::There,
            Err(error) if error.is_transient() || matches!(error, PublishError::Unroutable { .. }) => Sent::NoQueue(error),
            Err(error) => {
                tracing::error!(task_id = outgoing.envelope.message_id.as_deref(), %error, "cannot be sent");
                Sent::Unsendable(error)
            }
        })
    }

    /// Publishes, trying again while it fails in a way that `passes`, which must be transient; any other error is given back.
    pub(crate) async fn publish_while(
        &self,
        passes: fn(&PublishError) -> bool,
        outgoing: &Outgoing,
    ) -> Result<Result<(), PublishError>, Abandoned> {
        let publish = async || match self.confirmed(outgoing).await {
            Err(error) if passes(&error) => Err(error),
            done => Ok(done),
        };
        Ok(match self.try_until_settled(publish).await? {
            Tried::Done(done) => done,
            Tried::Failed(error) => Err(error),
        })
    }

    /// Publishes and does not give up: where its queue is gone or takes no such message, somebody must look, and nothing may be acked until then.
    pub(crate) async fn publish_surely(&self, outgoing: &Outgoing, pause: Duration) -> Result<(), Abandoned> {
        let mut told = false;
        loop {
            let error = match self.publish(outgoing).await? {
                Sent::There => return Ok(()),
                Sent::NoQueue(error) | Sent::Unsendable(error) => error,
            };
            let (queue, task_id) = (&outgoing.target, outgoing.envelope.message_id.as_deref());
            // A queue that was deleted has been declared again by now: this one exists and cannot be reached, or the broker lets nobody declare it, or forbids the publish.
            if std::mem::replace(&mut told, true) {
                tracing::debug!(%queue, task_id, %error, "still takes no message");
            } else {
                tracing::error!(%queue, task_id, %error, "a queue of the fleet takes no message, and nothing is acked until it does: start the broker's node that has it, or mend what the broker says; tried again after each lease");
            }
            self.pause(pause).await?;
        }
    }

    /// Keeps a message among the dead letters.
    pub(crate) async fn bury(&self, envelope: protocol::Envelope, body: bytes::Bytes, pause: Duration) -> Result<(), Abandoned> {
        self.publish_surely(&Outgoing::new(Target::Queue(Queue::Dead), envelope, body), pause).await
    }
}

fn looking(identity: &Identity) -> LookRequest {
    let Identity { task_id, body_hash, attempt, published_s, .. } = identity;
    LookRequest { task_id: task_id.clone(), body_hash: body_hash.clone(), attempt: *attempt, published_s: *published_s }
}

/// Whole milliseconds, at most as many as a number holds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How an operation came out that was repeated while it failed transiently.
enum Tried<T, E> {
    Done(T),
    Failed(E),
}
