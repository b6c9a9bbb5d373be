//! One thing that is declared: a queue, or an exchange that leads to it.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use protocol::config::QueueType;

use super::{failure::Failure, topology::short};
use crate::topology::{Argument, Binding, PRIORITY_LEVELS_MAX, Plan, Routes};

/// By documentation: quorum queues of RabbitMQ 4 dead-letter a message after 20 returns unless told otherwise, and a drain of a large fleet may
/// return one more often. Crashes are counted by the store, not by the broker.
const DELIVERY_LIMIT: i64 = 1_000;

/// The argument of an exchange that names the one which takes what it leads nowhere.
const ALTERNATE: &str = "alternate-exchange";

/// What is declared.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'p> {
    Queue(&'p Plan),
    Exchange(&'p Binding),
}

/// How it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// With the arguments of the contract.
    Whole,
    /// As an earlier version did: a queue without bounds, an exchange without an alternate one.
    Less,
    /// Not at all: a missing one is refused, any other one is right.
    Look,
}

impl Part<'_> {
    /// What it is, for people.
    pub(super) fn subject(self) -> String {
        match self {
            Self::Queue(plan) => format!("queue {}", plan.name),
            Self::Exchange(binding) => format!("exchange {}", binding.exchange),
        }
    }

    /// Declares it. A refusal closes the channel.
    pub(super) async fn declare_on(self, channel: &Channel, how: How) -> Result<(), Failure> {
        let passive = how == How::Look;
        match self {
            Self::Queue(plan) => {
                let options = QueueDeclareOptions {
                    passive,
                    durable: !plan.exclusive,
                    exclusive: plan.exclusive,
                    auto_delete: plan.exclusive,
                    ..QueueDeclareOptions::default()
                };
                channel.queue_declare(short(&plan.name)?, options, queue_arguments(plan, how)).await?;
            }
            Self::Exchange(binding) => {
                let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
                let kind = match binding.routes {
                    Routes::ByKey => ExchangeKind::Direct,
                    Routes::Always => ExchangeKind::Fanout,
                };
                channel.exchange_declare(short(&binding.exchange)?, kind, options, exchange_arguments(binding, how)).await?;
            }
        }
        Ok(())
    }

    /// Whether a refusal is about an argument without which it may be used as well.
    pub(super) fn may_lack(self, refused: &Failure) -> bool {
        let Some(argument) = refused.differing_argument() else { return false };
        match self {
            Self::Queue(plan) => plan.bounds.arguments().iter().any(|(name, _)| *name == argument),
            Self::Exchange(binding) => binding.alternate.is_some() && argument == ALTERNATE,
        }
    }

    /// What is to be said of it where it exists without those arguments.
    pub(super) fn lack(self) -> String {
        match self {
            Self::Queue(plan) => plan.without_bounds(),
            Self::Exchange(binding) => binding.without_alternate(),
        }
    }
}

/// The arguments of an exchange. They are immutable: each change here is a new topology.
fn exchange_arguments(binding: &Binding, how: How) -> FieldTable {
    let mut table = FieldTable::default();
    if let Some(alternate) = binding.alternate.as_deref().filter(|_| how == How::Whole) {
        table.insert(ALTERNATE.into(), AMQPValue::LongString(alternate.into()));
    }
    table
}

/// The arguments of a queue. They are immutable: each change here is a new topology.
fn queue_arguments(plan: &Plan, how: How) -> FieldTable {
    let mut table = FieldTable::default();
    let mut set = |name: &str, value: AMQPValue| {
        table.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    let number = |number: u64| AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX));
    if plan.queue_type == QueueType::Quorum {
        set("x-queue-type", text("quorum"));
        set("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT));
    } else if !plan.exclusive {
        // Always said: a virtual host may have another default type.
        set("x-queue-type", text("classic"));
    }
    if plan.by_priority && plan.queue_type == QueueType::Classic {
        set("x-max-priority", number(PRIORITY_LEVELS_MAX.into()));
    }
    if let Some(target) = &plan.dead_letters_to {
        set("x-dead-letter-exchange", text(""));
        set("x-dead-letter-routing-key", text(target));
    }
    if let Some(ttl) = plan.ttl {
        set("x-message-ttl", number(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)));
    }
    if how == How::Whole {
        for (name, value) in plan.bounds.arguments() {
            let value = match value {
                Argument::Number(bound) => number(bound),
                Argument::Text(word) => text(word),
            };
            set(name, value);
        }
    }
    table
}
