//! A broker inside the process, for a first look, for tests and for deterministic simulations of whole fleets.
//!
//! What can be observed through the port is what RabbitMQ does with classic queues; the conformance suite holds both to it. It keeps nothing:
//! the messages live as long as the [`MemoryBroker`] or one of its connections. On one thread with a paused clock every run is the same: no
//! wall clock, no threads, no randomness, no unordered maps.

mod backlog;
mod life;
mod receipt;
mod state;

use std::{
    num::NonZeroU16,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{Envelope, PoolName};
use tokio::{sync::Notify, sync::watch, task::JoinHandle, time::Instant};

use self::{
    receipt::MemoryFeed,
    state::{Arrival, State},
};
use crate::{
    Consumer, Delivery, Depth, Inbox, Link, Names, Outgoing, PublishError, Queue, QueueError, QueueOptions, Target, TaskQueue,
    message::is_direct_reply,
    topology::{Bounds, Overflow},
};

/// A broker that any number of connections share. Clones are the same broker.
#[derive(Debug, Clone)]
pub struct MemoryBroker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The first expiry is earlier than the timer thinks.
    rearm: Arc<Notify>,
    timer: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the timer that expires messages, unless it runs.
    fn ensure_timer(self: &Arc<Self>) {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        if timer.as_ref().is_none_or(JoinHandle::is_finished) {
            *timer = Some(tokio::spawn(run_timer(Arc::downgrade(self))));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            timer.abort();
        }
    }
}

/// Expires messages when they are due. Holds the broker only while it does so: a forgotten broker must end.
async fn run_timer(broker: Weak<Shared>) {
    while let Some((rearm, armed)) = broker.upgrade().map(|shared| (shared.rearm.clone(), shared.lock().armed)) {
        match armed {
            Some(at) => tokio::select! {
                biased;
                () = rearm.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            },
            None => rearm.notified().await,
        }
        if let Some(shared) = broker.upgrade() {
            let mut state = shared.lock();
            if state.armed.is_some_and(|at| at <= Instant::now()) {
                state.expire_all();
            }
        }
    }
}

impl MemoryBroker {
    /// An empty broker.
    #[must_use]
    pub fn new(options: QueueOptions) -> Self {
        Self(Arc::new_cyclic(|shared| Shared {
            state: Mutex::new(State::new(options, shared.clone())),
            rearm: Arc::default(),
            timer: Mutex::new(None),
        }))
    }

    /// A new connection. What it has unacked returns to its queues when it is closed or dropped.
    #[must_use]
    pub fn connect(&self) -> MemoryQueue {
        self.open(None)
    }

    /// A new connection under a login: like a broker's, it lets messages carry that `user_id`, and no other.
    #[must_use]
    pub fn connect_as(&self, login: impl Into<String>) -> MemoryQueue {
        self.open(Some(login.into()))
    }

    fn open(&self, login: Option<String>) -> MemoryQueue {
        let mut state = self.0.lock();
        let connection = state.connect();
        let names = state.options.names.clone();
        let link = state.connections.get(&connection).map_or_else(closed_link, |connected| connected.link.subscribe());
        drop(state);
        MemoryQueue { shared: self.0.clone(), connection, names, link, login }
    }

    /// Blocks every publisher, as a broker does that is short of memory or disk.
    pub fn block_publishers(&self, reason: &str) {
        let mut state = self.0.lock();
        state.blocked = Some(reason.to_owned());
        for connected in state.connections.values() {
            connected.link.send_replace(Link::Blocked(reason.to_owned()));
        }
    }

    /// Lets a queue that exists hold at most so many ready messages and refuse more, as an operator's policy on a broker does; `None`: as many as come.
    pub fn bound(&self, queue: &Queue, most: Option<u32>) {
        let mut state = self.0.lock();
        let name = state.options.names.queue(queue);
        if let Some(queue) = state.queues.get_mut(&name) {
            queue.plan.bounds = Bounds { length_max: most, overflow: Overflow::Refuse, ..queue.plan.bounds };
        }
    }

    /// The `message_id`s of all that it holds in `queue`, ready or unacked, sorted. For tests and simulations.
    #[must_use]
    pub fn message_ids(&self, queue: &Queue) -> Vec<String> {
        let state = self.0.lock();
        state.message_ids(&state.options.names.queue(queue))
    }

    /// The properties of all that it holds in `queue`, ready or unacked. For tests and simulations.
    #[must_use]
    pub fn envelopes(&self, queue: &Queue) -> Vec<Envelope> {
        let state = self.0.lock();
        state.messages(&state.options.names.queue(queue)).map(|message| message.envelope.clone()).collect()
    }

    /// Deletes a queue with all that is in it, as an operator may.
    pub fn delete(&self, queue: &Queue) {
        let mut state = self.0.lock();
        let name = state.options.names.queue(queue);
        state.delete(&name);
    }

    /// Publishes as a client does that is not ours: to the exchange of the pools, under whatever routing key.
    pub fn publish_to_exchange(&self, routing_key: &str, envelope: Envelope, body: Bytes) {
        let expires = envelope.expiration.is_some();
        let mut state = self.0.lock();
        let pool = PoolName::new(routing_key).ok().map(|pool| state.options.names.queue(&Queue::Pool(pool)));
        let bound = pool.filter(|name| state.queues.contains_key(name));
        let name = bound.unwrap_or_else(|| state.options.names.queue(&Queue::Unrouted));
        state.enqueue(&name, routing_key.to_owned(), Arrival { envelope, body, death: None });
        drop(state);
        if expires {
            self.0.ensure_timer();
        }
    }

