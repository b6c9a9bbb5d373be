//! Dead letters, on servers or behind a gateway.

use std::sync::Arc;

use gateway::dead_url;
use hyper::Method;
use producer::{DeadLetters, Producer, ProducerOptions};
use protocol::{DeadLetter, Requeued, TaskId};
use serde::{Deserialize, de::DeserializeOwned};
use task_queue::Queue;

use super::{Fleet, Gateway, http::Question};
use crate::{fault::Fault, servers::Servers};

/// `GET /api/v1/dead`.
#[derive(Deserialize)]
struct DeadLetterList {
    present: u64,
    letters: Vec<DeadLetter>,
}

/// `DELETE /api/v1/dead`.
#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

impl Fleet {
    /// The first dead letters, at most `limit`.
    pub(crate) async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.dead_letters().await?.list(limit).await?),
            Self::Gateway(gateway) => Ok(gateway.dead_letters(limit.min(DeadLetters::IN_HAND_MAX)).await?.letters),
        }
    }

    /// How many there are, and where, for people.
    pub(crate) async fn dead_letters_present(&self) -> Result<(u64, String), Fault> {
        match self {
            Self::Servers(servers) => {
                let place = servers.connect().await?.queue.names().queue(&Queue::Dead);
                Ok((servers.dead_letters().await?.count().await?, place))
            }
            Self::Gateway(gateway) => Ok((gateway.dead_letters(0).await?.present, format!("the fleet behind {}", gateway.url()))),
        }
    }

    /// The dead letters of one task.
    pub(crate) async fn dead_letters_of(&self, task_id: &TaskId) -> Result<Vec<DeadLetter>, Fault> {
        match self {
            Self::Servers(servers) => {
                let letters = servers.dead_letters().await?.of(task_id).await?;
                if letters.is_empty() { Err(not_found(task_id)) } else { Ok(letters) }
            }
            Self::Gateway(gateway) => gateway.get(&dead_url(task_id)).await,
        }
    }

    /// Requeues the dead letters of one task, or all.
    pub(crate) async fn requeue(&self, task_id: Option<&TaskId>) -> Result<Requeued, Fault> {
        match (self, task_id) {
            (Self::Servers(servers), None) => {
                let requeued = servers.dead_letters().await?.requeue(None).await?.unwrap_or_default();
                servers.note("requeue", "all dead letters", format!("{} requeued, {} stay", requeued.requeued, requeued.kept.len())).await;
                Ok(requeued)
            }
            (Self::Servers(servers), Some(task_id)) => {
                let requeued = servers.dead_letters().await?.requeue(Some(task_id)).await?.ok_or_else(|| not_found(task_id))?;
                servers
                    .note("requeue", format!("task {task_id}"), format!("{} requeued, {} stay", requeued.requeued, requeued.kept.len()))
                    .await;
                Ok(requeued)
            }
            (Self::Gateway(gateway), None) => gateway.carry_out(Method::POST, "/api/v1/dead?requeue=all").await,
            (Self::Gateway(gateway), Some(task_id)) => gateway.carry_out(Method::POST, dead_url(task_id) + "/requeue").await,
        }
    }

    /// Deletes the dead letters of one task; how many there were.
    pub(crate) async fn purge(&self, task_id: &TaskId) -> Result<u64, Fault> {
        match self {
            Self::Servers(servers) => {
                let purged = servers.dead_letters().await?.purge(task_id).await?;
                if purged == 0 {
                    return Err(not_found(task_id));
                }
                servers.note("purge", format!("task {task_id}"), format!("{purged} purged")).await;
                Ok(purged)
            }
            Self::Gateway(gateway) => Ok(gateway.carry_out::<Purged>(Method::DELETE, dead_url(task_id)).await?.purged),
        }
    }

    /// Deletes all dead letters that are there now; how many there were.
    pub(crate) async fn purge_all(&self) -> Result<u64, Fault> {
        match self {
            Self::Servers(servers) => {
                let purged = servers.dead_letters().await?.purge_all().await?;
                servers.note("purge", "all dead letters", format!("{purged} purged")).await;
                Ok(purged)
            }
            Self::Gateway(gateway) => Ok(gateway.carry_out::<Purged>(Method::DELETE, "/api/v1/dead?all=true").await?.purged),
        }
    }

    /// Ends the connections to the broker, if there are some.
    pub(crate) async fn close(&self) {
        if let Self::Servers(servers) = self {
            servers.close().await;
        }
    }
}

impl Gateway {
    async fn dead_letters(&self, limit: usize) -> Result<DeadLetterList, Fault> {
        self.get(&format!("/api/v1/dead?limit={limit}")).await
    }

    /// A question goes out again only over a connection that was kept: a command that requeues asks one thing, over a new one.
    async fn carry_out<T: DeserializeOwned>(&self, method: Method, path: impl Into<String>) -> Result<T, Fault> {
        let question = Question::new(method, path);
        let answer = self.ask(&question).await?;
        self.read(&question, &answer)
    }
}

impl Servers {
    pub(super) async fn dead_letters(&self) -> Result<DeadLetters, Fault> {
        let options = ProducerOptions { pool: self.configuration().worker.pool.clone(), ..ProducerOptions::default() };
        let ports = self.connect().await?;
        Ok(Producer::new(Arc::clone(&ports.queue), ports.store, self.environment().clone(), options).dead_letters())
    }
}

fn not_found(task_id: &TaskId) -> Fault {
    let most = DeadLetters::IN_HAND_MAX;
    Fault::NotFound(format!("there is no dead letter of task {task_id} among the first {most}; `gpufleet dead ls` lists them"))
}
