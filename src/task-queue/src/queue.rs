//! The port: queues by meaning, and what can be done with them.

use std::{fmt, num::NonZeroU16, time::Duration};

use async_trait::async_trait;
use protocol::{GpuId, PoolName};
use tokio::sync::watch;

use crate::{Consumer, Delivery, Outgoing, PublishError, QueueError, Target};

/// A queue, by what it is for. Every back end and every tool gets its name and arguments from here.
///
/// ```text
///  producer ──► Pool ──► worker ──► Gpu ──► worker ──► ReplyTo
///      └ no such pool ► Unrouted ──► worker moves it to its pool, or refuses it
///                ▲  └ expires ┐        │ retry, unplaceable
///                │            ▼        ▼
///                │         Expired   Retry, Unplaceable ──► some worker holds it until it is due
///                │            │                                │ publishes, confirmed; then acks
///                ├────────────┼────────────────────────────────┘
///                └── mover ◄──┼── Returned ◄── queues of earlier versions
///                             └► worker records `expired`
///
///  producer, worker ── must not start before a time ──► Delayed ──► Delayed ──► … ──► Pool
///
///  worker ── its reply is not taken now ──► Undelivered ──► some worker holds it until it is due
///  ReplyTo ◄── tries again, confirmed; then acks ─────────────────────┘
///                   └ not taken for too long, or its queue is gone ──► Parked
/// ```
///
/// The waiting queues ([`Queue::where_tasks_wait`], [`Queue::where_tasks_are_delayed`], [`Queue::where_replies_wait`]) have neither a time to live nor dead letters: what a broker dead-letters is confirmed by
/// nobody, and lost if the broker dies at that moment or has no way to the target. Every worker consumes them all, or looks at their heads (`delayed.rs`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// Where a pool's tasks wait. Durable, ten priorities, optional bound (refuses publishes at it); what expires goes to [`Queue::Expired`].
    Pool(PoolName),
    /// Tasks forwarded to one GPU. Like [`Queue::Pool`], without a bound in length, but every message in it has a time to live: whoever consumed it may be gone for good.
    Gpu(GpuId),
    /// Tasks whose time ran out in a queue, for a worker to record and answer, or to put back into their pool where it was the queue's time and not theirs. Durable.
    Expired,
    /// What the exchange that producers publish to could lead to no pool, under the routing key that it came with. Durable; what expires goes to [`Queue::Expired`].
    Unrouted,
    /// What comes back from the waiting queues of earlier versions, for the mover to publish to its pool. Durable, unbounded.
    Returned,
    /// Tasks that fit no GPU, until a worker puts them back into their pools. Durable.
    Unplaceable,
    /// Tasks that wait for at most this delay, until a worker puts them back into their pools. Durable. Only the delays of [`Queue::RETRY_DELAYS_MS`] exist.
    Retry(Duration),
    /// Tasks that must not start before a time, for one part of their wait. Durable, bounded in number (refuses publishes at it). Only the delays of
    /// [`Queue::DELAYS_HELD_MS`] and [`Queue::DELAYS_LOOKED_AT_MS`] exist.
    Delayed(Duration),
    /// What could not be a task, or was given up, in its original bytes. Durable, bounded in number, bytes and age: the oldest make room.
    Dead,
    /// Replies that nobody took, in their own bytes and with their address in a header, until a TTL takes them. Durable.
    Parked,
    /// Replies whose queue takes none at present, with their address in a header: they wait for this delay, until a worker tries them again. Durable, bounded in number and
    /// bytes (refuses publishes at it). Only the delays of [`Queue::UNDELIVERED_DELAYS_MS`] exist.
    Undelivered(Duration),
    /// A reply queue of ours: exclusive to this process, named by us (server-named queues do not survive a recovery).
    Reply(String),
}

impl Queue {
    /// The delays for which there are retry queues, in milliseconds.
    pub const RETRY_DELAYS_MS: [u64; 6] = [250, 1_000, 5_000, 15_000, 60_000, 300_000];

    /// The delays between two tries of a reply, in milliseconds.
    pub const UNDELIVERED_DELAYS_MS: [u64; 3] = [5_000, 15_000, 60_000];

