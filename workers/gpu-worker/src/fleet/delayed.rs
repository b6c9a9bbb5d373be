//! The queues of delayed tasks: what lies there goes on to the next one, and to its pool when it is due.
//!
//! ```text
//!  long queue ──► its head is taken, now and then ─┐
//!  short queue ──► held, unacked, until its wait is over (waiting.rs) ─┴─► placed by what is left: published, confirmed; then acked
//! ```
//!
//! Nothing rests on anybody's memory: what lies in a queue says itself when it goes on, and every worker looks. A message that is taken is placed anew, whether its wait is over or
//! not, and never given back: quorum queues drop what was given back too often. In a queue whose messages all wait equally long, nothing is due before its head, and in an empty one
//! nothing before a whole wait has passed. So a look tells when the next one is worth it, and many workers cost little: while these queues are empty, each worker asks about once in
//! four minutes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use protocol::{BodyHash, Envelope, TaskId, envelope::Headers};
use task_queue::{Delivery, Queue, Receipt};
use task_store::{Look, LookRequest};

use super::mover::Mover;
use crate::{
    context::Context,
    delivery::delayed::{self, Delayed},
    me::Me,
    ports::{Abandoned, Ports, millis},
};

/// Most messages of one queue that a worker moves at once, while all that it takes is due.
const AT_ONCE: usize = 16;
/// A look comes so late, in parts of its queue's wait, and up to twice as late at random: then more is due, and a fleet's workers do not look all at once. A queue takes only what has
/// more than that to spare.
const LATE_PART: f64 = 0.05;
/// It comes no later than this, and up to twice as late.
const LATE_MAX: Duration = Duration::from_secs(300);
/// A worker looks for the first time within this time, at random, and no later than it looks after its queues.
const FIRST_LOOK: Duration = Duration::from_secs(60);

/// What moves delayed tasks.
#[derive(Clone)]
pub(crate) struct DelayedTasks {
    ports: Ports,
    me: Arc<Me>,
    mover: Mover,
}

/// When the next look is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Now: all was due, and more may be.
    Now,
    /// After this time.
    After(Duration),
    /// That is not known.
    Unknown,
}

/// What was found at the head of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Nothing.
    Nothing,
    /// A message whose wait there was over. It went on.
    Due,
    /// A message whose wait would have been over after so many milliseconds. It was placed anew.
    Early(u64),
    /// That is not known: the broker does not answer.
    Unknown,
}

impl DelayedTasks {
    pub(crate) fn of(context: &Context) -> Self {
        Self { ports: context.ports.clone(), me: Arc::clone(&context.me), mover: Mover::of(context) }
    }