    /// Ends what [`MemoryBroker::block_publishers`] began.
    pub fn unblock_publishers(&self) {
        let mut state = self.0.lock();
        state.blocked = None;
        for connected in state.connections.values() {
            connected.link.send_replace(Link::Up);
        }
    }
}

fn closed_link() -> watch::Receiver<Link> {
    watch::Sender::new(Link::Down("closed".to_owned())).subscribe()
}

/// One connection to a [`MemoryBroker`].
#[derive(Debug)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
    connection: u64,
    names: Names,
    link: watch::Receiver<Link>,
    login: Option<String>,
}

impl MemoryQueue {
    fn open(&self) -> Result<MutexGuard<'_, State>, QueueError> {
        let state = self.shared.lock();
        if state.connections.contains_key(&self.connection) { Ok(state) } else { Err(QueueError::Closed) }
    }

    /// The state, if this connection may use the queue.
    fn open_for(&self, operation: &str, name: &str) -> Result<MutexGuard<'_, State>, QueueError> {
        let state = self.open()?;
        let owner = state.queues.get(name).and_then(|queue| queue.owner);
        if owner.is_some_and(|owner| owner != self.connection) {
            let reason = "it is exclusive to another connection".to_owned();
            return Err(QueueError::Refused { operation: format!("{operation} queue {name}"), reason });
        }
        Ok(state)
    }

    fn publish_now(&self, target: String, message: Outgoing) -> Result<(), PublishError> {
        if let Err(reason) = message.check(&target) {
            return Err(PublishError::Refused { target, reason });
        }
        let Ok(mut state) = self.open() else {
            return Err(PublishError::Disconnected { target, reason: "closed".to_owned() });
        };
        let mut message = message;
        state.options.bound_life(&mut message);
        if let Some(reason) = state.blocked.clone() {
            return Err(PublishError::Blocked { target, reason });
        }
        if is_direct_reply(&target) {
            return Ok(());
        }
        if let Target::Queue(queue) = &message.target
            && !state.queues.contains_key(&target)
            && state.has_declared(self.connection, queue)
        {
            state.declare(self.connection, queue);
        }
        let Some(queue) = state.queues.get(&target) else { return Err(PublishError::Unroutable { target }) };
        if queue.refuses(&message.body) {
            return Err(PublishError::Full { target });
        }
        let expires = queue.plan.lifetime().is_some() || message.envelope.expiration.is_some();
        let mut envelope = message.envelope;
        envelope.user_id = envelope.user_id.filter(|user| self.login.as_ref() == Some(user));
        envelope.headers.forget_findings();
        state.enqueue(&target, target.clone(), Arrival { envelope, body: message.body, death: None });
        drop(state);
        if expires {
            self.shared.ensure_timer();
        }
        Ok(())
    }
}

#[async_trait]
impl TaskQueue for MemoryQueue {
    fn names(&self) -> &Names {
        &self.names
    }

    async fn declare(&self, queue: &Queue) -> Result<(), QueueError> {
        let mut state = self.open_for("declare", &self.names.queue(queue))?;
        state.declare(self.connection, queue);
        Ok(())
    }

    async fn publish(&self, message: Outgoing) -> Result<(), PublishError> {
        // A loop of publishes must let the other tasks of its thread run, as one that waits for confirms does.
        tokio::task::coop::consume_budget().await;
        self.publish_now(self.names.target(&message.target), message)
    }

    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Consumer, QueueError> {
        let name = self.names.queue(queue);
        let mut state = self.open_for("consume", &name)?;
        if !state.queues.contains_key(&name) {
            return Err(QueueError::Refused { operation: format!("consume queue {name}"), reason: "no such queue".to_owned() });
        }
        let inbox = Arc::new(Inbox::default());
        let (consumer, live) = state.consume(self.connection, &name, usize::from(prefetch.get()), inbox.clone());
        Ok(Consumer::new(inbox, live, Arc::new(MemoryFeed { shared: Arc::downgrade(&self.shared), consumer })))
    }

    async fn take(&self, queue: &Queue) -> Result<Option<Delivery>, QueueError> {
        let name = self.names.queue(queue);
        Ok(self.open_for("take from", &name)?.take(self.connection, &name))
    }

    async fn depth(&self, queue: &Queue) -> Result<Option<Depth>, QueueError> {
        let name = self.names.queue(queue);
        let state = self.open_for("look at", &name)?;
        Ok(state.queues.get(&name).map(|queue| Depth {
            ready: u32::try_from(queue.backlog.len()).unwrap_or(u32::MAX),
            consumers: u32::try_from(queue.consumers.len()).unwrap_or(u32::MAX),
        }))
    }

    async fn delete_if_unused(&self, queue: &Queue) -> Result<bool, QueueError> {
        let name = self.names.queue(queue);
        let mut state = self.open_for("delete", &name)?;
        let gone = state.delete_if_unused(&name);
        if gone && let Some(connected) = state.connections.get_mut(&self.connection) {
            connected.declared.remove(queue);
        }
        Ok(gone)
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    async fn close(&self) {
        self.shared.lock().disconnect(self.connection);
    }
}

impl Drop for MemoryQueue {
    fn drop(&mut self) {
        self.shared.lock().disconnect(self.connection);
    }
}
