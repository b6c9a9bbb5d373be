//! Letting a task wait that must not start before a time.

use std::time::Duration;

use bytes::Bytes;
use protocol::{Envelope, Task};
use task_queue::{Outgoing, PublishError, Queue};

use crate::ports::{Abandoned, Ports, Sent};

/// What became of a task that was to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delayed {
    /// It waits: a queue has it, confirmed.
    Waits,
    /// Its time has come meanwhile.
    Due,
    /// No queue that fits takes it now.
    NoRoom,
    /// The broker takes no such message.
    Unsendable,
}

/// When the task may start, where that is still to come.
pub(crate) fn not_before_ms(task: &Task, now_ms: u64) -> Option<u64> {
    task.not_before_ms.filter(|at_ms| *at_ms > now_ms)
}

/// Publishes a task to the queue that fits what it still has to wait, or to a shorter one where that one is full or cannot be reached; tried again, after a `pause`, until one of
/// them takes it. For a hand in which it is in nobody's way.
pub(crate) async fn wait(
    ports: &Ports,
    pause: Duration,
    (envelope, body): (&Envelope, &Bytes),
    not_before_ms: u64,
) -> Result<Delayed, Abandoned> {
    let mut told = false;
    loop {
        match try_once(ports, (envelope, body), not_before_ms, &mut told).await? {
            Delayed::NoRoom => ports.pause(pause).await?,
            delayed => return Ok(delayed),
        }
    }
}

/// The same, tried once. `told`: whether the log has it already that one of these queues takes nothing.
pub(crate) async fn try_once(
    ports: &Ports,
    (envelope, body): (&Envelope, &Bytes),
    not_before_ms: u64,
    told: &mut bool,
) -> Result<Delayed, Abandoned> {
    let now_ms = ports.now_ms();
    let queues = Queue::delayed_for(not_before_ms.saturating_sub(now_ms));
    if queues.is_empty() {
        return Ok(Delayed::Due);
    }
    for queue in queues {
        let outgoing = Outgoing::delayed(queue, envelope.clone(), body.clone(), (not_before_ms, now_ms));
        match ports.publish_unless_full(&outgoing).await? {
            Sent::There => return Ok(Delayed::Waits),
            Sent::NoQueue(error) => tell(&outgoing, &error, told),
            Sent::Unsendable(_) => return Ok(Delayed::Unsendable),
        }
    }
    Ok(Delayed::NoRoom)
}

fn tell(outgoing: &Outgoing, error: &PublishError, told: &mut bool) {
    let (queue, task_id) = (&outgoing.target, outgoing.envelope.message_id.as_deref());
    if std::mem::replace(told, true) {
        tracing::debug!(%queue, task_id, %error, "takes no delayed task now either");
    } else {
        tracing::warn!(%queue, task_id, %error, "a queue of delayed tasks takes none now: the task waits in a shorter one, or elsewhere until one takes it");
    }
}
