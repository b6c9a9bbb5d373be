//! A reply queue that only one case has.

use std::{num::NonZeroU16, time::Duration};

use protocol::{Reply, envelope::Headers};
use task_queue::{Consumer, Queue, RabbitMq, TaskQueue};

/// The queue, and what comes to it.
pub struct Mailbox {
    name: String,
    replies: Consumer,
}

/// A reply that came.
#[derive(Debug)]
pub struct Received {
    pub reply: Reply,
    pub headers: Headers,
}

impl Mailbox {
    /// Declares a fresh one.
    pub async fn open(queue: &RabbitMq) -> Self {
        let own = Queue::Reply(format!("case-{}", uuid::Uuid::new_v4().simple()));
        queue.declare(&own).await.expect("the private broker");
        let replies = queue.consume(&own, NonZeroU16::MIN).await.expect("the private broker");
        Self { name: queue.names().queue(&own), replies }
    }

    /// Its name on the broker.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next reply; why there is none.
    pub async fn next(&mut self, limit: Duration) -> Result<Received, String> {
        let delivery = tokio::time::timeout(limit, self.replies.next()).await.map_err(|_| format!("no reply came within {limit:?}"))?;
        let delivery = delivery.ok_or("the reply queue is closed")?;
        let reply = serde_json::from_slice(&delivery.body).map_err(|error| format!("the reply cannot be read: {error}"))?;
        delivery.receipt.ack().await.map_err(|error| error.to_string())?;
        Ok(Received { reply, headers: delivery.envelope.headers })
    }
}