    /// How long what is put into this queue waits there, where its name says so.
    #[must_use]
    pub const fn delay(&self) -> Option<Duration> {
        match self {
            Self::Retry(delay) | Self::Delayed(delay) | Self::Undelivered(delay) => Some(*delay),
            _ => None,
        }
    }

    /// Every queue in which tasks wait until they go back to their pools.
    #[must_use]
    pub fn where_tasks_wait() -> Vec<Self> {
        let delays = Self::RETRY_DELAYS_MS.into_iter().map(Duration::from_millis);
        std::iter::once(Self::Unplaceable).chain(delays.map(Self::Retry)).collect()
    }

    /// Every queue in which replies wait until they are tried again.
    #[must_use]
    pub fn where_replies_wait() -> Vec<Self> {
        Self::UNDELIVERED_DELAYS_MS.into_iter().map(Duration::from_millis).map(Self::Undelivered).collect()
    }

    /// Where a reply waits that has been tried in vain for so long: each wait is longer than all before it together, up to the longest one.
    #[must_use]
    pub fn undelivered_for(tried: Duration) -> Self {
        let longest = Self::UNDELIVERED_DELAYS_MS[Self::UNDELIVERED_DELAYS_MS.len() - 1];
        let delay = Self::UNDELIVERED_DELAYS_MS.into_iter().find(|ms| u128::from(*ms) > tried.as_millis()).unwrap_or(longest);
        Self::Undelivered(Duration::from_millis(delay))
    }

    /// The retry queue with the shortest delay of at least `wanted`; the longest one for more.
    #[must_use]
    pub fn retry_after(wanted: Duration) -> Self {
        let longest = Self::RETRY_DELAYS_MS[Self::RETRY_DELAYS_MS.len() - 1];
        let delay = Self::RETRY_DELAYS_MS.into_iter().find(|ms| u128::from(*ms) >= wanted.as_millis()).unwrap_or(longest);
        Self::Retry(Duration::from_millis(delay))
    }
}

/// The queue as people call it, for the log. Its name on the broker comes from [`Names`].
impl fmt::Display for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(pool) => write!(formatter, "pool {pool}"),
            Self::Gpu(gpu_id) => write!(formatter, "own queue of GPU {gpu_id}"),
            Self::Expired => formatter.write_str("expired tasks"),
            Self::Unrouted => formatter.write_str("unrouted tasks"),
            Self::Returned => formatter.write_str("returned tasks"),
            Self::Unplaceable => formatter.write_str("unplaceable tasks"),
            Self::Retry(delay) => write!(formatter, "retries after {} ms", delay.as_millis()),
            Self::Delayed(delay) => write!(formatter, "delayed tasks, for {} ms", delay.as_millis()),
            Self::Dead => formatter.write_str("dead letters"),
            Self::Parked => formatter.write_str("parked replies"),
            Self::Undelivered(delay) => write!(formatter, "replies tried again after {} ms", delay.as_millis()),
            Self::Reply(name) => write!(formatter, "reply queue {name}"),
        }
    }
}

/// The names of queues and exchanges under a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Names that begin with `prefix` and a dot.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The direct exchange that producers publish to, with the pool's name as routing key.
    #[must_use]
    pub fn exchange(&self) -> String {
        format!("{}.tasks", self.prefix)
    }

    /// The exchange that takes what [`Names::exchange`] can lead nowhere, and leads it to [`Queue::Unrouted`].
    #[must_use]
    pub fn unrouted_exchange(&self) -> String {
        format!("{}.unrouted", self.prefix)
    }

    /// The queue's name.
    #[must_use]
    pub fn queue(&self, queue: &Queue) -> String {
        let prefix = &self.prefix;
        match queue {
            Queue::Pool(pool) => format!("{prefix}.tasks.{pool}"),
            Queue::Gpu(gpu) => format!("{prefix}.gpu.{gpu}"),
            Queue::Expired => format!("{prefix}.expired"),
            Queue::Unrouted => format!("{prefix}.unrouted"),
            Queue::Returned => format!("{prefix}.returned"),
            Queue::Unplaceable => format!("{prefix}.wait.unplaceable"),
            Queue::Retry(delay) => format!("{prefix}.wait.{}", delay.as_millis()),
            Queue::Delayed(delay) => format!("{prefix}.delayed.{}", delay.as_millis()),
            Queue::Dead => format!("{prefix}.dead"),
            Queue::Parked => format!("{prefix}.parked"),
            Queue::Undelivered(delay) => format!("{prefix}.undelivered.{}", delay.as_millis()),
            Queue::Reply(name) => format!("{prefix}.reply.{name}"),
        }
    }

    /// Whether a queue of this name is the own queue of some GPU.
    #[must_use]
    pub fn is_of_a_gpu(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with(".gpu."))
    }

    /// The routing key that leads to a target through the default exchange: a queue's name.
    #[must_use]
    pub fn target(&self, target: &Target) -> String {
        match target {
            Target::Queue(queue) => self.queue(queue),
            Target::ReplyTo(name) => name.clone(),
        }
    }
}

