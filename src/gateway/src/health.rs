//! Whether the process lives, and whether it can do its work.

use std::{fmt::Display, time::Duration};

use axum::{Json, extract::State};
use protocol::Kind;
use schemars::JsonSchema;
use serde::Serialize;
use task_queue::Link;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use crate::{Gateway, Problem, problem::ProblemKind};

/// Longest wait for the answers of all servers. Those who probe the gateway wait for a second by default, and are to hear why it is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_millis(800);
/// How long an answer of the servers holds: however many ask whether the gateway is ready, the servers are asked once in this time.
const ANSWER_HOLDS: Duration = Duration::from_secs(1);

/// It lives.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// It can do its work.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ready {
    /// `ok`.
    status: &'static str,
    /// The kinds that workers have and no GPU can run now. The gateway is ready all the same: their tasks wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    down: Vec<KindDown>,
}

/// A kind that no GPU can run now.
#[derive(Debug, Serialize, JsonSchema)]
struct KindDown {
    /// The kind.
    kind: Kind,
    /// Why, as one of its workers says it.
    reason: String,
}

/// What table and store last said to a probe, and when. Held while they are asked: who comes meanwhile waits for the same answer.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Mutex<Option<Answer>>);

/// What table and store said to a probe.
#[derive(Debug)]
struct Answer {
    at: Instant,
    /// What is wrong with each, if anything is.
    table: Option<&'static str>,
    store: Option<&'static str>,
}

impl Answer {
    /// For people.
    fn down(&self) -> Vec<String> {
        let named = [("table", self.table), ("store", self.store)];
        named.into_iter().filter_map(|(server, what)| Some(format!("{server}: {}", what?))).collect()
    }
}

/// `GET /healthz`: asks nobody, so that a restart is never the answer to somebody else's fault.
pub(crate) async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// `GET /readyz`: asks queue, table and store the way that work goes, by a write; the problem says which of them refuses. Why is in the log. A kind that is down is
/// named, and is no reason to send nobody here.
pub(crate) async fn ready(State(gateway): State<Gateway>) -> Result<Json<Ready>, Problem> {
    let mut down: Vec<String> = gateway.queue_is_down().map(str::to_owned).into_iter().collect();
    down.extend(gateway.servers_down().await);
    if down.is_empty() {
        let kinds = gateway.kinds.soon().await;
        let down = kinds.down().iter().map(|(kind, reason)| KindDown { kind: kind.clone(), reason: reason.clone() });
        return Ok(Json(Ready { status: "ok", down: down.collect() }));
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
        if let Some(answer) = last.as_ref().filter(|answer| answer.at.elapsed() < ANSWER_HOLDS) {
            return answer.down();
        }
        let was_down = last.as_ref().map_or((false, false), |answer| (answer.table.is_some(), answer.store.is_some()));
        let (table, store, pool) = (&self.ports.table, &self.ports.store, &self.options.pool);
        let (table, store) = tokio::join!(
            check("table", was_down.0, table.probe(pool), table.ping()),
            check("store", was_down.1, store.probe(), store.ping())
        );
        let answer = Answer { at: Instant::now(), table, store };
        let down = answer.down();
        *last = Some(answer);
        down
    }
}

/// What is wrong with a server, if its probe fails; whether it answers at all shows a ping at the same time. The log has the beginning and the end of it.
async fn check<E: Display>(
    server: &'static str,
    was_down: bool,
    probe: impl Future<Output = Result<(), E>>,
    ping: impl Future<Output = Result<(), E>>,
) -> Option<&'static str> {
    let (probed, pinged) = tokio::join!(in_time(probe), in_time(ping));
    match probed {
        Ok(()) => {
            if was_down {
                info!(server, "a server takes writes again");
            }
            return None;
        }
        Err(reason) if was_down => debug!(server, reason, "the gateway is still not ready"),
        Err(reason) => warn!(server, reason, "the gateway is not ready: a server takes no writes"),
    }
    Some(if pinged.is_ok() { "it answers, and refuses to write" } else { "it does not answer" })
}

async fn in_time<E: Display>(answer: impl Future<Output = Result<(), E>>) -> Result<(), String> {
    match timeout(CHECK_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", CHECK_TIMEOUT.as_millis())),
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_is_told_of_within_the_second_that_whoever_asks_waits() {
        let began = Instant::now();
        let what = check::<Infallible>("table", false, pending(), pending()).await;
        assert_eq!(what, Some("it does not answer"));
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}
