//! Dead letters: messages that could not be tasks and tasks that were given up, in their original bytes. For operators.
//!
//! AMQP cannot look without taking: letters are taken, shown, and given back to their places. While they are in hand nobody else sees them, so operations on them should
//! not run beside each other, and each should run to its end: a letter whose operation is dropped stays unseen until this process's connection ends.

mod requeue;

use std::{collections::BTreeSet, sync::Arc};

use protocol::{DeadLetter, Environment, Json, ListedSegment, PoolName, Requeued, Segments, TaskId, frame};
use task_queue::{Delivery, Queue, QueueError, TaskQueue};
use task_store::TaskStore;

use crate::DeadLetterError;

/// The dead letters of a fleet. [`Producer::dead_letters`](crate::Producer::dead_letters) gives it.
pub struct DeadLetters {
    queue: Arc<dyn TaskQueue>,
    store: Arc<dyn TaskStore>,
    environment: Environment,
    /// Where a letter is requeued that does not say where it came from.
    pool: PoolName,
    bytes_max: usize,
}

impl DeadLetters {
    /// Most letters in hand at once: each has a channel of its own, and RabbitMQ allows a connection 2,047 unless told otherwise.
    pub const IN_HAND_MAX: usize = 1_000;

    pub(crate) fn new(queue: Arc<dyn TaskQueue>, store: Arc<dyn TaskStore>, environment: Environment, pool: PoolName) -> Self {
        Self { queue, store, environment, pool, bytes_max: usize::MAX }
    }

    /// The same, with a bound on the bodies in hand at once, in bytes: no further letter is taken once it is reached. Default: none.
    #[must_use]
    pub fn with_bytes_max(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// How many there are now.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn count(&self) -> Result<u64, DeadLetterError> {
        Ok(self.queue.depth(&Queue::Dead).await?.map_or(0, |depth| u64::from(depth.ready)))
    }

