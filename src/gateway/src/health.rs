//! Whether the process lives, and whether it can do its work.

use std::{fmt::Display, time::Duration};

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Serialize;
use task_queue::Link;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::warn;

use crate::{Gateway, Problem, problem::ProblemKind};

/// Longest wait for one answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer of the servers holds: however many ask whether the gateway is ready, the servers are asked once in this time.
const ANSWER_HOLDS: Duration = Duration::from_secs(1);

/// It lives.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// What table and store last said to a probe, and when. Held while they are asked: who comes meanwhile waits for the same answer.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Mutex<Option<(Instant, Vec<String>)>>);

/// `GET /healthz`: asks nobody, so that a restart is never the answer to somebody else's fault.
pub(crate) async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// `GET /readyz`: asks queue, table and store the way that work goes, by a write; the problem says which of them refuses. Why is in the log.
pub(crate) async fn ready(State(gateway): State<Gateway>) -> Result<Json<Health>, Problem> {
    let mut down: Vec<String> = gateway.queue_is_down().map(str::to_owned).into_iter().collect();
    down.extend(gateway.servers_down().await);
    if down.is_empty() {
        return Ok(Json(Health { status: "ok" }));
    }
    Err(Problem::new(ProblemKind::NotReady, down.join("; ")))
}

impl Gateway {
    /// The state of the connection is known without asking; the queue itself logs its changes.
    fn queue_is_down(&self) -> Option<&'static str> {
        match &*self.ports.queue.link().borrow() {
            Link::Up => None,
            Link::Blocked(_) => Some("queue: the broker blocks publishers, since it is low on memory or disk"),
            Link::Down(_) => Some("queue: the broker is not connected"),
        }
    }

    /// Which of table and store take no writes, as they said a moment ago.
    async fn servers_down(&self) -> Vec<String> {
        let mut last = self.readiness.0.lock().await;
        if let Some((at, down)) = &*last
            && at.elapsed() < ANSWER_HOLDS
        {
            return down.clone();
        }
        let (table, store, pool) = (&self.ports.table, &self.ports.store, &self.options.pool);
        let (table, store) = tokio::join!(check("table", table.probe(pool), table.ping()), check("store", store.probe(), store.ping()));
        let down: Vec<String> = [table, store].into_iter().flatten().collect();
        *last = Some((Instant::now(), down.clone()));
        down
    }
}

/// What is wrong with a server, if its probe fails; whether it answers at all shows then.
async fn check<E: Display>(
    name: &'static str,
    probe: impl Future<Output = Result<(), E>>,
    ping: impl Future<Output = Result<(), E>>,
) -> Option<String> {
    let Err(reason) = in_time(probe).await else { return None };
    warn!(server = name, reason, "the gateway is not ready: a server takes no writes");
    let what = if in_time(ping).await.is_ok() { "it answers, and refuses to write" } else { "it does not answer" };
    Some(format!("{name}: {what}"))
}

async fn in_time<E: Display>(answer: impl Future<Output = Result<(), E>>) -> Result<(), String> {
    match timeout(CHECK_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", CHECK_TIMEOUT.as_millis())),
    }
}
