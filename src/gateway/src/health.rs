//! Whether the process lives, and whether it can do its work.

use std::{fmt::Display, time::Duration};

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Serialize;
use task_queue::Link;
use tokio::time::timeout;

use crate::{Gateway, Problem, problem::ProblemKind};

/// Longest wait for one answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// It lives.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// `GET /healthz`: asks nobody, so that a restart is never the answer to somebody else's fault.
pub(crate) async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// `GET /readyz`: asks queue, table and store; the problem says which is down.
pub(crate) async fn ready(State(gateway): State<Gateway>) -> Result<Json<Health>, Problem> {
    let ports = &gateway.ports;
    let queue = match &*ports.queue.link().borrow() {
        Link::Up => None,
        Link::Blocked(reason) => Some(format!("queue: the broker blocks publishers: {reason}")),
        Link::Down(reason) => Some(format!("queue: not connected: {reason}")),
    };
    let (table, store) = tokio::join!(check("table", ports.table.ping()), check("store", ports.store.ping()));
    let down: Vec<String> = [queue, table, store].into_iter().flatten().collect();
    if down.is_empty() {
        return Ok(Json(Health { status: "ok" }));
    }
    Err(Problem::new(ProblemKind::NotReady, down.join("; ")))
}

async fn check<E: Display>(name: &str, answer: impl Future<Output = Result<(), E>>) -> Option<String> {
    match timeout(CHECK_TIMEOUT, answer).await {
        Ok(answer) => answer.err().map(|error| format!("{name}: {error}")),
        Err(_) => Some(format!("{name}: no answer within {} ms", CHECK_TIMEOUT.as_millis())),
    }
}
