//! The producer itself.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use protocol::{BodyHash, Environment, GroupName, GroupStatus, ItemResults, Refusal, Reply, TaskId, TaskStatus};
use task_queue::{Link, PublishError, Queue, QueueError, TaskQueue};
use task_store::{Cancel, DelayRequest, Join, Reach, StoreError, Submission, TaskStore};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    Counts, DeadLetters, Groups, NewTask, Pending, ProducerOptions, ReplyTo, ResultsError, SubmitError, Submitted, WaitError,
    WantedResults,
    delaying::{self, Declared},
    listener,
    pending::Limit,
    poller::{self, Pace},
    results::results_of,
    steps,
    traces::Publishing,
    waiters::{Ticket, Waiters},
};

/// Longest time for declaring and consuming queues before the first submit.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of a program waits for the last steps of tasks to be told.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Submits tasks and awaits their replies. Cheap to clone; when the last clone is dropped its background jobs end.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Arc<dyn TaskQueue>,
    store: Arc<dyn TaskStore>,
    environment: Environment,
    options: ProducerOptions,
    waiters: Arc<Waiters>,
    pool_declared: OnceCell<()>,
    delayed_declared: Declared,
    /// The name of the reply queue, once it is consumed. Producers that never wait never have one.
    reply_queue: OnceCell<String>,
    stop: CancellationToken,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A checked task on its way.
struct Prepared {
    task_id: TaskId,
    task: NewTask,
    body: Bytes,
    body_hash: BodyHash,
    /// The time before which it must not start, in Unix ms, where that is still to come.
    not_before_ms: Option<u64>,
}

impl Producer {
    /// A producer. Does no I/O: queues are declared by the first submit.
    #[must_use]
    pub fn new(queue: Arc<dyn TaskQueue>, store: Arc<dyn TaskStore>, environment: Environment, options: ProducerOptions) -> Self {
        let waiters = Arc::new(Waiters::new(options.waiting_max, options.look_after));
        let stop = CancellationToken::new();
        let (pool_declared, delayed_declared, reply_queue) = Default::default();
        let shared = Shared { queue, store, environment, options, waiters, pool_declared, delayed_declared, reply_queue, stop };
        Self { shared: Arc::new(shared) }
    }

    /// Submits a task; returns once the broker has taken responsibility for it. Its reply goes to `task.reply_to`, or is kept in the store only.
    /// A cancelled submit may or may not happen.
    ///
    /// # Errors
    /// [`SubmitError`] tells a refused task, a full queue and an absent broker or store apart. Retry transient ones under the same id.
    pub async fn submit(&self, task: NewTask) -> Result<Submitted, SubmitError> {
        let prepared = self.prepare(task)?;
        let reply_to = prepared.task.reply_to.clone();
        self.send(&prepared, reply_to.as_ref()).await?;
        Ok(Submitted { task_id: prepared.task_id })
    }

