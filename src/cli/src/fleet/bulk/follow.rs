//! The one request that waits for the replies of all open tasks.

use std::{collections::BTreeMap, time::Duration};

use gateway::ProblemDocument;
use http_body_util::Full;
use hyper::{Method, StatusCode, body::Bytes, header};
use protocol::{Reply, TaskId};
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    fault::Fault,
    fleet::{
        GatewayUrl,
        answer::{Begun, Event, Lines},
        gateway::fault_of,
        http::{ANSWERED_IN, dial, head, in_words},
    },
};

/// How long a request lasts at least before it makes place for one with the tasks that came meanwhile. What it has not told by then, the next one tells.
const LASTS: Duration = Duration::from_millis(250);
/// The pause after one that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// The gateway shows every 15 s that it lives.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The gateway waits for so many tasks over one request.
const IDS_MAX: usize = 10_000;

/// A reply that somebody waits for.
pub(super) struct Wanted {
    pub(super) task_id: TaskId,
    pub(super) reply: oneshot::Sender<Result<Reply, Fault>>,
}

/// Those that are open.
type Open = BTreeMap<TaskId, oneshot::Sender<Result<Reply, Fault>>>;

/// Waits for replies as they are wanted. While the gateway is away they stay open: whoever waits has a time limit.
pub(super) async fn follow(url: GatewayUrl, mut wanted: mpsc::UnboundedReceiver<Wanted>) {
    let mut open = Open::new();
    loop {
        if open.is_empty() {
            let Some(Wanted { task_id, reply }) = wanted.recv().await else { return };
            open.insert(task_id, reply);
        }
        while let Ok(Wanted { task_id, reply }) = wanted.try_recv() {
            open.insert(task_id, reply);
        }
        open.retain(|_, reply| !reply.is_closed());
        if open.is_empty() {
            continue;
        }
        let until = Instant::now() + LASTS;
        match listen(&url, &mut open, &mut wanted).await {
            Ok(()) => sleep_until(until).await,
            Err(Fault::Unavailable(_)) => sleep(PAUSE).await,
            Err(fault) => {
                // Another try would end in the same way.
                let reason = fault.to_string();
                for reply in std::mem::take(&mut open).into_values() {
                    let _nobody_waits = reply.send(Err(Fault::Failed(format!("wait for replies at {url}: {reason}"))));
                }
            }
        }
    }
}

/// One request: hands out replies until it ends, or until others are wanted too.
async fn listen(url: &GatewayUrl, open: &mut Open, wanted: &mut mpsc::UnboundedReceiver<Wanted>) -> Result<(), Fault> {
    let until = Instant::now() + LASTS;
    let mut lines = timeout(ANSWERED_IN, ask(url, open))
        .await
        .unwrap_or_else(|_| Err(Fault::Unavailable(format!("no answer within {} s", ANSWERED_IN.as_secs()))))?;
    let (mut begun, mut others) = (Begun::default(), false);
    loop {
        tokio::select! {
            biased;
            () = sleep_until(until), if others => return Ok(()),
            line = lines.next() => {
                let Some(line) = line? else { return Ok(()) };
                if let Some(event) = begun.take(&line) {
                    hand_out(&event, open)?;
                }
            }
            Some(Wanted { task_id, reply }) = wanted.recv() => {
                open.insert(task_id, reply);
                others = true;
            }
        }
    }
}

async fn ask(url: &GatewayUrl, open: &Open) -> Result<Lines, Fault> {
    let away = |reason: String| Fault::Unavailable(format!("reach the gateway at {url}: {reason}"));
    let task_ids: Vec<&TaskId> = open.keys().take(IDS_MAX).collect();
    let request = head(url, Method::POST, "/api/v1/tasks:wait").header(header::CONTENT_TYPE, "application/json");
    let body = Full::<Bytes>::new(json!({"task_ids": task_ids}).to_string().into());
    let request = request.body(body).map_err(|error| Fault::Failed(error.to_string()))?;
    let mut connection = dial::<Full<Bytes>>(url).await.map_err(away)?;
    connection.ready().await.map_err(|error| away(in_words(&error)))?;
    let response = connection.send_request(request).await.map_err(|error| away(in_words(&error)))?;
    Lines::of(response, Some(SILENCE_MAX)).await
}

/// Hands an event to whoever waits for it.
fn hand_out(event: &Event, open: &mut Open) -> Result<(), Fault> {
    let not_understood = |error: serde_json::Error| Fault::Failed(format!("event {} is not understood: {error}", event.name));
    let (task_id, reply) = match event.name.as_str() {
        "reply" => {
            let reply: Reply = serde_json::from_slice(&event.data).map_err(not_understood)?;
            (Some(reply.task_id.clone()), Ok(reply))
        }
        "problem" => {
            let problem: ProblemDocument = serde_json::from_slice(&event.data).map_err(not_understood)?;
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (problem.task_id.clone(), Err(fault_of(status, problem)))
        }
        // Its end, which is seen by itself.
        _ => return Ok(()),
    };
    if let Some(waiter) = task_id.and_then(|task_id| open.remove(&task_id)) {
        let _nobody_waits = waiter.send(reply);
    }
    Ok(())
}
