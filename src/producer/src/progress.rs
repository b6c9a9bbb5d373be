//! What a task says before its reply, as a stream.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use protocol::{ProgressMessage, Slice, TaskId, Token, batch::SLICES_MAX};
use tokio::sync::mpsc;
use tracing::debug;

use crate::ItemSet;

/// The progress messages of a task that asked for them, in order. It ends when the wait for the reply does: then the reply is there, or will not come.
///
/// Lossy: at most [`ProgressStream::WAITING_MAX`] messages wait for a slow reader, and their numbers show what was dropped. After a retry, or when another worker took
/// over, numbers begin anew under a higher token; what the earlier attempt still says is left out.
///
/// Of a batch the messages bring the results of items as they are there ([`ProgressMessage::results`]), each item at most once; those that were lost on the way are in the
/// reply. Where a batch was split its slices speak beside each other ([`ProgressMessage::slice`]): numbers and tokens are those of each slice.
#[derive(Debug)]
pub struct ProgressStream {
    task_id: TaskId,
    arriving: mpsc::Receiver<Bytes>,
    /// Token and number of the last message, of the whole task and of each slice.
    last: BTreeMap<Option<Slice>, (Token, u64)>,
    /// Items whose results were given.
    told: ItemSet,
}

impl ProgressStream {
    /// Messages that wait for a slow reader at most.
    pub const WAITING_MAX: usize = 64;

    /// Speakers that are told apart: the task, and its slices, which may be cut once more. Above it the one whose attempt is the oldest is forgotten.
    const SPEAKERS_MAX: usize = 2 * SLICES_MAX;

    pub(crate) fn new(task_id: TaskId, arriving: mpsc::Receiver<Bytes>) -> Self {
        Self { task_id, arriving, last: BTreeMap::new(), told: ItemSet::default() }
    }

    /// The message, unless it is none, is another task's, or comes from an earlier attempt.
    fn read(&mut self, body: &Bytes) -> Option<ProgressMessage> {
        let mut message: ProgressMessage = serde_json::from_slice(body)
            .inspect_err(|error| debug!(task_id = %self.task_id, %error, "a progress message cannot be read"))
            .ok()
            .filter(|message: &ProgressMessage| message.task_id.batch() == self.task_id)?;
        if !self.is_new(message.slice, (message.token, message.number)) {
            return None;
        }
        message.results.retain(|item| self.told.insert(item.index));
        Some(message)
    }

    /// Whether what has this place follows on what its speaker said before.
    fn is_new(&mut self, speaker: Option<Slice>, place: (Token, u64)) -> bool {
        if self.last.get(&speaker).is_some_and(|last| place <= *last) {
            return false;
        }
        self.last.insert(speaker, place);
        if self.last.len() > Self::SPEAKERS_MAX {
            let oldest = self.last.iter().min_by_key(|(_, place)| **place).map(|(speaker, _)| *speaker);
            if let Some(speaker) = oldest {
                self.last.remove(&speaker);
            }
        }
        true
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
