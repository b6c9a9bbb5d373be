//! Replies on their way to the queues that their tasks named.
//!
//! Such a queue is somebody else's, and its trouble must hold up nobody. A reply that is not taken now (its queue is full, cannot be reached or does not confirm) waits in a
//! queue of the fleet, confirmed and with its address, and some worker holds it there and tries again. One whose queue is gone, or takes none for too long, is parked where an
//! operator finds it; so is one for which the waiting queue has no room. Waited for are only a broker that is away or blocked as a whole, and the fleet's own queues. The stored
//! reply remains in any case.

mod refusing;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use protocol::{Envelope, ErrorCode, PoolName, Reply, envelope::Headers};
use task_queue::{Outgoing, PublishError, Queue, Target};
use tokio::time::Instant;

use self::refusing::{Refusing, Try, Why};
use crate::{
    delivery::due,
    metrics::GpuMetrics,
    options::WorkerOptions,
    ports::{Abandoned, Ports},
    steps,
};

/// Sends replies.
pub(crate) struct Replies {
    ports: Ports,
    metrics: Arc<GpuMetrics>,
    pool: PoolName,
    /// How long a reply is tried again.
    tried_for: Duration,
    refusing: Mutex<Refusing>,
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Became {
    /// Its queue has it.
    Taken,
    /// It waits for another try.
    PutAside,
    /// Nobody takes it.
    Parked,
}

/// A reply on its way.
struct Addressed {
    /// For the queue that its task named, with the properties that its reader is to see.
    outgoing: Outgoing,
    first_try_ms: u64,
}

/// A reply that its queue did not take.
enum Untaken {
    Now(Why),
    Ever(PublishError),
}

impl Replies {
    pub(crate) fn new(ports: Ports, metrics: Arc<GpuMetrics>, options: &WorkerOptions) -> Self {
        let (pool, tried_for) = (options.pool.clone(), options.reply_tried_for);
        Self { ports, metrics, pool, tried_for, refusing: Mutex::default() }
    }

    /// Sends a reply for the first time. When this returns, it is safe wherever it is.
    pub(crate) async fn send(&self, address: String, envelope: Envelope, body: Bytes) -> Result<Became, Abandoned> {
        let reply = Addressed::new(address, self.ports.now_ms(), envelope, body);
        match self.try_once(&reply, Try::First).await? {
            Ok(()) => Ok(Became::Taken),
            Err(Untaken::Now(why)) => {
                self.metrics.reply_put_aside(why.name());
                let task_id = reply.task_id().map(str::to_owned);
                let became = self.put_aside(reply).await?;
                if became == Became::PutAside {
                    steps::reply_waits(&self.ports, &self.pool, task_id.as_deref(), why.waits());
                }
                Ok(became)
            }
            Err(Untaken::Ever(error)) => self.park(reply, &error.to_string()).await,
        }
    }

    /// Tries a reply again that has waited. When this returns, it is safe wherever it is.
    pub(crate) async fn send_again(&self, envelope: Envelope, body: Bytes) -> Result<(), Abandoned> {
        let became = self.again(self.waited(envelope, body)).await?;
        if became == Became::Taken {
            self.metrics.replies_delivered_late.inc();
        }
        Ok(())
    }

    /// A reply that has waited, as its reader is to see it.
    fn waited(&self, mut envelope: Envelope, body: Bytes) -> Addressed {
        let (address, first_try_ms) = (envelope.headers.reply_to.take(), envelope.headers.first_try_ms.take());
        envelope.headers.due_ms = None;
        envelope.headers.invalid.clear();
        envelope.user_id = None;
        // Only a message that no worker wrote has none.
        envelope.message_id.get_or_insert_with(|| self.ports.environment.fresh_task_id().to_string());
        let first_try_ms = first_try_ms.unwrap_or_else(|| self.ports.now_ms());
        Addressed::new(address.unwrap_or_default(), first_try_ms, envelope, body)
    }

    async fn again(&self, reply: Addressed) -> Result<Became, Abandoned> {
        if reply.address().is_empty() {
            return self.park(reply, "it names no queue: the header x-gpufleet-reply-to is missing").await;
        }
        if self.age(&reply) >= self.tried_for {
            let reason = format!("its queue {} took no reply for {} s", reply.address(), self.tried_for.as_secs());
            return self.park(reply, &reason).await;
        }
        match self.try_once(&reply, Try::Again).await? {
            Ok(()) => Ok(Became::Taken),
            Err(Untaken::Now(_)) => self.put_aside(reply).await,
            Err(Untaken::Ever(error)) => self.park(reply, &error.to_string()).await,
        }
    }

    fn age(&self, reply: &Addressed) -> Duration {
        Duration::from_millis(self.ports.now_ms().saturating_sub(reply.first_try_ms))
    }

    /// Publishes a reply to its queue, unless that is better left alone now.
    async fn try_once(&self, reply: &Addressed, which: Try) -> Result<Result<(), Untaken>, Abandoned> {
        let left_alone = self.refusing().leaves_alone(reply.address(), which, Instant::now());
        if let Some(why) = left_alone {
            return Ok(Err(Untaken::Now(why)));
        }
        let Err(error) = self.ports.publish_while(PublishError::is_of_the_broker, &reply.outgoing).await? else {
            self.took(reply.address());
            return Ok(Ok(()));
        };
        let why = Why::of(&error);
        match why {
            Some(why) => self.refused(reply.address(), why, &error),
            None => tracing::error!(task_id = reply.task_id(), %error, "the reply cannot be sent"),
        }
        Ok(Err(match why {
            None | Some(Why::Gone) => Untaken::Ever(error),
            Some(why) => Untaken::Now(why),
        }))
    }

