//! Many tasks with a bounded number in flight.

use std::{num::NonZeroUsize, time::Duration};

use futures::{Stream, StreamExt, stream};
use protocol::Reply;

use crate::{NewTask, Producer, SubmitError, Submitted, WaitError};

/// How many tasks are waited for at once, and how long for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Many {
    /// Tasks submitted and not yet answered.
    pub in_flight: NonZeroUsize,
    /// Longest wait for each, from its submit.
    pub timeout: Duration,
}

impl Producer {
    /// Submits tasks as the stream is polled, `in_flight` at once, so that confirms are awaited together. Each result comes with the task's place
    /// in `tasks`, in the order in which the broker confirmed. A task that fails stops no other.
    pub fn submit_many<I>(&self, tasks: I, in_flight: NonZeroUsize) -> impl Stream<Item = (usize, Result<Submitted, SubmitError>)> + Send
    where
        I: IntoIterator<Item = NewTask>,
        I::IntoIter: Send,
    {
        let producer = self.clone();
        let submits = stream::iter(tasks).enumerate().map(move |(place, task)| {
            let producer = producer.clone();
            async move { (place, producer.submit(task).await) }
        });
        submits.buffer_unordered(in_flight.get())
    }

    /// Submits tasks as the stream is polled and waits for their replies, `in_flight` at once. Each result comes with the task's place in
    /// `tasks`, in the order in which they ended. A task that fails stops no other; a dropped stream stops waiting, and what was submitted goes on.
    pub fn submit_and_wait_many<I>(&self, tasks: I, many: Many) -> impl Stream<Item = (usize, Result<Reply, WaitError>)> + Send
    where
        I: IntoIterator<Item = NewTask>,
        I::IntoIter: Send,
    {
        let producer = self.clone();
        let waits = stream::iter(tasks).enumerate().map(move |(place, task)| {
            let producer = producer.clone();
            async move { (place, producer.submit_and_wait(task, many.timeout).await) }
        });
        waits.buffer_unordered(many.in_flight.get())
    }
}
