//! Very many tasks through a gateway: one request that takes them as they come, and one that waits for the replies of all that are open.
//!
//! ```text
//!  submit() ─┐                                                reply() ─┐
//!  submit() ─┼─► feed ══ POST /api/v1/tasks:bulk              reply() ─┼─► follow ══ POST /api/v1/tasks:wait, again whenever there are new ones
//!  submit() ─┘    ◄──── an answer for each                    reply() ─┘    ◄──────── an event for each
//! ```

mod answer;
mod feed;
mod follow;

use std::time::Duration;

use producer::NewTask;
use protocol::{Reply, TaskId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};

use self::{
    feed::{Asked, Line, feed},
    follow::{Wanted, follow},
};
use super::{
    GatewayUrl, NoReply,
    gateway::{fault_of, request_text},
    http::ANSWERED_IN,
};
use crate::fault::Fault;

/// Lines that may wait to be sent. Who hands in one more waits.
const WAITING_MAX: usize = 64;
/// How often a line is sent whose request ended before it was answered. Its task has an id, so that it does not run twice.
const TRIES: u32 = 3;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_secs(1);

/// A gateway that is sent very many tasks. Ends what it does when it is dropped.
pub(crate) struct Bulk {
    url: GatewayUrl,
    asked: mpsc::Sender<Asked>,
    wanted: mpsc::UnboundedSender<Wanted>,
}

impl Bulk {
    /// Needs a tokio runtime. The first task opens the connection.
    pub(super) fn start(url: GatewayUrl, traceparent: Option<String>) -> Self {
        let (asked, lines) = mpsc::channel(WAITING_MAX);
        // Bounded by the tasks that are waited for.
        let (wanted, replies) = mpsc::unbounded_channel();
        tokio::spawn(feed(url.clone(), traceparent, lines));
        tokio::spawn(follow(url.clone(), replies));
        Self { url, asked, wanted }
    }

    /// Submits a task under an id that is known before. The gateway's warnings.
    pub(super) async fn submit(&self, task: &NewTask, task_id: &TaskId) -> Result<Vec<String>, Fault> {
        let mut text = request_text(task, task_id);
        text.push(b'\n');
        let mut tries = 1;
        loop {
            match self.send(text.clone()).await {
                Ok(Line { problem: None, warnings }) => return Ok(warnings),
                Ok(Line { problem: Some(problem), warnings: _ }) => {
                    let status = hyper::StatusCode::from_u16(problem.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
                    return Err(fault_of(status, problem));
                }
                Err(reason) if tries == TRIES => {
                    return Err(Fault::Unavailable(format!("submit task {task_id} through the gateway at {}: {reason}", self.url)));
                }
                Err(_) => sleep(PAUSE).await,
            }
            tries += 1;
        }
    }

    /// The answer to a line; `Err`: why there is none.
    async fn send(&self, text: Vec<u8>) -> Result<Line, String> {
        let (answer, answered) = oneshot::channel();
        let ended = || "the gateway's client has ended".to_owned();
        let sending = async {
            self.asked.send(Asked { text, answer }).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())?
        };
        timeout(ANSWERED_IN, sending).await.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWERED_IN.as_secs())))
    }

    /// The reply of a task that was submitted.
    pub(super) async fn reply(&self, task_id: &TaskId, until: Instant) -> Result<Reply, NoReply> {
        let (reply, replied) = oneshot::channel();
        let ended = || NoReply::Fault(Fault::Failed(format!("wait for task {task_id}: the gateway's client has ended")));
        self.wanted.send(Wanted { task_id: task_id.clone(), reply }).map_err(|_| ended())?;
        match timeout_at(until, replied).await {
            Ok(Ok(reply)) => reply.map_err(NoReply::Fault),
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(NoReply::Late(task_id.clone())),
        }
    }
}