    /// The first ones, oldest first: at most `limit`, and no more than may be in hand.
    ///
    /// # Errors
    /// The broker does not answer, or a letter did not go back: it does once this process's connection ends.
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let letters = self.take(limit).await?;
        let shown = letters.iter().map(shown).collect();
        give_back(letters).await?;
        Ok(shown)
    }

    /// Those of one task, among as many as may be in hand; none where it has none there. A crash may have left two.
    ///
    /// # Errors
    /// As of [`DeadLetters::list`].
    pub async fn of(&self, task_id: &TaskId) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let letters = self.take(Self::IN_HAND_MAX).await?;
        let shown = letters.iter().filter(|letter| is_of(letter, task_id)).map(shown).collect();
        give_back(letters).await?;
        Ok(shown)
    }

    /// Publishes the letters of one task, or all, to their pools again, among as many as may be in hand: a second life, with a second reply. `None`: there is no letter of
    /// `task_id`. Doing it again finds nothing.
    ///
    /// # Errors
    /// The broker or the store does not answer; what was requeued before stays requeued.
    pub async fn requeue(&self, task_id: Option<&TaskId>) -> Result<Option<Requeued>, DeadLetterError> {
        let chosen = match task_id {
            Some(task_id) => self.take_of(task_id).await?,
            None => self.take(Self::IN_HAND_MAX).await?,
        };
        if task_id.is_some() && chosen.is_empty() {
            return Ok(None);
        }
        self.requeue_each(chosen).await.map(Some)
    }

    /// As [`DeadLetters::requeue`], for the letters of some tasks.
    ///
    /// # Errors
    /// As of [`DeadLetters::requeue`].
    pub async fn requeue_those(&self, tasks: &BTreeSet<TaskId>) -> Result<Requeued, DeadLetterError> {
        let of_one = |letter: &Delivery| id(letter).parse::<TaskId>().is_ok_and(|task_id| tasks.contains(&task_id));
        let chosen = self.take_chosen(of_one).await?;
        self.requeue_each(chosen).await
    }

    /// Deletes the letters of one task, among as many as may be in hand; how many there were.
    ///
    /// # Errors
    /// The broker does not answer; some may be gone.
    pub async fn purge(&self, task_id: &TaskId) -> Result<u64, DeadLetterError> {
        let mut purged = 0;
        let mut chosen = self.take_of(task_id).await?.into_iter();
        while let Some(letter) = chosen.next() {
            if let Err(error) = letter.receipt.ack().await {
                let _first_error_counts = give_back(chosen.collect()).await;
                return Err(error.into());
            }
            purged += 1;
        }
        Ok(purged)
    }

    /// Deletes as many as there are now; how many there were. One by one: there may be more than can be in hand.
    ///
    /// # Errors
    /// The broker does not answer; some may be gone.
    pub async fn purge_all(&self) -> Result<u64, DeadLetterError> {
        let present = self.count().await?;
        let mut purged = 0;
        while purged < present
            && let Some(letter) = self.queue.take(&Queue::Dead).await?
        {
            letter.receipt.ack().await?;
            purged += 1;
        }
        Ok(purged)
    }

    /// Takes up to `limit` letters, as many as there are now and may be in hand.
    async fn take(&self, limit: usize) -> Result<Vec<Delivery>, DeadLetterError> {
        let (mut letters, mut bytes) = (Vec::new(), 0_usize);
        while letters.len() < limit.min(Self::IN_HAND_MAX) && bytes < self.bytes_max {
            match self.queue.take(&Queue::Dead).await {
                Ok(Some(letter)) => {
                    bytes = bytes.saturating_add(letter.body.len());
                    letters.push(letter);
                }
                Ok(None) => break,
                Err(error) => {
                    let _first_error_counts = give_back(letters).await;
                    return Err(error.into());
                }
            }
        }
        Ok(letters)
    }

    /// Takes the letters of one task, among as many as may be in hand.
    async fn take_of(&self, task_id: &TaskId) -> Result<Vec<Delivery>, DeadLetterError> {
        self.take_chosen(|letter| is_of(letter, task_id)).await
    }

    /// Takes the letters that are meant, among as many as may be in hand.
    async fn take_chosen(&self, is_meant: impl Fn(&Delivery) -> bool + Send) -> Result<Vec<Delivery>, DeadLetterError> {
        let (chosen, others): (Vec<_>, Vec<_>) = self.take(Self::IN_HAND_MAX).await?.into_iter().partition(is_meant);
        if let Err(error) = give_back(others).await {
            let _first_error_counts = give_back(chosen).await;
            return Err(error.into());
        }
        Ok(chosen)
    }
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pool, bytes_max, .. } = self;
        formatter.debug_struct("DeadLetters").field("pool", pool).field("bytes_max", bytes_max).finish_non_exhaustive()
    }
}

/// Gives all of them back, whatever becomes of some.
async fn give_back(letters: Vec<Delivery>) -> Result<(), QueueError> {
    let mut failed = None;
    // The last one first, so that each comes back before those that stood behind it.
    for letter in letters.into_iter().rev() {
        match letter.receipt.give_back().await {
            // Where its channel is gone it is back already.
            Ok(()) | Err(QueueError::Stale) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn id(letter: &Delivery) -> &str {
    letter.envelope.message_id.as_deref().unwrap_or_default()
}

fn is_of(letter: &Delivery, task_id: &TaskId) -> bool {
    id(letter) == task_id.as_str()
}

fn shown(letter: &Delivery) -> DeadLetter {
    let envelope = &letter.envelope;
    let headers = &envelope.headers;
    // What is no frame that can be read is shown as it is.
    let (text, segments) = frame::read(&letter.body).unwrap_or_else(|_| (letter.body.clone(), Segments::none()));
    DeadLetter {
        task_id: id(letter).to_owned(),
        kind: envelope.kind.clone(),
        priority: envelope.priority,
        reply_to: envelope.reply_to.clone(),
        correlation_id: envelope.correlation_id.clone(),
        reason: headers.reason.clone(),
        attempt: headers.attempt,
        history: headers.history.as_deref().map(|history| history.lines().map(str::to_owned).collect()),
        unreadable: headers.unreadable.clone(),
        properties_hex: headers.properties.as_deref().map(hexadecimal),
        body_bytes: letter.body.len() as u64,
        body: String::from_utf8_lossy(&text).into_owned(),
        segments: ListedSegment::list(&Json::parse(text).unwrap_or_default(), &segments),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