/// What waits in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that no consumer holds.
    pub ready: u32,
    /// Live consumers.
    pub consumers: u32,
}

/// The state of the publishing link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Publishes go through.
    Up,
    /// The broker blocks publishers; its words.
    Blocked(String),
    /// Not connected (recovering, unless closed); why.
    Down(String),
}

/// How tasks and replies travel.
///
/// Every operation recovers from a lost connection by itself, in the background; operations meanwhile fail as transient. All are cancel safe in
/// the sense that a cancelled publish may or may not happen.
#[async_trait]
pub trait TaskQueue: Send + Sync + 'static {
    /// The names in use.
    fn names(&self) -> &Names;

    /// Declares a queue (and its exchange and binding, if it has some) with the arguments of the topology, after the queues that take what it cannot keep.
    /// Idempotent. Declared queues are declared again after each reconnection, and at the first sign that they are gone: a publish that comes back, a consumer that
    /// the broker ends. A queue that exists without the bounds that it should have is used as it is, with one warning in the log: its arguments cannot be changed.
    ///
    /// # Errors
    /// [`QueueError::Mismatch`] if it exists with other arguments; transient ones while the broker is away.
    async fn declare(&self, queue: &Queue) -> Result<(), QueueError>;

    /// Publishes, and waits until the broker has taken responsibility for the message. To a waiting queue it travels without its `expiration`: what expires there would be gone.
    /// Where it has no such queue, and this connection had declared it, the queue is
    /// declared again and the message is published once more.
    ///
    /// # Errors
    /// See [`PublishError`]. A blocked broker is an error at once, not after the deadline.
    async fn publish(&self, message: Outgoing) -> Result<(), PublishError>;

    /// Consumes a declared queue. At most `prefetch` deliveries are unacked at any time, also after each reconnection. If the queue is deleted meanwhile, and this
    /// connection had declared it, it is declared again, and consumed.
    ///
    /// # Errors
    /// Those of [`TaskQueue::declare`]; a consumer that was once started recovers by itself.
    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Consumer, QueueError>;

    /// Takes one ready message without a consumer; `None` if there is none or no such queue.
    ///
    /// # Errors
    /// Transient ones.
    async fn take(&self, queue: &Queue) -> Result<Option<Delivery>, QueueError>;

    /// What waits in a queue; `None` if it does not exist. Declares nothing.
    ///
    /// # Errors
    /// Transient ones.
    async fn depth(&self, queue: &Queue) -> Result<Option<Depth>, QueueError>;

    /// Deletes a queue if it is empty and has no consumer; says whether it is gone.
    ///
    /// # Errors
    /// Transient ones.
    async fn delete_if_unused(&self, queue: &Queue) -> Result<bool, QueueError>;

    /// The publishing link, watched.
    fn link(&self) -> watch::Receiver<Link>;

    /// Ends every consumer and connection. Unacked deliveries go back to their queues.
    async fn close(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_and_a_target_are_named_in_words() {
        let pool = Queue::Pool(PoolName::default());
        assert_eq!(pool.to_string(), "pool default");
        assert_eq!(Queue::Gpu(GpuId::new("gpu-0").expect("valid")).to_string(), "own queue of GPU gpu-0");
        assert_eq!(Queue::retry_after(Duration::from_secs(2)).to_string(), "retries after 5000 ms");
        assert_eq!(
            (Target::Queue(pool).to_string(), Target::ReplyTo("mine".to_owned()).to_string()),
            ("pool default".to_owned(), "reply queue mine".to_owned())
        );
    }
}
