//! The queue on RabbitMQ (AMQP 0-9-1).
//!
//! Two connections: one consumes, acks and declares, one publishes, because a broker that blocks publishers stops reading from a connection that
//! publishes, and acks must go on. A third one is opened at the first direct reply, because a bad reply address ends its connection. Each is kept by its own [`line`]; the client library's automatic recovery is never used, since it does not
//! restore the bound on unacked deliveries. Consumers live in [`subscription`], publishes in
//! [`lane`]. Messages that the client library cannot read pass a [`screen`] first.

mod backoff;
mod dialling;
mod failure;
mod greeting;
mod inspect;
mod lane;
mod line;
mod part;
mod properties;
mod publisher;
mod receipt;
mod restored;
mod screen;
mod settling;
mod spare;
mod subscription;
mod topology;

use std::{fmt, num::NonZeroU16, sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{
    Channel,
    options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use protocol::config::{QueueType, SecretUrl};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    backoff::Backoff,
    failure::Failure,
    line::{Dialer, Keeper, Kept, Line},
    publisher::Publisher,
    receipt::{TakeChannel, TakeChannels, TakenReceipt},
    restored::Restored,
    subscription::{Declare, Subscription, Wish, Wishes},
    topology::{Topology, short},
};
pub use self::{
    greeting::{Greeting, greeting},
    inspect::Presence,
};
use crate::{Consumer, Delivery, Depth, Inbox, Link, Names, Outgoing, PublishError, Queue, QueueError, QueueOptions, Target, TaskQueue};

/// Longest wait in [`TaskQueue::close`] for consumers and connections to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// How often a queue that cannot be reached is declared, in less than half a second. A longer wait is the caller's.
const DECLARATIONS: usize = 4;

/// A process's two connections to RabbitMQ. Dropped, they are closed in the background; what is unacked goes back.
pub struct RabbitMq {
    dialer: Dialer,
    topology: Arc<Topology>,
    restored: Restored,
    consuming: Line,
    publisher: Publisher,
    take_channels: Arc<TakeChannels>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl RabbitMq {
    /// Connects, once: a broker that is away is an error here, and is waited for only after the first connection.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`] (transient), [`QueueError::NotAdmitted`] for a wrong login, a wrong virtual host or a port without AMQP, or
    /// [`QueueError::Refused`] for a wrong URL.
    pub async fn connect(url: &SecretUrl, options: QueueOptions) -> Result<Self, QueueError> {
        let dialer = Dialer::new(url)?;
        let (consuming, publishing) = tokio::try_join!(dialer.dial("consume"), dialer.dial("publish"))?;
        let timeout = options.publish_timeout;
        let topology = Arc::new(Topology::new(options));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let keeper = |name, topology| Keeper { name, dialer: dialer.clone(), topology, stop: stop.clone() };
        let (consuming, life) = keeper("consume", Some(topology.clone())).keep(consuming);
        tasks.spawn(life);
        let (publishing, life) = keeper("publish", None).keep(publishing);
        tasks.spawn(life);
        let publisher = Publisher::start(&publishing, dialer.clone(), timeout, stop.clone(), tasks.clone());
        let (restored, take_channels) = Default::default();
        Ok(Self { dialer, topology, restored, consuming, publisher, take_channels, tasks, stop })
    }

    fn url(&self) -> &str {
        &self.dialer.url
    }

    fn topology(&self) -> &Topology {
        &self.topology
    }

    fn unreachable(&self, reason: impl Into<String>) -> QueueError {
        QueueError::Unreachable { url: self.url().to_owned(), reason: reason.into() }
    }

    /// The consuming connection.
    fn connection(&self) -> Result<Arc<Kept>, QueueError> {
        if self.stop.is_cancelled() {
            return Err(QueueError::Closed);
        }
        let connection = self.consuming.connection.borrow().clone();
        connection.ok_or_else(|| self.unreachable("reconnecting"))
    }

    /// A new channel on the consuming connection.
    async fn open_channel(&self) -> Result<Channel, QueueError> {
        let connection = self.connection()?;
        let opened = tokio::time::timeout(self.topology.options.publish_timeout, connection.create_channel()).await;
        opened.map_err(|_| self.unreachable("no answer in time"))?.map_err(|error| self.unreachable(error.to_string()))
    }

    /// Declares a queue; a few times if it cannot be reached, because the broker may say so to who declares a queue that another client is just
    /// creating.
    async fn declare_one(&self, queue: &Queue) -> Result<Result<(), Failure>, QueueError> {
        let mut backoff = Backoff::new();
        let mut left = DECLARATIONS;
        loop {
            left -= 1;
            let connection = self.connection()?;
            match self.in_time(self.topology.declare(&connection, queue)).await {
                Err(Failure::Inaccessible(reason)) if left > 0 => tracing::debug!(%queue, reason, "will declare it again"),
                declared => return Ok(declared),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Declares queues in this order.
    async fn declare_in_order(&self, queues: &[Queue]) -> Result<(), QueueError> {
        for queue in queues {
            let declared = self.declare_one(queue).await?;
            declared.map_err(|failure| failure.into_declare_error(self.url(), &self.names().queue(queue)))?;
            self.topology.remember(queue);
            self.topology.fails_no_more(queue);
        }
        Ok(())
    }

    /// Declares a queue again that this process had declared and somebody has deleted, unless another publish has done so since `began`.
    async fn restore(&self, queue: &Queue, began: Instant) -> Result<(), QueueError> {
        let restored = self.restored.of(queue);
        let mut last = restored.lock().await;
        if last.is_some_and(|at| at >= began) {
            return Ok(());
        }
        let mut queues = queue.declared_before();
        queues.push(queue.clone());
        let (declared, name) = (self.declare_in_order(&queues).await, self.names().queue(queue));
        match &declared {
            Ok(()) => {
                tracing::warn!(queue = name, "a queue of the fleet was gone, with what waited in it; it was declared again");
                // Only now: where it cannot be declared, every publish comes here again.
                *last = Some(Instant::now());
            }
            Err(error @ (QueueError::Mismatch { .. } | QueueError::Refused { .. })) if self.topology.begins_to_fail(queue) => {
                tracing::error!(queue = name, %error, "a queue of the fleet is gone, and cannot be declared again; said once until it can");
            }
            Err(error) => tracing::debug!(queue = name, %error, "a queue of the fleet is gone, and was not declared again this time"),
        }
        declared
    }

    /// Publishes a message that the broker has returned: once more, where its queue was gone and could be declared again.
    async fn publish_returned(&self, message: &Outgoing, target: String, began: Instant) -> Result<(), PublishError> {
        // The broker returns a message too where the queue exists and its node is down.
        if let Ok(Err(Failure::Inaccessible(reason))) = self.look(&target).await {
            return Err(PublishError::Inaccessible { target, reason });
        }
        match &message.target {
            Target::Queue(queue) if self.topology.has(queue) => {
                self.restore(queue, began).await.map_err(|error| not_restored(target, error))?;
                self.publisher.publish(self.names(), message).await
            }
            _ => Err(PublishError::Unroutable { target }),
        }
    }

    /// Looks at a queue without changing anything.
    async fn look(&self, name: &str) -> Result<Result<Depth, Failure>, QueueError> {
        self.on_a_channel(async |channel| {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(short(name)?, passive, FieldTable::default()).await?;
            Ok(Depth { ready: found.message_count(), consumers: found.consumer_count() })
        })
        .await
    }

    /// Runs an operation on a channel on which nothing else is under way, because the broker closes the channel when it refuses.
    async fn on_a_channel<T>(&self, operation: impl AsyncFnOnce(&Channel) -> Result<T, Failure>) -> Result<Result<T, Failure>, QueueError> {
        let connection = self.connection()?;
        let channel = match self.in_time(self.topology.spare.channel(&connection)).await {
            Ok(channel) => channel,
            Err(failure) => return Ok(Err(failure)),
        };
        let done = tokio::time::timeout(self.topology.options.publish_timeout, operation(&channel)).await;
        let done = done.unwrap_or_else(|_| Err(Failure::Away("no answer in time".to_owned())));
        if done.is_ok() {
            self.topology.spare.keep(&connection, channel);
        }
        Ok(done)
    }

    /// Waits for the broker's answer as long as for any.
    async fn in_time<T>(&self, operation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let done = tokio::time::timeout(self.topology.options.publish_timeout, operation).await;
        done.unwrap_or_else(|_| Err(Failure::Away("no answer in time".to_owned())))
    }
}

/// Why a message was not published whose queue is gone and could not be declared again.
fn not_restored(target: String, error: QueueError) -> PublishError {
    match error {
        QueueError::Inaccessible { reason, .. } => PublishError::Inaccessible { target, reason },
        QueueError::Unreachable { .. } | QueueError::NotAdmitted { .. } | QueueError::Closed | QueueError::Stale => {
            PublishError::Disconnected { target, reason: error.to_string() }
        }
        QueueError::Mismatch { .. } | QueueError::Refused { .. } => PublishError::Unroutable { target },
    }
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RabbitMq")
            .field("url", &self.dialer.url)
            .field("link", &*self.publisher.link().borrow())
            .finish_non_exhaustive()
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl TaskQueue for RabbitMq {
    fn names(&self) -> &Names {
        &self.topology.options.names
    }

    async fn declare(&self, queue: &Queue) -> Result<(), QueueError> {
        let mut queues = queue.declared_before();
        queues.retain(|before| !self.topology.has(before));
        queues.push(queue.clone());
        self.declare_in_order(&queues).await
    }

    async fn publish(&self, mut message: Outgoing) -> Result<(), PublishError> {
        self.topology.options.bound_life(&mut message);
        let began = Instant::now();
        let target = match self.publisher.publish(self.names(), &message).await {
            Err(PublishError::Unroutable { target }) => target,
            done => return done,
        };
        // All that follows of it is within its own time: many publishes may wait for one queue to be declared.
        let limit = message.timeout.unwrap_or(self.topology.options.publish_timeout);
        let again = self.publish_returned(&message, target.clone(), began);
        tokio::time::timeout_at(began + limit, again).await.unwrap_or_else(|_| Err(PublishError::timeout(target, limit)))
    }

    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Consumer, QueueError> {
        if self.stop.is_cancelled() {
            return Err(QueueError::Closed);
        }
        let (inbox, wishes, live) = (Arc::new(Inbox::default()), watch::Sender::new(Wish::Deliveries), watch::Sender::new(true));
        let (wished, watched) = (wishes.subscribe(), live.subscribe());
        let subscription = Subscription {
            queue: queue.clone(),
            prefetch,
            topology: self.topology.clone(),
            connection: self.consuming.connection.clone(),
            inbox: inbox.clone(),
            live,
            wishes: wished,
            stop: self.stop.clone(),
        };
        let opened = subscription.open(Declare::No).await;
        let opened = opened.map_err(|failure| failure.into_error(self.url(), format!("consume queue {}", self.names().queue(queue))))?;
        self.tasks.spawn(subscription.live(opened));
        Ok(Consumer::new(inbox, watched, Arc::new(Wishes(wishes))))
    }

    async fn take(&self, queue: &Queue) -> Result<Option<Delivery>, QueueError> {
        let name = self.names().queue(queue);
        let operation = format!("take from queue {name}");
        let failed = |failure: Failure| failure.into_error(self.url(), operation);
        let channel = match self.take_channels.idle() {
            Some(channel) => channel,
            None => self.open_channel().await?,
        };
        let name = match short(&name) {
            Ok(name) => name,
            Err(failure) => return Err(failed(failure)),
        };
        let got = tokio::time::timeout(self.topology.options.publish_timeout, channel.basic_get(name, BasicGetOptions::default())).await;
        match got.map_err(|_| Failure::Away("no answer in time".to_owned())).and_then(|got| got.map_err(Failure::from)) {
            Ok(Some(got)) => {
                let channel = TakeChannel::new(channel, self.take_channels.clone());
                let receipt = TakenReceipt { acker: got.delivery.acker.clone(), channel };
                Ok(Some(receipt::delivery(queue, got.delivery, receipt)))
            }
            Ok(None) => {
                self.take_channels.free(channel);
                Ok(None)
            }
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => {
                // The answer may still come, with a message that is nobody's: it goes back with its channel.
                self.tasks.spawn(async move {
                    let _ignored = tokio::time::timeout(CLOSE_LIMIT, channel.close(200, "OK".into())).await;
                });
                Err(failed(failure))
            }
        }
    }

    async fn depth(&self, queue: &Queue) -> Result<Option<Depth>, QueueError> {
        let name = self.names().queue(queue);
        match self.look(&name).await? {
            Ok(depth) => Ok(Some(depth)),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure.into_error(self.url(), format!("look at queue {name}"))),
        }
    }

    async fn delete_if_unused(&self, queue: &Queue) -> Result<bool, QueueError> {
        let plan = self.topology.options.plan(queue);
        // A quorum queue knows neither condition, and the broker ends the connection over them (540): it is looked at first. What comes between the two is lost with it.
        let on_condition = plan.queue_type == QueueType::Classic;
        if !on_condition && self.depth(queue).await?.is_some_and(|depth| depth.ready > 0 || depth.consumers > 0) {
            return Ok(false);
        }
        let name = plan.name;
        let deleted = self
            .on_a_channel(async |channel| {
                let options = QueueDeleteOptions { if_unused: on_condition, if_empty: on_condition, ..QueueDeleteOptions::default() };
                channel.queue_delete(short(&name)?, options).await?;
                Ok(())
            })
            .await?;
        match deleted {
            Err(failure) if failure.is_precondition() => Ok(false),
            Err(failure) if !failure.is_missing() => Err(failure.into_error(self.url(), format!("delete queue {name}"))),
            _ => {
                self.topology.forget(queue);
                Ok(true)
            }
        }
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.publisher.link()
    }

    async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!(url = self.url(), "gave up waiting for the queue to close");
        }
    }
}
