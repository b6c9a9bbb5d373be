//! The client that asks the bare echo and the fleet alike: one channel, pipelined confirms, a reply queue of its own.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use protocol::{config::SecretUrl, envelope::OUTCOME};
use tokio::{sync::oneshot, time::Instant};

use crate::{Fault, bare::PERSISTENT};

/// A bare producer. Clones share its channel.
#[derive(Clone)]
pub(crate) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    _connection: Connection,
    channel: Channel,
    reply_queue: ShortString,
    last: AtomicU64,
    waiting: Waiting,
}

/// Who waits for which reply, by correlation id.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Reply>>>>;

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) queue: String,
    pub(crate) kind: &'static str,
    pub(crate) body: Bytes,
}

/// A reply, and when it came.
#[derive(Debug)]
struct Reply {
    at: Instant,
    body: Vec<u8>,
    outcome: Option<String>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// From before the publish to the arrival of the reply.
    pub(crate) latency: Duration,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(url: &SecretUrl) -> Result<Self, Fault> {
        let connection = Connection::connect(url.reveal(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let reply_queue: ShortString = format!("bench.reply.{}", uuid::Uuid::new_v4().simple()).into();
        let exclusive = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(reply_queue.clone(), exclusive, FieldTable::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = channel.basic_consume(reply_queue.clone(), "".into(), options, FieldTable::default()).await?;
        let waiting = Waiting::default();
        tokio::spawn(dispatch(replies, Arc::clone(&waiting)));
        Ok(Self { shared: Arc::new(Shared { _connection: connection, channel, reply_queue, last: AtomicU64::new(0), waiting }) })
    }

    /// Asks, and waits for the broker's confirm and for the reply.
    ///
    /// # Errors
    /// A refused publish, or a reply that tells of anything but success.
    pub(crate) async fn ask(self, question: Question) -> Result<Answer, Fault> {
        let shared = &*self.shared;
        // Unique over every client of the run: the store knows tasks by it.
        let id = format!("{}-{}", shared.reply_queue.as_str(), shared.last.fetch_add(1, Ordering::Relaxed));
        let (sender, reply) = oneshot::channel();
        lock(&shared.waiting).insert(id.clone(), sender);
        let asked = Instant::now();
        let properties = self.properties(&id, &question);
        let published =
            shared.channel.basic_publish("".into(), question.queue.into(), BasicPublishOptions::default(), &question.body, properties);
        if let Confirmation::Nack(_) = published.await?.await? {
            return Err("the broker refused a publish".into());
        }
        let Reply { at, body, outcome } = reply.await?;
        match outcome.as_deref() {
            None | Some("succeeded") => Ok(Answer { latency: at - asked, body }),
            Some(other) => Err(format!("a task {other}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    fn properties(&self, id: &str, question: &Question) -> BasicProperties {
        BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(protocol::frame::content_type(&question.body).into())
            .with_message_id(id.into())
            .with_correlation_id(id.into())
            .with_type(question.kind.into())
            .with_reply_to(self.shared.reply_queue.clone())
    }
}

async fn dispatch(mut replies: lapin::Consumer, waiting: Waiting) {
    while let Some(Ok(delivery)) = replies.next().await {
        let at = Instant::now();
        let outcome = outcome(&delivery);
        let id = delivery.properties.correlation_id().as_ref().map_or_else(String::new, ToString::to_string);
        if let Some(sender) = lock(&waiting).remove(&id) {
            let _given_up = sender.send(Reply { at, body: delivery.data, outcome });
        }
    }
    // Whoever still waits is told by the dropped sender.
    lock(&waiting).clear();
}

fn outcome(delivery: &Delivery) -> Option<String> {
    let value = delivery.properties.headers().as_ref()?.inner().get(OUTCOME)?;
    Some(value.as_long_string()?.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
