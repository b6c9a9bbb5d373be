//! Settles messages that were taken without a consumer. An ack is written and not answered, so it costs no round trip; it is lost with its channel, and then the broker
//! delivers the message again.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lapin::{
    Acker, Channel,
    message::Delivery as AmqpDelivery,
    options::{BasicAckOptions, BasicNackOptions},
};

use super::{properties, settling::WRITE_LIMIT};
use crate::{Delivery, Queue, QueueError, Receipt, Settle};

/// Turns what arrived into the port's delivery.
pub(super) fn delivery(queue: &Queue, arrived: AmqpDelivery, settle: impl Settle + 'static) -> Delivery {
    Delivery {
        queue: queue.clone(),
        envelope: properties::read(&arrived.properties),
        routing_key: arrived.routing_key.into(),
        body: arrived.data.into(),
        redelivered: arrived.redelivered,
        death: properties::death(&arrived.properties),
        receipt: Receipt::new(Box::new(settle)),
    }
}

/// Settles a taken message.
pub(super) struct TakenReceipt {
    pub(super) acker: Acker,
    pub(super) channel: TakeChannel,
}

impl TakenReceipt {
    async fn settle(self, settled: impl Future<Output = lapin::Result<bool>>) -> Result<(), QueueError> {
        let written = tokio::time::timeout(WRITE_LIMIT, settled).await;
        if !matches!(written, Ok(Ok(true))) {
            return Err(QueueError::Stale);
        }
        self.channel.free();
        Ok(())
    }
}

#[async_trait]
impl Settle for TakenReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        let acker = self.acker.clone();
        self.settle(async move { acker.ack(BasicAckOptions::default()).await }).await
    }

    async fn give_back(self: Box<Self>) -> Result<(), QueueError> {
        let acker = self.acker.clone();
        self.settle(async move { acker.nack(BasicNackOptions { requeue: true, multiple: false }).await }).await
    }
}

/// Channels for taking messages without a consumer: one per message in hand, because the broker closes a channel on a missing queue, and what
/// else is unacked on it would go back.
#[derive(Debug, Default)]
pub(super) struct TakeChannels {
    idle: Mutex<Vec<Channel>>,
    /// Of receipts that were dropped unsettled: their messages stay unacked until the connection ends.
    abandoned: Mutex<Vec<Channel>>,
}

impl TakeChannels {
    /// A channel that is free and open, if there is one.
    pub(super) fn idle(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(channel) = idle.pop() {
            if channel.status().connected() {
                return Some(channel);
            }
        }
        None
    }

    pub(super) fn free(&self, channel: Channel) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
    }

    fn abandon(&self, channel: Channel) {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        abandoned.retain(|channel| channel.status().connected());
        abandoned.push(channel);
    }
}

/// The channel of one taken message.
pub(super) struct TakeChannel {
    channel: Option<Channel>,
    channels: Arc<TakeChannels>,
}

impl TakeChannel {
    pub(super) fn new(channel: Channel, channels: Arc<TakeChannels>) -> Self {
        Self { channel: Some(channel), channels }
    }

    fn free(mut self) {
        if let Some(channel) = self.channel.take() {
            self.channels.free(channel);
        }
    }
}

impl Drop for TakeChannel {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.channels.abandon(channel);
        }
    }
}
