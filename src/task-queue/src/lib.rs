//! How tasks and replies travel: one port, two back ends, one conformance suite.
//!
//! [`TaskQueue`] is the port. [`MemoryBroker`] keeps everything inside the process; [`RabbitMq`] speaks AMQP 0-9-1. The worker cannot tell which it
//! has. [`BodyBudget`] bounds the memory of what has arrived.

mod bodies;
mod consumer;
mod death;
mod delayed;
mod error;
mod memory;
pub mod message;
mod options;
mod queue;
mod rabbitmq;
mod topology;

pub use bodies::{BodyBudget, BodyShare};
pub use consumer::{Consumer, Feed, Inbox, Stopper};
pub use death::{Death, DeathReason};
pub use error::{PublishError, QueueError};
pub use memory::{MemoryBroker, MemoryQueue};
pub use message::{Delivery, Outgoing, Receipt, Settle, Target};
pub use options::QueueOptions;
pub use queue::{Depth, Link, Names, Queue, TaskQueue};
pub use rabbitmq::{Greeting, Presence, RabbitMq, greeting};
