//! Very many tasks through a gateway: one request that takes them as they come, and one that waits for the replies of all that are open.
//!
//! ```text
//!  submit() ─┐                                                reply() ─┐
//!  submit() ─┼─► feed ══ POST /api/v1/tasks:bulk              reply() ─┼─► follow ══ POST /api/v1/tasks:wait, again whenever there are new ones
//!  submit() ─┘    ◄──── an answer for each                    reply() ─┘    ◄──────── an event for each
//! ```

mod feed;
mod follow;

use std::time::Duration;

use producer::NewTask;
use protocol::{Reply, TaskId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use self::{
    feed::{Asked, Line, feed},
    follow::{Wanted, follow},
};
use super::{
    GatewayUrl, NoReply,
    gateway::{fault_of, request_text},
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
                Err(Fault::Unavailable(_) | Fault::TimeLimit(_)) if tries < TRIES => sleep(PAUSE).await,
                // Another try would end in the same way, or there was one too many.
                Err(fault) => return Err(fault.during(&format!("submit task {task_id} through the gateway at {}", self.url))),
            }
            tries += 1;
        }
    }

    /// The answer to a line; `Err`: why there is none. The feed says so too of a line whose answer does not come in time.
    async fn send(&self, text: Vec<u8>) -> Result<Line, Fault> {
        let (answer, answered) = oneshot::channel();
        let ended = || Fault::Failed("the gateway's client has ended".to_owned());
        self.asked.send(Asked { text, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use protocol::{Kind, TaskBody};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A gateway that knows no such route. Its URL, and how many requests it had.
    async fn older_gateway() -> (GatewayUrl, Arc<AtomicUsize>) {
        const BODY: &str =
            r#"{"type":"urn:gpufleet:problem:not-found","title":"not found","status":404,"detail":"there is no such route"}"#;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URL");
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut bytes = [0; 4_096];
                    let _head = stream.read(&mut bytes).await;
                    let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{BODY}", BODY.len());
                    let _sent = stream.write_all(answer.as_bytes()).await;
                    // To the end of the request: a connection that is closed before takes its answer with it.
                    while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
                });
            }
        });
        (url, requests)
    }

    #[tokio::test]
    async fn a_request_that_is_refused_for_good_is_not_sent_again() {
        let (url, requests) = older_gateway().await;
        let bulk = Bulk::start(url, None);
        let task = NewTask::new(Kind::new("echo").expect("valid"), TaskBody::default());
        let fault = bulk.submit(&task, &TaskId::new("t").expect("valid")).await.expect_err("refused");
        assert!(matches!(&fault, Fault::NotFound(told) if told.ends_with("there is no such route")), "{fault:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    }
}
