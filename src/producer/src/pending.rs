//! The wait for one reply, as a future.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use protocol::{Reply, TaskId};
use tokio::time::{Sleep, sleep_until};

use crate::{
    ProgressStream, WaitError,
    new_task::Submitted,
    waiters::{Ending, Ticket},
};

/// A submitted task whose reply is awaited. Await it for the reply; it ends at its time limit at the latest. Dropped, it stops waiting and
/// leaves nothing behind; the task goes on. Cancel safe.
pub struct Pending {
    task_id: TaskId,
    ticket: Ticket,
    limit: Pin<Box<Sleep>>,
    after_ms: u64,
}

impl Pending {
    pub(crate) fn new(submitted: Submitted, ticket: Ticket, limit: Limit) -> Self {
        Self { task_id: submitted.task_id, ticket, limit: Box::pin(sleep_until(limit.at)), after_ms: limit.after_ms }
    }

    /// What the task says before its reply; `None` if it did not ask for it ([`NewTask::progress`](crate::NewTask::progress)), or it was taken before. The
    /// wait's time limit counts only while the reply is awaited too.
    pub fn progress(&mut self) -> Option<ProgressStream> {
        self.ticket.progress.take().map(|arriving| ProgressStream::new(self.task_id.clone(), arriving))
    }

    /// The task that is waited for.
    #[must_use]
    pub const fn task_id(&self) -> &TaskId {
        &self.task_id
    }

    fn read(&self, body: &Bytes) -> Result<Reply, WaitError> {
        let unreadable = |reason: String| WaitError::Unreadable { task_id: self.task_id.clone(), reason };
        let reply = Reply::read(body).map_err(|error| unreadable(error.to_string()))?;
        if reply.task_id == self.task_id { Ok(reply) } else { Err(unreadable(format!("it is for task {}", reply.task_id))) }
    }
}

/// When a wait ends, and what the caller had said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) at: tokio::time::Instant,
    pub(crate) after_ms: u64,
}

impl Future for Pending {
    type Output = Result<Reply, WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(ending) = Pin::new(&mut this.ticket.ending).poll(context) {
            return Poll::Ready(match ending {
                Ok(Ending::Reply(body)) => this.read(&body),
                Ok(Ending::Gone(outcome)) => Err(WaitError::ReplyGone { task_id: this.task_id.clone(), outcome }),
                Err(_) => Err(WaitError::Closed { task_id: this.task_id.clone() }),
            });
        }
        this.limit.as_mut().poll(context).map(|()| Err(WaitError::Timeout { task_id: this.task_id.clone(), after_ms: this.after_ms }))
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pending").field("task_id", &self.task_id).finish_non_exhaustive()
    }
}
