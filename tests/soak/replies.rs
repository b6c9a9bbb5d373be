//! Consumes the reply queue, which is durable and outlives the broker's restarts.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::FieldTable,
};
use producer::ReplyTo;
use protocol::{TaskId, config::SecretUrl};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{Fault, ledger::Ledger};

/// The reply queue of every task of the run.
pub(crate) const QUEUE: &str = "answers-of-the-soak";
/// Replies in hand.
const PREFETCH: u16 = 100;
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(500);

/// Where a task's reply goes.
pub(crate) fn reply_to(task_id: &TaskId) -> ReplyTo {
    ReplyTo { queue: QUEUE.to_owned(), correlation_id: task_id.to_string() }
}

/// Declares the queue.
pub(crate) async fn declare(amqp: &SecretUrl) -> Result<(), Fault> {
    let (_connection, channel) = channel(amqp).await?;
    // RabbitMQ 3.10 has the queue that was declared last on its disk only when it writes the next one: without that, one that is killed forgets it.
    for queue in [QUEUE.to_owned(), format!("{QUEUE}.next")] {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), durable, FieldTable::default()).await?;
    }
    Ok(())
}

/// Enters every reply until it is stopped.
pub(crate) async fn consume(amqp: SecretUrl, ledger: Arc<Ledger>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = consume_for_ever(&amqp, &ledger) => {}
    }
}

/// Over as many connections as it takes.
async fn consume_for_ever(amqp: &SecretUrl, ledger: &Ledger) {
    loop {
        // Why a connection ended is told by what was done to the broker.
        let _ended = consume_once(amqp, ledger).await;
        sleep(PAUSE).await;
    }
}

async fn consume_once(amqp: &SecretUrl, ledger: &Ledger) -> Result<(), Fault> {
    let (_connection, channel) = channel(amqp).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let mut replies = channel.basic_consume(QUEUE.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    while let Some(delivery) = replies.next().await {
        let delivery = delivery?;
        ledger.answered(&delivery.data, delivery.redelivered);
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

async fn channel(amqp: &SecretUrl) -> Result<(Connection, Channel), Fault> {
    let connection = Connection::connect(amqp.reveal(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}