    /// Lets a reply wait for another try. The first wait is short, and so is every one for a queue that is just being emptied.
    async fn put_aside(&self, reply: Addressed) -> Result<Became, Abandoned> {
        let lately = self.refusing().took_lately(reply.address(), Instant::now());
        let tried = if lately { Duration::ZERO } else { self.age(&reply) };
        let queue = Queue::undelivered_for(tried);
        let (delay, mut waiting) = (queue.delay().unwrap_or_default(), reply.for_queue(queue.clone()));
        due::waits(&mut waiting, queue, delay, self.ports.now_ms());
        let name = self.ports.queue.names().target(&waiting.target);
        // It may only refuse because it is full: until it can be reached nothing is safe. One that is gone is declared again by the publish itself.
        let passes = |error: &PublishError| error.is_transient() && !matches!(error, PublishError::Full { .. });
        match self.ports.publish_while(passes, &waiting).await? {
            Ok(()) => {
                self.took(&name);
                Ok(Became::PutAside)
            }
            Err(error) => {
                let why = Why::of(&error).unwrap_or(Why::Full);
                if self.refusing().refused(&name, why, Instant::now()) {
                    tracing::warn!(queue = name, %error, "replies cannot wait here; they are parked");
                }
                self.park(reply, &error.to_string()).await
            }
        }
    }

    /// Keeps a reply that nobody takes where an operator can find it.
    async fn park(&self, mut reply: Addressed, reason: &str) -> Result<Became, Abandoned> {
        self.metrics.replies_returned.inc();
        tracing::debug!(task_id = reply.task_id(), address = reply.address(), reason, "a reply is parked, and stays in the store");
        let envelope = &mut reply.outgoing.envelope;
        // A text that is too long for a property was why it could not be sent.
        envelope.correlation_id = envelope.correlation_id.take().filter(|text| text.len() <= Outgoing::SHORT_TEXT_MAX);
        envelope.headers.reason = Some(reason.chars().take(Headers::TEXT_MAX / 4).collect());
        if let Err(error) = self.publish_parked(&reply.for_queue(Queue::Parked)).await? {
            self.metrics.replies_not_parked.inc();
            let (task_id, address) = (reply.task_id(), reply.address());
            if is_stored(&reply.outgoing.body) {
                tracing::warn!(task_id, address, reason, %error, "a reply could not be parked; only the store has it");
            } else {
                tracing::error!(task_id, address, reason, %error, "a reply could not be parked, and the store does not have it: it is lost");
            }
        } else {
            steps::reply_waits(&self.ports, &self.pool, reply.task_id(), &format!("parked: {reason}"));
        }
        Ok(Became::Parked)
    }

    /// Nobody waits for it: a queue of parked replies that cannot be reached or is full is not waited for. That there was no confirm may have been the whole broker's
    /// trouble, so it is tried once more; each further try could leave another copy.
    async fn publish_parked(&self, parked: &Outgoing) -> Result<Result<(), PublishError>, Abandoned> {
        match self.ports.publish_while(PublishError::is_of_the_broker, parked).await? {
            Err(PublishError::Timeout { .. }) => self.ports.publish_while(PublishError::is_of_the_broker, parked).await,
            done => Ok(done),
        }
    }

    fn refused(&self, queue: &str, why: Why, error: &PublishError) {
        if self.refusing().refused(queue, why, Instant::now()) {
            match why {
                Why::Gone => tracing::info!(queue, %error, "a queue for replies is gone; its replies are parked, and stay in the store"),
                _ => tracing::warn!(queue, reason = why.name(), %error, "a queue takes no replies; they wait, and are tried again"),
            }
        }
    }

    fn took(&self, queue: &str) {
        if self.refusing().took(queue, Instant::now()) {
            tracing::info!(queue, "the queue takes replies again");
        }
    }

    fn refusing(&self) -> MutexGuard<'_, Refusing> {
        // Nothing panics while it holds this lock, so a poisoned state is a whole one.
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the store has a reply: all but those to a task whose id belongs to another one, and what is no reply.
fn is_stored(body: &Bytes) -> bool {
    Reply::read(body).is_ok_and(|reply| reply.error.is_none_or(|error| error.code != ErrorCode::ReusedId.name()))
}

impl Addressed {
    fn new(address: String, first_try_ms: u64, envelope: Envelope, body: Bytes) -> Self {
        Self { outgoing: Outgoing::new(Target::ReplyTo(address), envelope, body), first_try_ms }
    }

    /// The queue that its task named; empty where somebody's message has none.
    fn address(&self) -> &str {
        match &self.outgoing.target {
            Target::ReplyTo(address) => address,
            Target::Queue(_) => "",
        }
    }

    fn task_id(&self) -> Option<&str> {
        self.outgoing.envelope.message_id.as_deref()
    }

    /// The reply for a queue of the fleet, with its address.
    fn for_queue(&self, queue: Queue) -> Outgoing {
        let mut envelope = self.outgoing.envelope.clone();
        envelope.headers.reply_to = Some(self.address().to_owned()).filter(|address| !address.is_empty());
        envelope.headers.first_try_ms = Some(self.first_try_ms);
        Outgoing::new(Target::Queue(queue), envelope, self.outgoing.body.clone())
    }
}
