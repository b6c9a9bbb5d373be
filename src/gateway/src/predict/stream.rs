//! A prediction as it grows, or a list of them as they are there: server-sent events up to the whole.

use std::collections::VecDeque;

use producer::{ItemSet, Pending, Producer, WaitError};
use protocol::{ProgressMessage, Reply, TaskId};
use tracing::debug;

use super::answer::{Answer, Form, PredictListResponse, Predicted, PredictedItem};
use crate::{
    Gateway,
    events::{Event, HowFar, Source, log::Said},
    idempotency::Identity,
    tasks::TaskAccepted,
    trail::Trail,
};

/// The events of one prediction.
pub(super) struct Prediction {
    gateway: Gateway,
    form: Form,
    pending: Pending,
    said: Said,
    /// Of a list: the texts whose results were told.
    told: ItemSet,
    ready: VecDeque<Event>,
    rest: Rest,
    leaving: Leaving,
    trail: Trail,
}

/// What is told of a list that has ended: the results that were not told before, then the whole. One event at a time: together they take twice what the whole does.
type Rest = Option<Box<dyn Iterator<Item = Event> + Send>>;

/// Asks for the task's end when the only client that wants it goes away before it: nobody else would read what the GPU computes. Not where the client has a key to come
/// again with: it would find its task cancelled.
struct Leaving {
    producer: Producer,
    task_id: TaskId,
    over: bool,
    may_come_again: bool,
}

impl Prediction {
    pub(super) fn new(gateway: Gateway, (mut pending, form): (Pending, Form), (identity, trail): (&Identity, Trail)) -> Self {
        let task_id = pending.task_id().clone();
        let ready = VecDeque::from([Event::new("accepted", &TaskAccepted::new(task_id.clone()))]);
        let may_come_again = identity.is_keyed;
        let leaving = Leaving { producer: gateway.ports.producer.clone(), task_id, over: false, may_come_again };
        let (said, told, rest) = (Said::of(&mut pending), ItemSet::default(), None);
        Self { gateway, form, pending, said, told, ready, rest, leaving, trail }
    }

    fn hear(&mut self, message: &ProgressMessage) {
        match self.form {
            Form::One => self.ready.extend(Event::of(message)),
            Form::List => {
                self.ready.extend(HowFar::said_by(message).map(|how_far| Event::new("progress", &how_far)));
                for item in &message.results {
                    if self.told.insert(item.index) {
                        let predicted = Predicted::read(item.index, &item.came_out);
                        self.ready.push_back(Event::new("item", &PredictedItem { index: item.index, predicted: &predicted }));
                    }
                }
            }
        }
    }

    fn end(&mut self, reply: Result<Reply, WaitError>) {
        self.leaving.over = true;
        match reply.map_err(|error| self.gateway.not_answered(&error)).and_then(|reply| self.form.answer(reply)) {
            Ok(answer) => {
                self.trail.answered(&self.leaving.task_id);
                match answer {
                    Answer::One(response) => self.ready.push_back(Event::new("reply", &response)),
                    Answer::List(response) => self.rest = Some(Box::new(rest(response, std::mem::take(&mut self.told)))),
                }
            }
            Err(problem) => self.ready.push_back(Event::new("problem", self.trail.failed(problem).document())),
        }
    }
}

impl Source for Prediction {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.leaving.over {
                return self.rest.as_mut()?.next();
            }
            tokio::select! {
                biased;
                message = self.said.next() => self.hear(&message),
                reply = &mut self.pending => self.end(reply),
            }
        }
    }
}

/// The results of a list that were not told, and the whole.
fn rest(response: PredictListResponse, told: ItemSet) -> impl Iterator<Item = Event> + Send {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        while let Some(index) = next {
            let Some(item) = response.item(index) else {
                next = None;
                return Some(Event::new("reply", &response));
            };
            next = index.checked_add(1);
            if !told.contains(index) {
                return Some(Event::new("item", &item));
            }
        }
        None
    })
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
