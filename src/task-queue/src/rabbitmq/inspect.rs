//! What an operator's check needs to know, without changing anything.

use super::{RabbitMq, part::Part};
use crate::{Queue, QueueError};

/// Whether a queue or an exchange is as the topology wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It does not exist (yet).
    Missing,
    /// It exists with the wanted arguments.
    AsWanted,
    /// It exists without a bound, or without an alternate exchange, that it should have, and is used as it is; in words, with what to do.
    Lacking(String),
    /// It exists with other arguments; which, in the broker's words.
    Mismatch(String),
}

impl RabbitMq {
    /// Compares a queue's arguments with the topology's. Declares nothing that is missing (unless somebody deletes it between the two looks), and touches neither its
    /// exchange nor its binding.
    ///
    /// # Errors
    /// Transient ones, and a broker that does not let this user look.
    pub async fn inspect(&self, queue: &Queue) -> Result<Presence, QueueError> {
        let plan = self.topology().options.plan(queue);
        self.compare(Part::Queue(&plan)).await
    }

    /// As [`RabbitMq::inspect`], the exchange that leads to a queue: its name, and whether it is as the topology wants it. `None`: the queue is reached by its name alone. AMQP
    /// has no way to look at a binding.
    ///
    /// # Errors
    /// Those of [`RabbitMq::inspect`].
    pub async fn inspect_exchange_of(&self, queue: &Queue) -> Result<Option<(String, Presence)>, QueueError> {
        let plan = self.topology().options.plan(queue);
        let Some(binding) = &plan.binding else { return Ok(None) };
        let presence = self.compare(Part::Exchange(binding)).await?;
        Ok(Some((binding.exchange.clone(), presence)))
    }

    async fn compare(&self, part: Part<'_>) -> Result<Presence, QueueError> {
        let connection = self.connection()?;
        let compared = self.in_time(self.topology().compare(&connection, part)).await;
        compared.map_err(|failure| failure.into_error(self.url(), format!("look at {}", part.subject())))
    }
}
