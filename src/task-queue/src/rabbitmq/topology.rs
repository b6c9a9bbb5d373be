//! Declares queues with the arguments of their contract, and remembers which, so that they can be declared again.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use protocol::config::QueueType;

use super::failure::Failure;
use crate::{
    Queue, QueueOptions,
    topology::{PRIORITY_LEVELS_MAX, Plan},
};

/// By documentation: quorum queues of RabbitMQ 4 dead-letter a message after 20 returns unless told otherwise, and a drain of a large fleet may
/// return one more often. Crashes are counted by the store, not by the broker.
const DELIVERY_LIMIT: i64 = 1_000;

/// The queues that this process has declared.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) options: QueueOptions,
    declared: Mutex<BTreeSet<Queue>>,
}

impl Topology {
    pub(super) fn new(options: QueueOptions) -> Self {
        Self { options, declared: Mutex::default() }
    }

    pub(super) fn remember(&self, queue: &Queue) {
        self.declared().insert(queue.clone());
    }

    pub(super) fn forget(&self, queue: &Queue) {
        self.declared().remove(queue);
    }

    pub(super) fn has(&self, queue: &Queue) -> bool {
        self.declared().contains(queue)
    }

    /// Every declared queue, each behind the one that takes its dead letters.
    pub(super) fn all(&self) -> Vec<Queue> {
        let (plain, behind): (Vec<_>, Vec<_>) = self.declared().iter().cloned().partition(|queue| queue.dead_letters_to().is_none());
        plain.into_iter().chain(behind).collect()
    }

    fn declared(&self) -> MutexGuard<'_, BTreeSet<Queue>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares one queue, and for a pool its exchange and binding. A refusal closes the channel.
    pub(super) async fn declare_on(&self, channel: &Channel, queue: &Queue) -> Result<(), Failure> {
        let plan = self.options.plan(queue);
        let name = short(&plan.name)?;
        let options = QueueDeclareOptions {
            durable: !plan.exclusive,
            exclusive: plan.exclusive,
            auto_delete: plan.exclusive,
            ..QueueDeclareOptions::default()
        };
        let Some(routing_key) = &plan.routing_key else {
            channel.queue_declare(name, options, arguments(&plan)).await?;
            return Ok(());
        };
        let exchange = short(&self.options.names.exchange())?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(exchange.clone(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
        channel.queue_declare(name.clone(), options, arguments(&plan)).await?;
        channel.queue_bind(name, exchange, short(routing_key)?, QueueBindOptions::default(), FieldTable::default()).await?;
        Ok(())
    }
}

/// A name as AMQP has it.
pub(super) fn short(name: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(name).map_err(|_| Failure::Refused { code: 0, text: format!("the name {name:?} has more than 255 bytes") })
}

/// The arguments of a contract. They are immutable: each change here is a new topology.
fn arguments(plan: &Plan) -> FieldTable {
    let mut table = FieldTable::default();
    let mut set = |name: &str, value: AMQPValue| {
        table.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    let milliseconds = |ttl: std::time::Duration| AMQPValue::LongLongInt(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
    if plan.queue_type == QueueType::Quorum {
        set("x-queue-type", text("quorum"));
        set("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT));
    } else if !plan.exclusive {
        // Always said: a virtual host may have another default type.
        set("x-queue-type", text("classic"));
    }
    if plan.by_priority && plan.queue_type == QueueType::Classic {
        set("x-max-priority", AMQPValue::LongLongInt(PRIORITY_LEVELS_MAX.into()));
    }
    if let Some(target) = &plan.dead_letters_to {
        set("x-dead-letter-exchange", text(""));
        set("x-dead-letter-routing-key", text(target));
    }
    if let Some(ttl) = plan.ttl {
        set("x-message-ttl", milliseconds(ttl));
    }
    if let Some(most) = plan.length_max {
        set("x-max-length", AMQPValue::LongLongInt(most.into()));
    }
    if let Some(most) = plan.bytes_max {
        set("x-max-length-bytes", AMQPValue::LongLongInt(i64::try_from(most).unwrap_or(i64::MAX)));
    }
    if plan.length_max.is_some() || plan.bytes_max.is_some() {
        set("x-overflow", text("reject-publish"));
    }
    table
}
