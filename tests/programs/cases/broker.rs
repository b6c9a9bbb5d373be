//! A client of the broker that is no part of the fleet: what an operator does to queues.

use std::collections::BTreeMap;

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use protocol::config::SecretUrl;
use serde::Deserialize;

/// The value of a queue's argument.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    Flag(bool),
    Integer(i64),
    Text(String),
}

impl Argument {
    fn value(&self) -> AMQPValue {
        match self {
            Self::Flag(truth) => AMQPValue::Boolean(*truth),
            Self::Integer(number) => AMQPValue::LongLongInt(*number),
            Self::Text(text) => AMQPValue::LongString(text.as_str().into()),
        }
    }
}

async fn connect(url: &SecretUrl) -> (Connection, Channel) {
    let connection = Connection::connect(url.reveal(), ConnectionProperties::default()).await.expect("the private broker");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// Declares a durable queue.
pub async fn declare_queue(url: &SecretUrl, name: &str, arguments: &BTreeMap<String, Argument>) {
    let mut table = FieldTable::default();
    for (name, argument) in arguments {
        table.insert(name.as_str().into(), argument.value());
    }
    let (_connection, channel) = connect(url).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, table).await.expect("declared");
}

/// Deletes a queue with all that is in it.
pub async fn delete_queue(url: &SecretUrl, name: &str) {
    let (_connection, channel) = connect(url).await;
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.expect("deleted");
}

/// Whether there is a queue of this name.
pub async fn queue_exists(url: &SecretUrl, name: &str) -> bool {
    let (_connection, channel) = connect(url).await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), passive, FieldTable::default()).await.is_ok()
}