    /// Looks at the head of one long queue now and then, until the worker stops.
    pub(crate) async fn run(self, queue: Queue) {
        let wait = queue.delay().unwrap_or_default();
        let stop = self.ports.stop.clone();
        // A fleet that starts as a whole does not look as a whole.
        let mut pause = FIRST_LOOK.min(self.me.options.topology_every).mul_f64(self.ports.environment.random.unit());
        loop {
            tokio::select! {
                biased;
                () = stop.now.cancelled() => return,
                () = stop.gently.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            // Not raced with a stop: a message that had been taken by then would be nobody's.
            pause = self.look(&queue, wait).await;
        }
    }

    /// Moves all that is due. After how long the next look is worth it.
    async fn look(&self, queue: &Queue, wait: Duration) -> Duration {
        let mut at_once = 1;
        while !self.ports.stop.gently.is_cancelled() {
            let found = join_all((0..at_once).map(|_| self.take(queue))).await;
            match next_look(&found, wait) {
                Next::Now => at_once = (at_once * 2).min(AT_ONCE),
                Next::After(pause) => return pause + self.late(wait),
                Next::Unknown => return self.me.options.lease,
            }
        }
        Duration::ZERO
    }

    fn late(&self, wait: Duration) -> Duration {
        wait.mul_f64(LATE_PART).min(LATE_MAX).mul_f64(1.0 + self.ports.environment.random.unit())
    }

    async fn take(&self, queue: &Queue) -> Found {
        match self.ports.queue.take(queue).await {
            Ok(Some(delivery)) => self.take_on(delivery).await,
            Ok(None) => Found::Nothing,
            Err(error) => {
                tracing::debug!(%queue, %error, "not looked at this time");
                Found::Unknown
            }
        }
    }

    /// Places a message that was taken by what it has left to wait, and acks it.
    async fn take_on(&self, delivery: Delivery) -> Found {
        let Delivery { queue, mut envelope, body, receipt, redelivered, .. } = delivery;
        let early_ms = early_ms(&envelope.headers, queue.delay().unwrap_or_default(), self.ports.now_ms());
        envelope.headers.copy |= redelivered;
        let gone = tokio::select! {
            biased;
            gone = self.place(envelope, body, true) => gone,
            // The broker loses patience with what stays unacked for long.
            () = tokio::time::sleep(self.me.options.unacked) => {
                give_back(receipt).await;
                return Found::Unknown;
            }
        };
        if gone == Err(Abandoned) {
            tracing::debug!("left unacked: the broker will deliver it again");
            return Found::Unknown;
        }
        if let Err(error) = receipt.ack().await {
            tracing::debug!(%error, "went on, and may come again; its identity makes the copy harmless");
        }
        if early_ms == 0 { Found::Due } else { Found::Early(early_ms) }
    }

    /// Lets a message go on whose wait in a short queue is over.
    pub(crate) async fn go_on(&self, envelope: Envelope, body: Bytes) -> Result<(), Abandoned> {
        self.place(envelope, body, false).await
    }

    /// Publishes a task to the queue that fits what it has left to wait, or to its pool if it is due. When this returns, it is safe there. `may_have_ended`: it has waited for long,
    /// so that it is worth a question whether somebody has cancelled it meanwhile. Then its pool answers its producer now.
    async fn place(&self, envelope: Envelope, body: Bytes, may_have_ended: bool) -> Result<(), Abandoned> {
        // What somebody has put there by hand says nothing, and goes to its pool.
        let not_before_ms = envelope.headers.not_before_ms.unwrap_or(0);
        if may_have_ended && not_before_ms > self.ports.now_ms() && self.has_ended(&envelope, &body).await {
            return self.mover.put_back(envelope, body).await;
        }
        let lease = self.me.options.lease;
        loop {
            match delayed::wait(&self.ports, lease, (&envelope, &body), not_before_ms).await? {
                Delayed::Waits => return Ok(()),
                Delayed::Due => return self.mover.put_back(envelope, body).await,
                // Nothing is dropped: somebody must look.
                Delayed::Unsendable | Delayed::NoRoom => self.ports.pause(lease).await?,
            }
        }
    }

    /// Whether the store knows that the task is not to run. Where it does not answer, that is found out when the task is due.
    async fn has_ended(&self, envelope: &Envelope, body: &Bytes) -> bool {
        let Some(task_id) = envelope.message_id.as_deref().and_then(|id| TaskId::new(id).ok()) else { return false };
        let request = LookRequest {
            task_id,
            body_hash: BodyHash::of(body),
            attempt: envelope.headers.attempt.unwrap_or(1),
            published_s: envelope.timestamp,
        };
        matches!(self.ports.store.look(&request).await, Ok(Look::Cancelled | Look::Ended(_)))
    }
}

/// When the next look is worth it, by what was found.
fn next_look(found: &[Found], wait: Duration) -> Next {
    let early_ms = found.iter().filter_map(|found| if let Found::Early(ms) = found { Some(*ms) } else { None });
    if found.contains(&Found::Unknown) {
        Next::Unknown
    } else if let Some(earliest_ms) = early_ms.min() {
        Next::After(Duration::from_millis(earliest_ms))
    } else if found.contains(&Found::Nothing) {
        // What comes from now on waits for as long as all others.
        Next::After(wait)
    } else {
        Next::Now
    }
}

/// How long the wait of a message in a queue that was taken now would have gone on, in milliseconds. A time that its queue cannot have given it is not believed.
fn early_ms(headers: &Headers, wait: Duration, now_ms: u64) -> u64 {
    let left_ms = headers.due_ms.unwrap_or(0).saturating_sub(now_ms);
    if left_ms > millis(wait) { 0 } else { left_ms }
}

async fn give_back(receipt: Receipt) {
    if let Err(error) = receipt.give_back().await {
        tracing::debug!(%error, "not given back: the broker has it already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(300);

    #[test]
    fn a_look_goes_on_while_all_is_due_and_then_waits_for_what_is_due_next() {
        let seconds = Duration::from_secs;
        assert_eq!(next_look(&[Found::Due, Found::Due], WAIT), Next::Now);
        assert_eq!(next_look(&[Found::Due, Found::Nothing], WAIT), Next::After(WAIT));
        assert_eq!(next_look(&[Found::Due, Found::Early(9_000), Found::Early(8_000), Found::Nothing], WAIT), Next::After(seconds(8)));
        assert_eq!(next_look(&[Found::Early(8_000), Found::Unknown], WAIT), Next::Unknown);
    }

    #[test]
    fn a_head_without_a_believable_time_goes_on_at_once() {
        let early = |due_ms| early_ms(&Headers { due_ms, ..Headers::default() }, WAIT, 1_000);
        assert_eq!(
            [None, Some(900), Some(1_000), Some(1_500), Some(301_000), Some(301_001), Some(u64::MAX)].map(early),
            [0, 0, 0, 500, 300_000, 0, 0]
        );
    }
}
