//! What is done to many tasks at once: all that pass a filter.

use std::{collections::BTreeSet, sync::Arc};

use futures::stream::{self, StreamExt};
use hyper::Method;
use producer::tell_cancel_asked;
use protocol::{Requeued, TaskId, insight::TaskFilter};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use task_store::{Cancel, Reach};

use super::{Fleet, Gateway, http::Question};
use crate::{fault::Fault, servers::Servers};

/// Most tasks that one command means on servers: as many as an index holds by default (`journal.tasks_max`). Of dead letters it looks through the first thousand.
const MEANT_MAX: usize = 100_000;
/// Tasks of one page of a list.
const PAGE: usize = 1_000;
/// Tasks that are cancelled at the same time.
const AT_ONCE: usize = 32;

/// What became of the tasks that were to be cancelled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManyCancelled {
    /// How many passed the filter.
    pub(crate) matching: u64,
    /// How many had not ended and were asked to.
    pub(crate) cancelled: u64,
    /// How many had ended.
    pub(crate) ended: u64,
    /// Whether more pass the filter than were looked at.
    pub(crate) more: bool,
}

/// What became of the tasks whose dead letters were to be published again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManyRequeued {
    /// How many passed the filter.
    pub(crate) matching: u64,
    /// How many letters are tasks again.
    pub(crate) requeued: u64,
    /// How many stay.
    pub(crate) refused: u64,
    /// Whether more pass the filter than were looked at.
    pub(crate) more: bool,
}

impl Fleet {
    /// Asks for the end of all tasks that pass a filter.
    pub(crate) async fn cancel_many(&self, filter: &TaskFilter, said: &str) -> Result<ManyCancelled, Fault> {
        match self {
            Self::Servers(servers) => servers.cancel_many(filter, said).await,
            Self::Gateway(gateway) => gateway.cancel_many(filter).await,
        }
    }

    /// Publishes the dead letters of all tasks that pass a filter again; where it lets every task through, all letters, also those that the journal knows nothing of.
    pub(crate) async fn requeue_many(&self, filter: &TaskFilter, said: &str) -> Result<ManyRequeued, Fault> {
        match self {
            Self::Servers(servers) => servers.requeue_many(filter, said).await,
            Self::Gateway(gateway) if filter.lets_all_through() => gateway.do_to_many("/api/v1/tasks:requeue?all=true", filter).await,
            Self::Gateway(gateway) => gateway.do_to_many("/api/v1/tasks:requeue", filter).await,
        }
    }
}

impl Gateway {
    /// A request reaches a bounded number of tasks, and the same one again the next ones.
    async fn cancel_many(&self, filter: &TaskFilter) -> Result<ManyCancelled, Fault> {
        let mut done: ManyCancelled = self.do_to_many("/api/v1/tasks:cancel", filter).await?;
        while done.more {
            let next: ManyCancelled = self.do_to_many("/api/v1/tasks:cancel", filter).await?;
            if next.cancelled + next.ended == 0 {
                break;
            }
            done.cancelled += next.cancelled;
            done.ended += next.ended;
            done.more = next.more;
        }
        Ok(done)
    }

    async fn do_to_many<T: DeserializeOwned>(&self, path: &str, filter: &TaskFilter) -> Result<T, Fault> {
        let body = serde_json::to_vec(filter).expect("its keys are texts").into();
        let question = Question { body, ..Question::new(Method::POST, path) };
        let answer = self.ask(&question).await?;
        self.read(&question, &answer)
    }
}

impl Servers {
    async fn cancel_many(&self, filter: &TaskFilter, said: &str) -> Result<ManyCancelled, Fault> {
        let (matching, ids) = self.passing(filter, MEANT_MAX).await?;
        let store = self.store().await?;
        let mut done = ManyCancelled { matching, more: is_beyond(matching, &ids), ..ManyCancelled::default() };
        let cancelling = |task_id: TaskId| {
            let store = Arc::clone(&store);
            async move {
                let answer = store.cancel(&task_id, Reach::Published).await;
                (task_id, answer)
            }
        };
        let mut answers = stream::iter(ids.iter().cloned().map(cancelling)).buffer_unordered(AT_ONCE);
        let mut failed = None;
        while let Some((task_id, answer)) = answers.next().await {
            let cancel = match answer {
                Ok(cancel) => cancel,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            match cancel {
                Cancel::Ended(_) => done.ended += 1,
                Cancel::Waiting | Cancel::Running(_) | Cancel::Unseen => done.cancelled += 1,
            }
            let now_ms = self.environment().clock.now_ms();
            tell_cancel_asked(&*store, &self.configuration().worker.pool, &task_id, (&cancel, now_ms));
        }
        drop(answers);
        self.told().await;
        // What was done before it failed stays done.
        if matching > 0 {
            self.note("cancel", said, format!("{} of {matching} cancelled, {} had ended", done.cancelled, done.ended)).await;
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        Ok(done)
    }

    async fn requeue_many(&self, filter: &TaskFilter, said: &str) -> Result<ManyRequeued, Fault> {
        let letters = self.dead_letters().await?;
        let (matching, ids) = self.passing(&TaskFilter { dead: Some(true), ..filter.clone() }, MEANT_MAX).await?;
        let requeued = match (filter.lets_all_through(), ids.is_empty()) {
            (true, _) => letters.requeue(None).await?.unwrap_or_default(),
            (false, true) => Requeued::default(),
            (false, false) => letters.requeue_those(&ids.into_iter().collect::<BTreeSet<_>>()).await?,
        };
        let refused = u64::try_from(requeued.kept.len()).unwrap_or(u64::MAX);
        if requeued != Requeued::default() {
            self.note("requeue", said, format!("{} requeued, {refused} stay", requeued.requeued)).await;
        }
        let more = matching > requeued.requeued + refused;
        Ok(ManyRequeued { matching, requeued: requeued.requeued, refused, more })
    }

    /// How many tasks pass a filter, and the first of them.
    async fn passing(&self, filter: &TaskFilter, most: usize) -> Result<(u64, Vec<TaskId>), Fault> {
        let observatory = self.observatory_with_steps().await?;
        let (mut ids, mut after, mut matching) = (Vec::new(), None::<String>, 0);
        while ids.len() < most {
            let page = observatory.list(filter, after.as_deref(), PAGE.min(most - ids.len()));
            matching = matching.max(page.matching);
            ids.extend(page.tasks.into_iter().map(|task| task.task_id));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok((matching, ids))
    }
}

fn is_beyond(matching: u64, ids: &[TaskId]) -> bool {
    matching > u64::try_from(ids.len()).unwrap_or(u64::MAX)
}
