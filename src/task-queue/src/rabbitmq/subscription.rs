//! One consumer across reconnections.
//!
//! ```text
//!           opened                 stream ends, error
//!  opening ───────► feeding (live) ──────────────────► opening …
//!     │                │ stop: cancel, give back what was not taken
//!     │                ▼
//!     │             stopped (deliveries in hand can be settled)
//!     │ stop, end      │ end: the channel closes, everything unacked goes back
//!     └───────────► ended ◄┘
//! ```

use std::{num::NonZeroU16, pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use lapin::{
    Channel,
    message::Delivery as AmqpDelivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    backoff::Backoff,
    failure::Failure,
    line::Kept,
    receipt,
    settling::{ConsumerReceipt, Settling},
    topology::{Topology, short},
};
use crate::{Feed, Inbox, Queue};

/// Longest wait for a channel to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How often a stopped consumer looks whether its channel still lives.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the owner of the consumer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    Deliveries,
    Stop,
    End,
}

/// Tells the subscription what its owner wants; never takes a wish back.
pub(super) struct Wishes(pub(super) watch::Sender<Wish>);

impl Wishes {
    fn wish(&self, wish: Wish) {
        self.0.send_if_modified(|present| {
            let further = wish > *present;
            *present = wish.max(*present);
            further
        });
    }
}

impl Feed for Wishes {
    fn stop(&self) {
        self.wish(Wish::Stop);
    }

    fn end(&self) {
        self.wish(Wish::End);
    }
}

/// A consumer on an open channel.
pub(super) struct Opened {
    channel: Channel,
    settling: Arc<Settling>,
    stream: lapin::Consumer,
}

/// Why feeding ended.
enum Ending {
    Lost(String),
    /// By the broker alone: the channel lives.
    Cancelled,
    Wished(Wish),
}

pub(super) struct Subscription {
    pub(super) queue: Queue,
    pub(super) prefetch: NonZeroU16,
    pub(super) topology: Arc<Topology>,
    pub(super) connection: watch::Receiver<Option<Arc<Kept>>>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) live: watch::Sender<bool>,
    pub(super) wishes: watch::Receiver<Wish>,
    /// The whole queue is being closed.
    pub(super) stop: CancellationToken,
}

impl Subscription {
    /// Opens the consumer on the present connection: queue (where it was declared), channel, bound on what is unacked, consumer, in this order.
    pub(super) async fn open(&self, declare: Declare) -> Result<Opened, Failure> {
        let connection = self.connection.borrow().clone().ok_or_else(|| Failure::Away("reconnecting".to_owned()))?;
        let opening = async {
            if declare == Declare::Again && self.topology.has(&self.queue) {
                self.declare(&connection).await?;
            }
            let channel = connection.create_channel().await?;
            channel.basic_qos(self.prefetch.get(), BasicQosOptions::default()).await?;
            let name = short(&self.topology.options.names.queue(&self.queue))?;
            let stream = channel.basic_consume(name, "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
            let settling = Arc::new(Settling::new(channel.clone()));
            Ok(Opened { channel, settling, stream })
        };
        let limit = self.topology.options.publish_timeout;
        tokio::time::timeout(limit, opening).await.unwrap_or_else(|_| Err(Failure::Away("no answer in time".to_owned())))
    }

    /// Declares the queue, after those that take what it cannot keep: whoever deleted it may have deleted them too. It does not wait for theirs.
    async fn declare(&self, connection: &Arc<Kept>) -> Result<(), Failure> {
        for before in self.queue.declared_before() {
            match self.topology.declare(connection, &before).await {
                Ok(()) => self.topology.fails_no_more(&before),
                Err(failure) if self.topology.begins_to_fail(&before) => {
                    tracing::warn!(queue = %before, error = %failure, "could not declare a queue again");
                }
                Err(failure) => tracing::debug!(queue = %before, error = %failure, "still could not declare a queue again"),
            }
        }
        self.topology.declare(connection, &self.queue).await
    }

    /// The consumer's life from its first opening on.
    pub(super) async fn live(mut self, first: Opened) {
        let mut backoff = Backoff::new();
        let mut current = Some(first);
        while let Some(mut opened) = current {
            backoff.began();
            self.live.send_replace(true);
            let ending = self.feed(&mut opened).await;
            self.live.send_replace(false);
            current = match ending {
                Ending::Lost(reason) => {
                    // The broker delivers these again: what was not taken yet would be work done twice.
                    let stale = self.inbox.clear().len();
                    tracing::warn!(queue = %self.queue, reason, stale, "lost a consumer");
                    self.begin_again(opened, &mut backoff).await
                }
                Ending::Cancelled => {
                    // Most likely the queue was deleted, and what was not taken yet is nowhere else. If not, it comes again, and its identity makes the copy harmless.
                    tracing::warn!(queue = %self.queue, "the broker cancelled a consumer; its queue may have been deleted");
                    self.begin_again(opened, &mut backoff).await
                }
                Ending::Wished(wish) => {
                    self.wind_down(opened, wish).await;
                    None
                }
            };
        }
        self.inbox.close();
    }

    /// Lets go of what is left of a consumer, and opens another.
    async fn begin_again(&mut self, ended: Opened, backoff: &mut Backoff) -> Option<Opened> {
        // Where the broker ended the consumer alone, its channel lives, and what is unacked would stay with it.
        if ended.channel.status().connected() {
            let _ignored = tokio::time::timeout(CLOSE_LIMIT, ended.channel.close(200, "OK".into())).await;
        }
        drop(ended);
        self.reopen(backoff).await
    }

    /// Feeds the inbox until the stream ends (a queue deleted on the broker ends it without an error) or the owner wants something else.
    async fn feed(&mut self, opened: &mut Opened) -> Ending {
        let settling = Arc::clone(&opened.settling);
        let mut writing = pin!(settling.write());
        loop {
            tokio::select! {
                biased;
                wish = self.wished() => return Ending::Wished(wish),
                never = &mut writing => match never {},
                arrived = opened.stream.next() => match arrived {
                    Some(Ok(arrived)) => self.push(&settling, arrived),
                    Some(Err(error)) => return Ending::Lost(error.to_string()),
                    None if opened.channel.status().connected() => return Ending::Cancelled,
                    None => return Ending::Lost("its channel is closed".to_owned()),
                },
            }
        }
    }

    fn push(&self, settling: &Arc<Settling>, arrived: AmqpDelivery) {
        let tag = arrived.delivery_tag;
        settling.delivered(tag);
        let receipt = ConsumerReceipt { settling: Arc::clone(settling), tag };
        self.inbox.push(tag, receipt::delivery(&self.queue, arrived, receipt));
    }

    /// Waits until something else than deliveries is wanted. Cancel safe.
    async fn wished(&mut self) -> Wish {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Wish::End,
            wish = self.wishes.wait_for(|wish| *wish != Wish::Deliveries) => wish.map_or(Wish::End, |wish| *wish),
        }
    }

