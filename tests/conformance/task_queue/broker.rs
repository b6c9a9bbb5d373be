//! The two back ends, and the messages that the cases send.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use bytes::Bytes;
use lapin::options::QueueDeleteOptions;
use protocol::{Envelope, GpuId, PoolName, config::SecretUrl};
use task_queue::{Consumer, Delivery, MemoryBroker, Names, Outgoing, PublishError, Queue, QueueOptions, RabbitMq, Target, TaskQueue};
use tests::{
    rabbitmq::PrivateRabbitMq,
    raw_amqp::{RawProperties, RawPublisher},
    until::until,
};

use super::servers::foreign;

/// A broker on which a case has its own names.
pub enum Broker {
    Memory,
    RabbitMq { url: SecretUrl, prefix: String },
}

impl Broker {
    pub fn memory() -> Self {
        Self::Memory
    }

    pub async fn rabbitmq() -> Self {
        let url = PrivateRabbitMq::shared().await.url();
        Self::RabbitMq { url, prefix: format!("case-{}", uuid::Uuid::new_v4().simple()) }
    }

    /// A fleet's worth of connections under these options.
    pub fn fleet(&self, change: impl FnOnce(&mut QueueOptions)) -> Fleet {
        let mut options = QueueOptions { publish_timeout: Duration::from_secs(60), ..QueueOptions::default() };
        if let Self::RabbitMq { prefix, .. } = self {
            options.names = Names::new(prefix.clone());
        }
        change(&mut options);
        match self {
            Self::Memory => Fleet::Memory(MemoryBroker::new(options)),
            Self::RabbitMq { url, .. } => Fleet::RabbitMq { url: url.clone(), options },
        }
    }

    /// One connection under default options, with the default pool and all dead-letter targets declared.
    pub async fn connect(&self) -> Arc<dyn TaskQueue> {
        self.fleet(|_| ()).connect().await
    }
}

/// Connections of one fleet.
pub enum Fleet {
    Memory(MemoryBroker),
    RabbitMq { url: SecretUrl, options: QueueOptions },
}

impl Fleet {
    /// One connection, with nothing declared.
    pub async fn bare(&self) -> Arc<dyn TaskQueue> {
        match self {
            Self::Memory(broker) => Arc::new(broker.connect()),
            Self::RabbitMq { url, options } => Arc::new(RabbitMq::connect(url, options.clone()).await.expect("connected")),
        }
    }

    /// Deletes a queue with all that is in it, as an operator may.
    pub async fn delete(&self, queue: &Queue) {
        match self {
            Self::Memory(broker) => broker.delete(queue),
            Self::RabbitMq { url, options } => {
                let (_connection, channel) = foreign(url).await;
                let name = options.names.queue(queue);
                channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
            }
        }
    }

    /// Publishes a message whose id is also its body to the exchange of the pools, as a client that is not ours.
    pub async fn publish_to_exchange(&self, routing_key: &str, id: &str) {
        let message = message(&pool(), id);
        match self {
            Self::Memory(broker) => broker.publish_to_exchange(routing_key, message.envelope, message.body),
            Self::RabbitMq { url, options } => {
                let properties = RawProperties::default().text(RawProperties::MESSAGE_ID, id.as_bytes());
                let mut raw = RawPublisher::connect(url).await;
                raw.publish_to(options.names.exchange().as_bytes(), routing_key.as_bytes(), &properties, &message.body).await;
            }
        }
    }

    /// One connection, with the default pool and all dead-letter targets declared.
    pub async fn connect(&self) -> Arc<dyn TaskQueue> {
        let queue = self.bare().await;
        for declared in [Queue::Expired, Queue::Returned, pool()] {
            queue.declare(&declared).await.expect("declared");
        }
        queue
    }
}

pub fn pool() -> Queue {
    Queue::Pool(PoolName::default())
}

pub fn gpu() -> Queue {
    Queue::Gpu(GpuId::new("GPU-0").expect("valid"))
}

pub fn prefetch(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("not zero")
}

/// A message whose id is also its body.
pub fn message(queue: &Queue, id: &str) -> Outgoing {
    message_to(Target::Queue(queue.clone()), id)
}

pub fn message_to(target: Target, id: &str) -> Outgoing {
    let envelope = Envelope { message_id: Some(id.to_owned()), ..Envelope::default() };
    Outgoing::new(target, envelope, Bytes::copy_from_slice(id.as_bytes()))
}

pub fn with_priority(queue: &Queue, id: &str, priority: u8) -> Outgoing {
    let mut message = message(queue, id);
    message.envelope.priority = Some(priority);
    message
}

pub fn with_expiration(queue: &Queue, id: &str, ms: &str) -> Outgoing {
    let mut message = message(queue, id);
    message.envelope.expiration = Some(ms.to_owned());
    message
}

pub async fn publish_all(queue: &dyn TaskQueue, messages: impl IntoIterator<Item = Outgoing>) {
    for message in messages {
        queue.publish(message).await.expect("published");
    }
}

/// Publishes all at once; the answers in the order of the messages.
pub async fn publish_together(queue: &dyn TaskQueue, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
    futures::future::join_all(messages.into_iter().map(|message| queue.publish(message))).await
}

/// What a publish is answered once nothing transient stands in its way, as whoever tries again sees it.
pub async fn publish_at_last(queue: &dyn TaskQueue, message: Outgoing) -> Result<(), PublishError> {
    let mut answer = Ok(());
    until("the broker answers for good", async || {
        answer = queue.publish(message.clone()).await;
        !answer.as_ref().is_err_and(PublishError::is_transient)
    })
    .await;
    answer
}

pub fn id_of(delivery: &Delivery) -> &str {
    delivery.envelope.message_id.as_deref().expect("an id")
}

/// The next delivery, which must come.
pub async fn next(consumer: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(Duration::from_secs(120), consumer.next()).await;
    next.expect("a delivery within two minutes").expect("a consumer that goes on")
}

/// Takes, acks and names the next `count` deliveries.
pub async fn ack_next(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        ids.push(id_of(&delivery).to_owned());
        delivery.receipt.ack().await.expect("acked");
    }
    ids
}

pub async fn ready(queue: &dyn TaskQueue, name: &Queue) -> u32 {
    queue.depth(name).await.expect("a depth").expect("a queue").ready
}

pub async fn until_ready(queue: &dyn TaskQueue, name: &Queue, count: u32) {
    until(&format!("{count} messages are ready in {name:?}"), async || ready(queue, name).await == count).await;
}
