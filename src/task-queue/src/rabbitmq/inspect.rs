//! What an operator's check needs to know, without changing anything.

use super::RabbitMq;
use crate::{Queue, QueueError, TaskQueue};

/// Whether a queue is as the topology wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It does not exist (yet).
    Missing,
    /// It exists with the wanted arguments.
    AsWanted,
    /// It exists with other arguments; which, in the broker's words.
    Mismatch(String),
}

impl RabbitMq {
    /// Compares a queue's arguments with the topology's. Declares nothing that is missing (unless somebody deletes it between the two looks).
    ///
    /// # Errors
    /// Transient ones, and a broker that does not let this user look.
    pub async fn inspect(&self, queue: &Queue) -> Result<Presence, QueueError> {
        let name = self.names().queue(queue);
        let operation = format!("look at queue {name}");
        match self.look(&name).await? {
            Err(failure) if failure.is_missing() => return Ok(Presence::Missing),
            Err(failure) => return Err(failure.into_error(self.url(), operation)),
            Ok(_) => {}
        }
        // The broker compares arguments only when a queue is declared; one that is equal is left as it is.
        let declared = self.on_a_channel(async |channel| self.topology().declare_on(channel, queue).await).await?;
        match declared.map_err(|failure| failure.into_declare_error(self.url(), &name)) {
            Ok(()) => Ok(Presence::AsWanted),
            Err(QueueError::Mismatch { argument, .. }) => Ok(Presence::Mismatch(argument)),
            Err(error) => Err(error),
        }
    }
}
