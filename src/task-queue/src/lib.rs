//! How tasks and replies travel: one port, two back ends, one conformance suite.
//!
//! [`TaskQueue`] is the port. `memory` keeps everything inside the process; `rabbitmq` speaks AMQP 0-9-1. The worker cannot tell which it has.

mod error;
pub mod message;
mod queue;

pub use error::{PublishError, QueueError};
pub use message::{Delivery, Outgoing, Receipt, Settle, Target};
pub use queue::{Consumer, Depth, Link, Names, Queue, TaskQueue};
