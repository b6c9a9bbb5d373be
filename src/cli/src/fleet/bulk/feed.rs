//! The one request that all tasks go over.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{SinkExt, channel::mpsc as pieces};
use gateway::ProblemDocument;
use http_body_util::StreamBody;
use hyper::{
    Method, Request,
    body::{Bytes, Frame},
    client::conn::http1::SendRequest,
    header,
};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::answer::Lines;
use crate::fleet::{
    GatewayUrl,
    http::{dial, head, in_words},
};

/// Lines that may wait for the connection.
const PIECES_MAX: usize = 16;

/// A line to send.
pub(super) struct Asked {
    /// With its end.
    pub(super) text: Vec<u8>,
    pub(super) answer: oneshot::Sender<Result<Line, String>>,
}

/// An answer.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    #[serde(default)]
    pub(super) warnings: Vec<String>,
    #[serde(default)]
    pub(super) problem: Option<ProblemDocument>,
}

impl Line {
    /// The request ends with this answer, and its line was not read, nor were those after it.
    fn ends_the_request(&self) -> Option<&str> {
        let problem = self.problem.as_ref()?;
        let is_last = [":bulk-stopped", ":body-timeout"].iter().any(|name| problem.kind.ends_with(name));
        is_last.then_some(problem.detail.as_str())
    }
}

type Piece = Result<Frame<Bytes>, Infallible>;
type Body = StreamBody<pieces::Receiver<Piece>>;

/// Sends lines as they come. A request that ended is followed by a new one with the next line.
pub(super) async fn feed(url: GatewayUrl, traceparent: Option<String>, mut asked: mpsc::Receiver<Asked>) {
    let mut open: Option<Open> = None;
    while let Some(Asked { text, answer }) = asked.recv().await {
        let Err(answer) = registered(open.as_ref(), answer) else {
            send(&mut open, text).await;
            continue;
        };
        match Open::new(&url, traceparent.as_deref()).await {
            Ok(fresh) => {
                // Nothing can have ended it yet but its connection; then its answers are told so.
                if let Err(answer) = registered(Some(&fresh), answer) {
                    let _nobody_waits = answer.send(Err("the connection ended".to_owned()));
                }
                open = Some(fresh);
                send(&mut open, text).await;
            }
            Err(reason) => {
                open = None;
                let _nobody_waits = answer.send(Err(reason.clone()));
                // A gateway that cannot be reached is not dialled for each line that waits already.
                while let Ok(Asked { answer, .. }) = asked.try_recv() {
                    let _nobody_waits = answer.send(Err(reason.clone()));
                }
            }
        }
    }
}

fn registered(open: Option<&Open>, answer: oneshot::Sender<Result<Line, String>>) -> Result<(), oneshot::Sender<Result<Line, String>>> {
    match open {
        Some(open) => open.unanswered.register(answer),
        None => Err(answer),
    }
}

/// Who sends what nobody takes hears of it by the end of its answers.
async fn send(open: &mut Option<Open>, text: Vec<u8>) {
    if let Some(open) = open {
        let _taken = open.pieces.send(Ok(Frame::data(text.into()))).await;
    }
}

/// A request under way.
struct Open {
    pieces: pieces::Sender<Piece>,
    unanswered: Arc<Unanswered>,
}

impl Open {
    async fn new(url: &GatewayUrl, traceparent: Option<&str>) -> Result<Self, String> {
        let (pieces, body) = pieces::channel(PIECES_MAX);
        let mut request = head(url, Method::POST, "/api/v1/tasks:bulk").header(header::CONTENT_TYPE, "application/x-ndjson");
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let request = request.body(StreamBody::new(body)).map_err(|error| error.to_string())?;
        let connection = dial::<Body>(url).await?;
        let unanswered = Arc::<Unanswered>::default();
        tokio::spawn(hear(connection, request, Arc::clone(&unanswered)));
        Ok(Self { pieces, unanswered })
    }
}

/// The lines of a request that have no answer yet, in their order.
#[derive(Default)]
struct Unanswered(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    waiting: VecDeque<oneshot::Sender<Result<Line, String>>>,
    ended: bool,
}

impl Unanswered {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one more line, before it is sent. `Err`: the request has ended.
    fn register(&self, answer: oneshot::Sender<Result<Line, String>>) -> Result<(), oneshot::Sender<Result<Line, String>>> {
        let mut answers = self.answers();
        if answers.ended {
            return Err(answer);
        }
        answers.waiting.push_back(answer);
        Ok(())
    }

    fn next(&self) -> Option<oneshot::Sender<Result<Line, String>>> {
        self.answers().waiting.pop_front()
    }

    fn end(&self) -> VecDeque<oneshot::Sender<Result<Line, String>>> {
        let mut answers = self.answers();
        answers.ended = true;
        std::mem::take(&mut answers.waiting)
    }
}

/// Hands out the answers of a request, and at its end says so to all lines that have none.
async fn hear(connection: SendRequest<Body>, request: Request<Body>, unanswered: Arc<Unanswered>) {
    let reason = match listen(connection, request, &unanswered).await {
        Ok(()) => "the gateway ended its answers before all were there".to_owned(),
        Err(reason) => reason,
    };
    for answer in unanswered.end() {
        let _nobody_waits = answer.send(Err(reason.clone()));
    }
}

async fn listen(mut connection: SendRequest<Body>, request: Request<Body>, unanswered: &Unanswered) -> Result<(), String> {
    connection.ready().await.map_err(|error| in_words(&error))?;
    let response = connection.send_request(request).await.map_err(|error| in_words(&error))?;
    // A line that is not answered in time is given up by who sent it.
    let mut lines = Lines::of(response, None).await.map_err(|fault| fault.to_string())?;
    while let Some(text) = lines.next().await.map_err(|fault| fault.to_string())? {
        let line: Line = serde_json::from_slice(&text).map_err(|error| format!("an answer is not understood: {error}"))?;
        if let Some(reason) = line.ends_the_request() {
            return Err(reason.to_owned());
        }
        if let Some(answer) = unanswered.next() {
            let _nobody_waits = answer.send(Ok(line));
        }
    }
    Ok(())
}
