//! Submitting tasks, and waiting for their replies.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use producer::{NewTask, Producer, ProducerOptions, WaitError};
use protocol::{Environment, Limits, Partial, Progress, ProgressMessage, Reply, TaskId};
use service::Traces;
use task_queue::TaskQueue;
use tokio::time::{Instant, timeout_at};

use super::{Fleet, Gateway, bulk::Bulk, parts};
use crate::{fault::Fault, output, status};

/// What submits to a fleet.
pub(crate) enum Submitter<'fleet> {
    /// Publishes to the broker.
    Broker { producer: Producer, queue: Arc<dyn TaskQueue>, traces: Option<&'fleet Traces> },
    /// Asks a gateway to.
    Gateway { gateway: &'fleet Gateway, environment: Environment, warned: Warned },
    /// Asks a gateway to, all over one request.
    Bulk { bulk: Bulk, environment: Environment, warned: Warned },
}

/// The warnings that were told. Of a thousand equal tasks each brings the same ones.
#[derive(Default)]
pub(crate) struct Warned(Mutex<BTreeSet<String>>);

impl Warned {
    /// Whether this one is new.
    fn is_new(&self, warning: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.to_owned())
    }
}

/// Why there is no reply.
pub(crate) enum NoReply {
    /// The time for it is over. The task goes on.
    Late(TaskId),
    /// Anything else.
    Fault(Fault),
}

impl From<Fault> for NoReply {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<WaitError> for NoReply {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Timeout { task_id, .. } => Self::Late(task_id),
            other => Self::Fault(other.into()),
        }
    }
}

/// Longest payload that is read for a gateway, in bytes. The bound on a body is the gateway's, which says so where one is larger; this one bounds what a line without an end takes here.
const GATEWAY_BODY_BYTES_MAX: usize = 256 << 20;

impl Fleet {
    /// Refuses a task that this way to a fleet cannot take, before it costs anything.
    pub(crate) fn check(&self, task: &NewTask) -> Result<(), Fault> {
        match self {
            Self::Gateway(_) if task.reply_to.is_some() => {
                let advice = "give --amqp-url and --redis-url, or ask for its status";
                Err(Fault::Usage(format!("--reply-to names a queue of the broker, and a gateway hands no replies to queues: {advice}")))
            }
            _ => Ok(()),
        }
    }

    /// Longest body of a task that is worth reading, in bytes.
    pub(crate) fn body_bytes_max(&self) -> usize {
        match self {
            Self::Servers(servers) => servers.configuration().worker.body_bytes_max,
            Self::Gateway(_) => GATEWAY_BODY_BYTES_MAX,
        }
    }

    /// What submits to this fleet.
    pub(crate) async fn submitter(&self) -> Result<Submitter<'_>, Fault> {
        let servers = match self {
            Self::Servers(servers) => servers,
            Self::Gateway(gateway) => {
                let environment = service::system_environment();
                return Ok(Submitter::Gateway { gateway, environment, warned: Warned::default() });
            }
        };
        let worker = &servers.configuration().worker;
        let options = ProducerOptions { pool: worker.pool.clone(), body_bytes_max: worker.body_bytes_max, ..ProducerOptions::default() };
        let ports = servers.connect().await?;
        let producer = Producer::new(Arc::clone(&ports.queue), ports.store, servers.environment().clone(), options);
        Ok(Submitter::Broker { producer, queue: ports.queue, traces: servers.traces() })
    }
}

impl Fleet {
    /// What submits very many tasks to this fleet. `traceparent` is that of all of them.
    pub(crate) async fn submitter_of_many(&self, traceparent: Option<&str>) -> Result<Submitter<'_>, Fault> {
        let Self::Gateway(gateway) = self else { return self.submitter().await };
        let bulk = Bulk::start(gateway.url().clone(), traceparent.map(str::to_owned));
        Ok(Submitter::Bulk { bulk, environment: service::system_environment(), warned: Warned::default() })
    }
}