    /// Submits a task whose reply comes to this producer; returns once the broker has it. The wait ends `limit` after this call.
    ///
    /// # Errors
    /// Those of [`Producer::submit`]; a [`Refusal`] of `reply_to` if the task has one of its own; [`SubmitError::NotConfirmed`] if `limit`
    /// passed before the broker confirmed.
    pub async fn pending(&self, task: NewTask, limit: Duration) -> Result<Pending, WaitError> {
        let limit = Limit { at: Instant::now() + limit, after_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) };
        let prepared = self.prepare(task)?;
        if prepared.task.reply_to.is_some() {
            return Err(SubmitError::Refused(Refusal::new("reply_to", "must be absent for a task that is waited for here")).into());
        }
        match timeout_at(limit.at, self.send_and_wait(&prepared)).await {
            Ok(ticket) => Ok(Pending::new(Submitted { task_id: prepared.task_id }, ticket?, limit)),
            Err(_) => Err(SubmitError::NotConfirmed { task_id: prepared.task_id, after_ms: limit.after_ms }.into()),
        }
    }

    /// Submits a task and waits for its reply, at most `limit` for both. A reply may tell of a failed task: that is no error here.
    ///
    /// # Errors
    /// [`WaitError`]: not submitted, or no reply in time (the task goes on, its status is under its id).
    pub async fn submit_and_wait(&self, task: NewTask, limit: Duration) -> Result<Reply, WaitError> {
        self.pending(task, limit).await?.await
    }

    /// Asks for a task's end: a waiting one will be skipped, the worker of a running one is told within a second. Its producer gets the reply
    /// `cancelled`. Asking again changes nothing. A task that is submitted afterwards under an id that none had until then is not cancelled.
    ///
    /// # Errors
    /// [`StoreError`]: the store does not answer. The cancel may have been noted; ask again.
    pub async fn cancel(&self, task_id: &TaskId) -> Result<Cancel, StoreError> {
        self.cancel_with(task_id, Reach::Published).await
    }

    /// As [`Producer::cancel`], with a reach of the caller's: [`Reach::Ahead`] also cancels what is submitted later under an id that no task has yet.
    ///
    /// # Errors
    /// Those of [`Producer::cancel`].
    pub async fn cancel_with(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, StoreError> {
        let Shared { store, environment, options, .. } = &*self.shared;
        let cancel = store.cancel(task_id, reach).await?;
        steps::cancel_asked(&**store, &options.pool, task_id, (&cancel, environment.clock.now_ms()));
        Ok(cancel)
    }

    /// A task's status as the store has it; `None` if it never heard of it, or has forgotten it.
    ///
    /// # Errors
    /// [`StoreError`]: the store does not answer.
    pub async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        self.shared.store.status(task_id).await
    }

    /// The results of a batch's items from one item on, as far as they are there; see [`results_of`].
    ///
    /// # Errors
    /// Those of [`results_of`].
    pub async fn results(&self, task_id: &TaskId, wanted: WantedResults) -> Result<ItemResults, ResultsError> {
        results_of(&*self.shared.store, task_id, wanted).await
    }

    /// The time by its environment's clock, in Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.shared.environment.clock.now_ms()
    }

    /// Its clock, randomness and spawning.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.shared.environment
    }

    /// A fresh identity, for what its caller makes beside tasks: the owner of a tensor that is put.
    #[must_use]
    pub fn fresh_task_id(&self) -> TaskId {
        self.shared.environment.fresh_task_id()
    }

    /// The dead letters of the fleet that this producer submits to, over its own connections.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        let Shared { queue, store, environment, options, .. } = &*self.shared;
        DeadLetters::new(Arc::clone(queue), Arc::clone(store), environment.clone(), options.pool.clone())
    }

    /// The groups of the fleet that this producer submits to.
    #[must_use]
    pub fn groups(&self) -> Groups {
        Groups::new(Arc::clone(&self.shared.store)).telling(self.shared.options.pool.clone(), Arc::clone(&self.shared.environment.clock))
    }

    /// Waits until all members of a group have ended; its counts then. `None`: the group is not known, or was forgotten. Has no time limit of its own, and waits on while the
    /// store is away. A task that is submitted later makes the group go on: submit all of them first. Cancel safe.
    ///
    /// # Errors
    /// [`StoreError`]: the store's answer is not understood.
    pub async fn group_ended(&self, group: &GroupName) -> Result<Option<GroupStatus>, StoreError> {
        self.groups().ended(group).await
    }

    /// Waits until the steps of its tasks, which people follow, are told: up to a second, for a program that ends. Nothing rests on them. Cancel safe.
    pub async fn told(&self) {
        let _ = timeout(TOLD_WITHIN, self.shared.store.journal().flush()).await;
    }

    /// What this producer has counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.waiters.counts()
    }

    fn prepare(&self, task: NewTask) -> Result<Prepared, SubmitError> {
        let body = task.check(self.shared.options.body_bytes_max)?;
        let task_id = task.task_id.clone().unwrap_or_else(|| self.shared.environment.fresh_task_id());
        let body_hash = BodyHash::of(&body);
        let not_before_ms = task.not_before(self.shared.environment.clock.now_ms())?;
        Ok(Prepared { task_id, task, body, body_hash, not_before_ms })
    }

    /// Begins to wait, then publishes: a reply can come before the confirm.
    async fn send_and_wait(&self, prepared: &Prepared) -> Result<Ticket, SubmitError> {
        self.check_link(&prepared.task_id)?;
        let queue = self.reply_queue().await?;
        let ticket = self.shared.waiters.wait_for(prepared.task_id.clone(), prepared.body_hash.clone(), prepared.task.progress)?;
        let reply_to = ReplyTo { queue: queue.to_owned(), correlation_id: ticket.correlation_id() };
        self.send(prepared, Some(&reply_to)).await?;
        Ok(ticket)
    }

    /// Notes the task as waiting, then publishes it. A note without a task is taken back, be it the first of its id or not; a task without a note cannot be. A task that is known already is published
    /// once more: its first submit may have died before it could.
    async fn send(&self, prepared: &Prepared, reply_to: Option<&ReplyTo>) -> Result<(), SubmitError> {
        let Prepared { task_id, task, body, body_hash, not_before_ms } = prepared;
        self.check_link(task_id)?;
        self.shared.pool_declared.get_or_try_init(|| self.declare_pool()).await?;
        let now_ms = self.shared.environment.clock.now_ms();
        let envelope = task.envelope(task_id, reply_to, now_ms);
        let mut outgoing = delaying::outgoing(envelope, body.clone(), &self.shared.options.pool, (*not_before_ms, now_ms));
        if let Some(queue) = self.shared.delayed_declared.lacks(&outgoing.target) {
            in_time("declare the queue of delayed tasks", self.shared.queue.declare(queue)).await?;
            self.shared.delayed_declared.add(queue);
        }
        let noted = self.shared.store.submitted(task_id, &task.kind, body_hash).await;
        let noted = noted.map_err(|source| SubmitError::Note { task_id: task_id.clone(), source })?;
        if noted == Submission::Other {
            return Err(SubmitError::OtherTask { task_id: task_id.clone() });
        }
        if let Some(not_before_ms) = not_before_ms.filter(|_| noted == Submission::Noted) {
            self.note_delay(prepared, (not_before_ms, now_ms)).await?;
        }
        if let Some(group) = &task.group {
            self.join(group, task_id, noted).await?;
        }
        let environment = &self.shared.environment;
        let publishing = Publishing::first(environment, &mut outgoing.envelope);
        let destination = publishing.is_some().then(|| self.shared.queue.names().target(&outgoing.target));
        let traceparent = outgoing.envelope.headers.traceparent.clone();
        let published = self.shared.queue.publish(outgoing).await;
        if let (Some(publishing), Some(destination)) = (publishing, destination) {
            publishing.ended(environment, &destination, &published);
        }
        let Err(source) = published else {
            if noted == Submission::Noted {
                let task = (task_id, task, traceparent.as_deref());
                steps::submitted(&*self.shared.store, &self.shared.options.pool, task, (*not_before_ms, now_ms));
            }
            return Ok(());
        };
        if is_nowhere(&source) {
            self.take_note_back(task_id).await;
            if let Some(group) = &task.group {
                self.leave(group, task_id).await;
            }
        }
        Err(SubmitError::Publish { task_id: task_id.clone(), source })
    }

    /// Notes of a task that was noted that it is delayed.
    async fn note_delay(&self, prepared: &Prepared, (not_before_ms, now_ms): (u64, u64)) -> Result<(), SubmitError> {
        let Prepared { task_id, task, body_hash, .. } = prepared;
        let request = DelayRequest {
            task_id: task_id.clone(),
            kind: task.kind.clone(),
            body_hash: body_hash.clone(),
            not_before_ms,
            left_ms: not_before_ms.saturating_sub(now_ms),
        };
        let Err(source) = self.shared.store.delayed(&request).await else { return Ok(()) };
        self.take_note_back(task_id).await;
        Err(SubmitError::Note { task_id: task_id.clone(), source })
    }

    /// Makes the task a member of its group. Where it cannot be one, its note is taken back.
    async fn join(&self, group: &GroupName, task_id: &TaskId, noted: Submission) -> Result<(), SubmitError> {
        let error = match self.shared.store.groups().join(group, task_id, noted).await {
            Ok(Join::Member) => return Ok(()),
            Ok(Join::Refused(bound)) => SubmitError::NoRoomInGroup { task_id: task_id.clone(), group: group.clone(), bound },
            Err(source) => SubmitError::Note { task_id: task_id.clone(), source },
        };
        self.take_note_back(task_id).await;
        Err(error)
    }

    /// Best effort, as [`Producer::take_note_back`], and only where no other submit of the same task relies on it.
    async fn leave(&self, group: &GroupName, task_id: &TaskId) {
        let left = async {
            match self.shared.store.status(task_id).await? {
                Some(_) => Ok(()),
                None => self.shared.store.groups().leave(group, task_id).await,
            }
        };
        if let Err(error) = left.await {
            debug!(%task_id, %group, %error, "take a refused task out of its group");
        }
    }

    /// Best effort: a note that stays shows a task as waiting that nobody has, until the store forgets it.
    async fn take_note_back(&self, task_id: &TaskId) {
        if let Err(error) = self.shared.store.forget(task_id).await {
            debug!(%task_id, %error, "take back the note of a refused task");
        }
    }

    /// Refuses at once, before anything is written, while the broker is away or blocks.
    fn check_link(&self, task_id: &TaskId) -> Result<(), SubmitError> {
        let link = self.shared.queue.link();
        let target = || self.shared.queue.names().queue(&Queue::Pool(self.shared.options.pool.clone()));
        let source = match &*link.borrow() {
            Link::Up => return Ok(()),
            Link::Blocked(reason) => PublishError::Blocked { target: target(), reason: reason.clone() },
            Link::Down(reason) => PublishError::Disconnected { target: target(), reason: reason.clone() },
        };
        Err(SubmitError::Publish { task_id: task_id.clone(), source })
    }

    async fn declare_pool(&self) -> Result<(), SubmitError> {
        let pool = Queue::Pool(self.shared.options.pool.clone());
        in_time("declare the pool's queue", self.shared.queue.declare(&pool)).await
    }

    /// The name of this producer's reply queue, which the first call declares and consumes.
    async fn reply_queue(&self) -> Result<&str, SubmitError> {
        let name = self.shared.reply_queue.get_or_try_init(|| async {
            let queue = Queue::Reply(self.shared.environment.random.hexadecimal());
            let consumer = in_time("consume the reply queue", listener::open(&*self.shared.queue, &queue)).await?;
            self.spawn_listeners(consumer);
            Ok::<_, SubmitError>(self.shared.queue.names().queue(&queue))
        });
        name.await.map(String::as_str)
    }

    /// The jobs hold no `Shared`: the last clone of the producer ends them by being dropped.
    fn spawn_listeners(&self, consumer: task_queue::Consumer) {
        let Shared { environment, options, waiters, store, stop, .. } = &*self.shared;
        let link = listener::watch_link(consumer.live(), Arc::clone(waiters), options.look_every, stop.clone());
        environment.spawn("watch the reply queue", link);
        environment.spawn("dispatch replies", listener::dispatch(consumer, Arc::clone(waiters), stop.clone()));
        let pace = Pace { every: options.look_every, max: options.looks_max };
        environment.spawn("look replies up", poller::poll(Arc::clone(store), Arc::clone(waiters), pace, stop.clone()));
    }
}

/// Whether the broker certainly does not have the message.
const fn is_nowhere(error: &PublishError) -> bool {
    !matches!(error, PublishError::Timeout { .. } | PublishError::Disconnected { .. })
}

async fn in_time<T>(operation: &'static str, work: impl Future<Output = Result<T, QueueError>>) -> Result<T, SubmitError> {
    match timeout(PREPARE_TIMEOUT, work).await {
        Ok(Err(QueueError::Closed)) => Err(SubmitError::Closed),
        Ok(result) => result.map_err(|source| SubmitError::Prepare { operation, source }),
        Err(_) => Err(SubmitError::PrepareTimeout { operation, after_s: PREPARE_TIMEOUT.as_secs() }),
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Producer").field("options", &self.shared.options).field("counts", &self.counts()).finish_non_exhaustive()
    }
}
