//! The yardstick: consumers with nothing but the client library. Each has a connection and a channel of its own, takes what its prefetch allows at
//! once, passes the time that the work takes, publishes each answer confirmed, then acks.
//!
//! They run in processes of their own, as workers do: this program, started again with the plan as its arguments.

use std::{convert::Infallible, time::Duration};

use devices::simulated::Sleeper;
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde::{Deserialize, Serialize};
use tests::program::Program;
use tokio::time::Instant;

use crate::{Fault, output, servers::Servers};

pub(crate) const PERSISTENT: u8 = 2;
/// The first argument of a process of consumers.
pub(crate) const ROLE: &str = "bare-consumers";
/// Said once all consume.
const READY: &str = "bare consumers of ";

/// What one process of consumers does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BarePlan {
    /// The durable queue.
    pub(crate) queue: String,
    pub(crate) kind: QueueKind,
    pub(crate) consumers: usize,
    /// What each may hold at once.
    pub(crate) prefetch: u16,
    /// How long each delivery is worked on.
    pub(crate) service: Duration,
}

/// What the queue can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum QueueKind {
    /// Ten priorities, as a pool's queue has.
    Priorities,
    /// First in, first out.
    Plain,
}

/// Processes of bare consumers, until dropped.
pub(crate) struct BareConsumers {
    pub(crate) queue: String,
    programs: Vec<Program>,
}

impl BareConsumers {
    /// Starts so many processes, and returns once all consume.
    pub(crate) async fn start(servers: &Servers, plan: &BarePlan, processes: usize) -> Result<Self, Fault> {
        let arguments = [ROLE.to_owned(), servers.amqp().reveal().to_owned(), serde_json::to_string(plan)?];
        let this = std::env::current_exe()?;
        let programs: Vec<Program> = (0..processes).map(|_| Program::start_at(&this, &arguments, &[])).collect();
        for program in &programs {
            program.logged(READY).await;
        }
        Ok(Self { queue: plan.queue.clone(), programs })
    }

    /// Their process ids.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.programs.iter().map(Program::pid).collect()
    }
}

/// Is a process of consumers. `arguments`: those after [`ROLE`].
pub(crate) async fn serve(mut arguments: impl Iterator<Item = String>) -> Result<Infallible, Fault> {
    let (url, plan) = arguments.next().zip(arguments.next()).ok_or("the broker's URL and the plan are missing")?;
    let plan: BarePlan = serde_json::from_str(&plan)?;
    let mut connections = Vec::new();
    for _ in 0..plan.consumers {
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        consume(&connection.create_channel().await?, &plan).await?;
        connections.push(connection);
    }
    output::note(&format!("{READY}{}", plan.queue));
    std::future::pending().await
}

async fn consume(channel: &Channel, plan: &BarePlan) -> Result<(), Fault> {
    let (queue, service) = (plan.queue.as_str(), plan.service);
    let mut arguments = FieldTable::default();
    if plan.kind == QueueKind::Priorities {
        arguments.insert("x-max-priority".into(), AMQPValue::LongLongInt(10));
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    channel.basic_qos(plan.prefetch, BasicQosOptions::default()).await?;
    let mut deliveries = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    let channel = channel.clone();
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = deliveries.next().await {
            let channel = channel.clone();
            // A failure shows as an answer that never comes.
            tokio::spawn(async move { answer(&channel, delivery, service).await });
        }
    });
    Ok(())
}

async fn answer(channel: &Channel, delivery: Delivery, service: Duration) -> lapin::Result<()> {
    if !service.is_zero() {
        // By the timer that `simulate` waits by in a worker: the work is to take both sides equally long.
        Sleeper::Precise.sleep_until(Instant::now() + service).await;
    }
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