impl Submitter<'_> {
    /// Submits a task; its id once the broker has it.
    pub(crate) async fn submit(&self, task: NewTask) -> Result<TaskId, Fault> {
        match self {
            Self::Broker { producer, .. } => Ok(producer.submit(task).await?.task_id),
            Self::Gateway { gateway, environment, warned } => hand_over(Through::Gateway(gateway), (environment, warned), task).await,
            Self::Bulk { bulk, environment, warned } => hand_over(Through::Bulk(bulk), (environment, warned), task).await,
        }
    }

    /// Submits a task and waits for its reply, at most `limit` for both; calls `told` with how far it is, if it was submitted with `progress`.
    pub(crate) async fn submit_and_wait(&self, task: NewTask, limit: Duration, told: impl Fn(&Progress)) -> Result<Reply, NoReply> {
        let until = Instant::now() + limit;
        match self {
            Self::Broker { producer, .. } => {
                let mut pending = producer.pending(task, limit).await?;
                let Some(mut progress) = pending.progress() else { return Ok(pending.await?) };
                loop {
                    tokio::select! {
                        biased;
                        Some(message) = progress.next() => said(message).iter().for_each(&told),
                        reply = &mut pending => return Ok(reply?),
                    }
                }
            }
            Self::Gateway { gateway, environment, warned } => {
                let wanted = task.progress;
                let task_id = hand_over(Through::Gateway(gateway), (environment, warned), task).await?;
                let told = |progress: &Progress| {
                    if wanted {
                        told(progress)
                    }
                };
                gateway.reply(&task_id, until, &told).await
            }
            Self::Bulk { bulk, environment, warned } => {
                let task_id = hand_over(Through::Bulk(bulk), (environment, warned), task).await?;
                bulk.reply(&task_id, until).await
            }
        }
    }

    /// As [`submit_and_wait`](Self::submit_and_wait), of one task that was submitted with `progress`; calls `told` with each part of its result.
    pub(crate) async fn submit_and_stream(
        &self,
        task: NewTask,
        limit: Duration,
        told: impl Fn(&Partial) -> Result<(), Fault>,
    ) -> Result<Reply, NoReply> {
        let until = Instant::now() + limit;
        match self {
            Self::Broker { producer, .. } => {
                let mut pending = producer.pending(task, limit).await?;
                let Some(mut progress) = pending.progress() else { return Ok(pending.await?) };
                loop {
                    tokio::select! {
                        biased;
                        Some(message) = progress.next() => message.partials.iter().try_for_each(&told)?,
                        reply = &mut pending => return Ok(reply?),
                    }
                }
            }
            Self::Gateway { gateway, environment, warned } => {
                let task_id = hand_over(Through::Gateway(gateway), (environment, warned), task).await?;
                match timeout_at(until, parts::follow(gateway.url(), &task_id, &told)).await {
                    // With the raw bytes that its result may have.
                    Ok(followed) => followed?,
                    Err(_) => return Err(NoReply::Late(task_id)),
                }
                gateway.reply(&task_id, until, &|_: &Progress| {}).await
            }
            // Of many tasks nobody could tell whose parts they are.
            Self::Bulk { .. } => self.submit_and_wait(task, limit, |_: &Progress| {}).await,
        }
    }

    /// Ends the connections.
    pub(crate) async fn close(self) {
        if let Self::Broker { producer, queue, traces } = self {
            producer.told().await;
            if let Some(traces) = traces {
                traces.flush().await;
            }
            queue.close().await;
        }
    }
}

/// The way to a gateway.
enum Through<'fleet> {
    Gateway(&'fleet Gateway),
    Bulk(&'fleet Bulk),
}

impl Through<'_> {
    /// Submits a task; the gateway's warnings.
    async fn submit(&self, task: &NewTask, task_id: &TaskId) -> Result<Vec<String>, Fault> {
        match self {
            Self::Gateway(gateway) => gateway.submit(task, task_id).await,
            Self::Bulk(bulk) => bulk.submit(task, task_id).await,
        }
    }
}

/// How far a message says that its task is. The progress of one slice is none of its batch's.
fn said(message: ProgressMessage) -> Option<Progress> {
    let ProgressMessage { slice, items, progress, .. } = message;
    match (slice, items) {
        (Some(_), None) => None,
        (Some(_), items) => status::of_batch(items, None),
        (None, items) => status::of_batch(items, progress),
    }
}

/// Over HTTP a task has an id before it is sent, no reply queue ([`Fleet::check`]), and one limit for its wait. Tells each of the gateway's warnings once.
async fn hand_over(through: Through<'_>, (environment, warned): (&Environment, &Warned), mut task: NewTask) -> Result<TaskId, Fault> {
    let task_id = task.task_id.take().unwrap_or_else(|| environment.fresh_task_id());
    if let Some(expiration) = task.expiration.take() {
        shorten(&mut task.body.limits, expiration);
    }
    for warning in through.submit(&task, &task_id).await? {
        if warned.is_new(&warning) {
            output::warning(&warning);
        }
    }
    Ok(task_id)
}

/// AMQP's expiration counts as the longest wait in queues; the shorter of both wins.
fn shorten(limits: &mut Limits, expiration: Duration) {
    let expiration_ms = u64::try_from(expiration.as_millis()).unwrap_or(u64::MAX);
    limits.queue_deadline_ms = Some(limits.queue_deadline_ms.map_or(expiration_ms, |deadline_ms| deadline_ms.min(expiration_ms)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_new_once() {
        let warned = Warned::default();
        assert_eq!(["a", "b", "a", "a"].map(|warning| warned.is_new(warning)), [true, true, false, false]);
    }

    #[test]
    fn over_http_the_shorter_of_expiration_and_queue_deadline_counts() {
        for (given, expected) in [(None, 300), (Some(200), 200), (Some(400), 300)] {
            let mut limits = Limits { queue_deadline_ms: given, ..Limits::default() };
            shorten(&mut limits, Duration::from_millis(300));
            assert_eq!(limits.queue_deadline_ms, Some(expected));
        }
    }
}
