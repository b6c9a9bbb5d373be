//! A second life for dead letters, once what killed them is mended.

use std::collections::BTreeSet;

use protocol::{BodyHash, Envelope, KeptLetter, Outcome, Requeued, TaskId, envelope::Headers};
use task_queue::{Delivery, Outgoing, PublishError, Queue, Target};
use task_store::Reopen;

use super::{DeadLetters, give_back, id};
use crate::{DeadLetterError, steps, traces::Publishing};

/// The tasks that were requeued: id and hash of the body.
type Done = BTreeSet<(String, String)>;

impl DeadLetters {
    /// Requeues letters in hand. At the first error the others go back.
    pub(super) async fn requeue_each(&self, letters: Vec<Delivery>) -> Result<Requeued, DeadLetterError> {
        let (mut requeued, mut done) = (Requeued::default(), Done::new());
        let mut letters = letters.into_iter();
        while let Some(letter) = letters.next() {
            if let Err(error) = self.requeue_one(letter, &mut done, &mut requeued).await {
                let _first_error_counts = give_back(letters.collect()).await;
                return Err(error);
            }
        }
        Ok(requeued)
    }

    /// Requeues one letter, or gives it back. The letter itself is acked only after its task was published: a crash between leaves both, and requeueing the letter once
    /// more would run the task once more.
    async fn requeue_one(&self, letter: Delivery, done: &mut Done, requeued: &mut Requeued) -> Result<(), DeadLetterError> {
        let task_id = id(&letter).to_owned();
        // A worker that crashed while it gave a task up may have left two letters of it.
        if !done.insert((task_id.clone(), BodyHash::of(&letter.body).as_str().to_owned())) {
            return Ok(letter.receipt.ack().await?);
        }
        match self.publish_anew(&letter).await {
            Ok(None) => {
                letter.receipt.ack().await?;
                requeued.requeued += 1;
                Ok(())
            }
            Ok(Some(why)) => {
                give_back(vec![letter]).await?;
                requeued.kept.push(KeptLetter { task_id, why });
                Ok(())
            }
            Err(error) => {
                let _first_error_counts = give_back(vec![letter]).await;
                Err(error)
            }
        }
    }

    /// Publishes a letter to its pool as a fresh task; the reason if it stays.
    async fn publish_anew(&self, letter: &Delivery) -> Result<Option<String>, DeadLetterError> {
        if let Some(problem) = &letter.envelope.headers.unreadable {
            return Ok(Some(format!("its properties cannot be read ({problem}); publish the task anew")));
        }
        if letter.body.is_empty() {
            return Ok(Some("it has no body (one that is larger than a task's may be is not kept); publish the task anew".to_owned()));
        }
        let Ok(task_id) = id(letter).parse::<TaskId>() else {
            return Ok(Some("its id is not valid; publish the task anew".to_owned()));
        };
        match self.store.reopen(&task_id, &BodyHash::of(&letter.body)).await? {
            Reopen::Open => {}
            Reopen::NotEnded => return Ok(Some("a task of this id has not ended yet".to_owned())),
            Reopen::ReusedId => return Ok(Some("its id belongs to a task with another body; publish the task anew".to_owned())),
        }
        let group = letter.envelope.headers.group.as_ref();
        if let Some(group) = group {
            // Before it is published: it may end at once.
            self.store.groups().note_reopened(group, &task_id).await?;
        }
        let pool = letter.envelope.headers.pool.as_deref().and_then(|pool| pool.parse().ok()).unwrap_or_else(|| self.pool.clone());
        let mut envelope = self.fresh(&letter.envelope, &task_id);
        let publishing = Publishing::again(&self.environment, &task_id, &mut envelope);
        let queue = Queue::Pool(pool.clone());
        let published = self.queue.publish(Outgoing::new(Target::Queue(queue.clone()), envelope, letter.body.clone())).await;
        if let Some(publishing) = publishing {
            publishing.ended(&self.environment, &self.queue.names().queue(&queue), &published);
        }
        match published {
            Ok(()) => {
                steps::requeued(&*self.store, &pool, &task_id, self.environment.clock.now_ms());
                Ok(None)
            }
            Err(PublishError::Unroutable { target }) => {
                if let Some(group) = group {
                    // It stays what it was: dead letters are of tasks that failed.
                    self.store.groups().note_ended(group, &task_id, Outcome::Failed).await?;
                }
                Ok(Some(format!("its pool has no queue {target}; start a worker of that pool first")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The properties of a task that begins.
    fn fresh(&self, original: &Envelope, task_id: &TaskId) -> Envelope {
        Envelope {
            message_id: Some(task_id.to_string()),
            kind: original.kind.clone(),
            priority: original.priority,
            reply_to: original.reply_to.clone(),
            correlation_id: original.correlation_id.clone(),
            content_type: original.content_type.clone(),
            content_encoding: original.content_encoding.clone(),
            // Deadlines count from now.
            timestamp: Some(self.environment.clock.now_ms() / 1_000),
            headers: Headers {
                traceparent: original.headers.traceparent.clone(),
                tracestate: original.headers.tracestate.clone(),
                links: original.headers.links.clone(),
                user: original.headers.user.clone(),
                progress: original.headers.progress,
                group: original.headers.group.clone(),
                ..Headers::default()
            },
            ..Envelope::default()
        }
    }
}