    /// Opens until it succeeds; `None` if deliveries are not wanted any more.
    async fn reopen(&mut self, backoff: &mut Backoff) -> Option<Opened> {
        let mut told = false;
        loop {
            let wait = backoff.next();
            let mut connection = self.connection.clone();
            let connected = async {
                tokio::time::sleep(wait).await;
                connection.wait_for(Option::is_some).await.is_ok()
            };
            tokio::select! {
                biased;
                _ = self.wished() => return None,
                kept = connected => if !kept { return None },
            }
            match self.open(Declare::Again).await {
                Ok(opened) => {
                    tracing::info!(queue = %self.queue, "consuming again");
                    return Some(opened);
                }
                Err(failure) if std::mem::replace(&mut told, true) => {
                    tracing::debug!(queue = %self.queue, error = %failure, "still cannot consume")
                }
                Err(failure) => tracing::warn!(queue = %self.queue, error = %failure, "cannot consume again; tried again until it can"),
            }
        }
    }

    async fn wind_down(&mut self, opened: Opened, wish: Wish) {
        let Opened { channel, settling, mut stream } = opened;
        if wish == Wish::Stop {
            tokio::select! {
                biased;
                never = settling.write() => match never {},
                () = async {
                    self.cancel((&channel, &settling), &mut stream).await;
                    self.until_ended(&channel).await;
                } => {}
            }
        }
        self.inbox.close();
        settling.close().await;
        let _ignored = tokio::time::timeout(CLOSE_LIMIT, channel.close(200, "OK".into())).await;
    }

    /// Ends the deliveries and gives back those that nobody took.
    async fn cancel(&self, (channel, settling): (&Channel, &Arc<Settling>), stream: &mut lapin::Consumer) {
        let limit = self.topology.options.publish_timeout;
        let _ignored = tokio::time::timeout(limit, channel.basic_cancel(stream.tag(), BasicCancelOptions::default())).await;
        while let Some(Some(Ok(arrived))) = stream.next().now_or_never() {
            self.push(settling, arrived);
        }
        self.inbox.close().into_iter().for_each(|tag| settling.give_back(tag));
    }

    /// Waits until the owner has let go of the consumer, or there is nothing left to settle.
    async fn until_ended(&mut self, channel: &Channel) {
        while channel.status().connected() {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = self.wishes.wait_for(|wish| *wish == Wish::End) => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Whether opening declares the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declare {
    /// It was declared a moment ago, or must exist.
    No,
    /// It may have gone meanwhile.
    Again,
}
