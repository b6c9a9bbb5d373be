//! The yardstick: an echo with nothing but the client library. Each consumer has a connection and a channel of its own, takes what its prefetch
//! allows at once, publishes each answer confirmed, then acks.

use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use protocol::config::SecretUrl;

use crate::Fault;

pub(crate) const PERSISTENT: u8 = 2;

/// Bare consumers of one durable queue, until dropped.
pub(crate) struct BareEcho {
    pub(crate) queue: String,
    _connections: Vec<Connection>,
}

/// What the queue can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueKind {
    /// Ten priorities, as a pool's queue has.
    Priorities,
    /// First in, first out.
    Plain,
}

impl BareEcho {
    pub(crate) async fn start(url: &SecretUrl, queue: &str, kind: QueueKind, consumers: usize) -> Result<Self, Fault> {
        let mut connections = Vec::new();
        for _ in 0..consumers {
            let connection = Connection::connect(url.reveal(), ConnectionProperties::default()).await?;
            consume(&connection.create_channel().await?, queue, kind).await?;
            connections.push(connection);
        }
        Ok(Self { queue: queue.to_owned(), _connections: connections })
    }
}

async fn consume(channel: &Channel, queue: &str, kind: QueueKind) -> Result<(), Fault> {
    let mut arguments = FieldTable::default();
    if kind == QueueKind::Priorities {
        arguments.insert("x-max-priority".into(), AMQPValue::LongLongInt(10));
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    channel.basic_qos(crate::SLOTS, BasicQosOptions::default()).await?;
    let mut deliveries = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    let channel = channel.clone();
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = deliveries.next().await {
            let channel = channel.clone();
            // A failure shows as an answer that never comes.
            tokio::spawn(async move { answer(&channel, delivery).await });
        }
    });
    Ok(())
}

async fn answer(channel: &Channel, delivery: Delivery) -> lapin::Result<()> {
    let asked = &delivery.properties;
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(correlation_id) = asked.correlation_id() {
        properties = properties.with_correlation_id(correlation_id.clone());
    }
    let reply_to = asked.reply_to().clone().unwrap_or_default();
    channel.basic_publish("".into(), reply_to, BasicPublishOptions::default(), &delivery.data, properties).await?.await?;
    delivery.acker.ack(BasicAckOptions::default()).await?;
    Ok(())
}
