//! What a task says before its reply, as a stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use protocol::{ProgressMessage, TaskId, Token};
use tokio::sync::mpsc;
use tracing::debug;

/// The progress messages of a task that asked for them, in order. It ends when the wait for the reply does: then the reply is there, or will not come.
///
/// Lossy: at most [`ProgressStream::WAITING_MAX`] messages wait for a slow reader, and their numbers show what was dropped. After a retry, or when another worker took
/// over, numbers begin anew under a higher token; what the earlier attempt still says is left out.
#[derive(Debug)]
pub struct ProgressStream {
    task_id: TaskId,
    arriving: mpsc::Receiver<Bytes>,
    /// Token and number of the last message.
    last: (Token, u64),
}

impl ProgressStream {
    /// Messages that wait for a slow reader at most.
    pub const WAITING_MAX: usize = 64;

    pub(crate) fn new(task_id: TaskId, arriving: mpsc::Receiver<Bytes>) -> Self {
        Self { task_id, arriving, last: (Token(0), 0) }
    }

    /// The message, unless it is none, is another task's, or comes from an earlier attempt.
    fn read(&mut self, body: &Bytes) -> Option<ProgressMessage> {
        let message: ProgressMessage = serde_json::from_slice(body)
            .inspect_err(|error| debug!(task_id = %self.task_id, %error, "a progress message cannot be read"))
            .ok()
            .filter(|message: &ProgressMessage| message.task_id == self.task_id)?;
        let place = (message.token, message.number);
        (place > self.last).then(|| self.last = place)?;
        Some(message)
    }
}

impl Stream for ProgressStream {
    type Item = ProgressMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ProgressMessage>> {
        while let Some(body) = std::task::ready!(self.arriving.poll_recv(context)) {
            if let Some(message) = self.read(&body) {
                return Poll::Ready(Some(message));
            }
        }
        Poll::Ready(None)
    }
}
