//! A prediction as it grows: server-sent events up to the result.

use std::collections::VecDeque;

use producer::{Pending, Producer, ProgressStream, WaitError};
use protocol::{Reply, TaskId};
use tracing::debug;

use crate::{
    Gateway,
    events::{Event, Source, log::next},
    idempotency::Identity,
    tasks::TaskAccepted,
    trail::Trail,
};

/// The events of one prediction.
pub(super) struct Prediction {
    gateway: Gateway,
    pending: Pending,
    said: Option<ProgressStream>,
    ready: VecDeque<Event>,
    leaving: Leaving,
    trail: Trail,
}

/// Asks for the task's end when the only client that wants it goes away before it: nobody else would read what the GPU computes. Not where the client has a key to come
/// again with: it would find its task cancelled.
struct Leaving {
    producer: Producer,
    task_id: TaskId,
    over: bool,
    may_come_again: bool,
}

impl Prediction {
    pub(super) fn new(gateway: Gateway, mut pending: Pending, (identity, trail): (&Identity, Trail)) -> Self {
        let task_id = pending.task_id().clone();
        let ready = VecDeque::from([Event::new("accepted", &TaskAccepted::new(task_id.clone()))]);
        let may_come_again = identity.is_keyed;
        let leaving = Leaving { producer: gateway.ports.producer.clone(), task_id, over: false, may_come_again };
        Self { gateway, said: pending.progress(), pending, ready, leaving, trail }
    }

    fn end(&mut self, reply: Result<Reply, WaitError>) {
        self.leaving.over = true;
        let answered = reply.map_err(|error| self.gateway.not_answered(&error)).and_then(super::answer);
        self.ready.push_back(match answered {
            Ok(response) => {
                self.trail.answered(&self.leaving.task_id);
                Event::new("reply", &response)
            }
            Err(problem) => Event::new("problem", self.trail.failed(problem).document()),
        });
    }
}

impl Source for Prediction {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.leaving.over {
                return None;
            }
            tokio::select! {
                biased;
                events = next(&mut self.said) => self.ready.extend(events),
                reply = &mut self.pending => self.end(reply),
            }
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.over || self.may_come_again {
            return;
        }
        let (producer, task_id) = (self.producer.clone(), self.task_id.clone());
        runtime.spawn(async move {
            if let Err(error) = producer.cancel(&task_id).await {
                debug!(%task_id, %error, "cancel a prediction whose client went away; it runs to its end");
            }
        });
    }
}
