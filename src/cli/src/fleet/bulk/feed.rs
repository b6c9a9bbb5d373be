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
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{
    fault::Fault,
    fleet::{
        GatewayUrl,
        answer::Lines,
        http::{ANSWERED_IN, dial, head, in_words},
    },
};

/// Lines that may wait for the connection.
const PIECES_MAX: usize = 16;

/// Who waits for the answer to a line.
type Waiter = oneshot::Sender<Result<Line, Fault>>;

/// A line to send.
pub(super) struct Asked {
    /// With its end.
    pub(super) text: Vec<u8>,
    pub(super) answer: Waiter,
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
                    let _nobody_waits = answer.send(Err(Fault::Unavailable("the connection ended".to_owned())));
                }
                open = Some(fresh);
                send(&mut open, text).await;
            }
            Err(fault) => {
                open = None;
                let _nobody_waits = answer.send(Err(fault.clone()));
                // A gateway that cannot be reached is not dialled for each line that waits already.
                while let Ok(Asked { answer, .. }) = asked.try_recv() {
                    let _nobody_waits = answer.send(Err(fault.clone()));
                }
            }
        }
    }
}

fn registered(open: Option<&Open>, answer: Waiter) -> Result<(), Waiter> {
    match open {
        Some(open) => open.unanswered.register(answer),
        None => Err(answer),
    }
}

/// Gives a line to the connection. One that takes no more ends once an answer is overdue: whoever waits for an answer over it hears of that, and the next line opens another.
async fn send(open: &mut Option<Open>, text: Vec<u8>) {
    let Some(Open { pieces, hearing, .. }) = open else { return };
    let has_ended = tokio::select! {
        biased;
        _taken = pieces.send(Ok(Frame::data(text.into()))) => false,
        _ended = hearing => true,
    };
    if has_ended {
        *open = None;
    }
}

/// A request under way.
struct Open {
    pieces: pieces::Sender<Piece>,
    unanswered: Arc<Unanswered>,
    /// Hands out the answers, and ends with the request.
    hearing: JoinHandle<()>,
}

impl Open {
    async fn new(url: &GatewayUrl, traceparent: Option<&str>) -> Result<Self, Fault> {
        let (pieces, body) = pieces::channel(PIECES_MAX);
        let mut request = head(url, Method::POST, "/api/v1/tasks:bulk").header(header::CONTENT_TYPE, "application/x-ndjson");
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let request = request.body(StreamBody::new(body)).map_err(|error| Fault::Failed(error.to_string()))?;
        let connection = dial::<Body>(url).await.map_err(Fault::Unavailable)?;
        let unanswered = Arc::<Unanswered>::default();
        let heard = Arc::clone(&unanswered);
        let hearing = tokio::spawn(async move { hear(&heard, listen(connection, request, &heard)).await });
        Ok(Self { pieces, unanswered, hearing })
    }
}

/// The lines of a request that have no answer yet, in their order.
#[derive(Default)]
struct Unanswered(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    waiting: VecDeque<Waiter>,
    /// Since when the first of them is the next one to be answered.
    since: Option<Instant>,
    ended: bool,
}

impl Unanswered {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one more line, before it is sent. `Err`: the request has ended.
    fn register(&self, answer: Waiter) -> Result<(), Waiter> {
        let mut answers = self.answers();
        if answers.ended {
            return Err(answer);
        }
        answers.waiting.push_back(answer);
        answers.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn next(&self) -> Option<Waiter> {
        let mut answers = self.answers();
        let next = answers.waiting.pop_front();
        answers.since = (!answers.waiting.is_empty()).then(Instant::now);
        next
    }

    /// Ends once no answer has come for too long although a line waits for one.
    async fn overdue(&self) {
        loop {
            let now = Instant::now();
            let due = self.answers().since.unwrap_or(now) + ANSWERED_IN;
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }

    fn end(&self) -> VecDeque<Waiter> {
        let mut answers = self.answers();
        answers.ended = true;
        std::mem::take(&mut answers.waiting)
    }
}

/// Follows a request to its end, which an answer that is overdue is too, and says so to all lines that have no answer.
async fn hear(unanswered: &Unanswered, listening: impl Future<Output = Result<(), Fault>>) {
    let fault = tokio::select! {
        biased;
        listened = listening => listened.err().unwrap_or_else(|| Fault::Unavailable("the gateway ended its answers before all were there".to_owned())),
        () = unanswered.overdue() => Fault::Unavailable(format!("no answer within {} s", ANSWERED_IN.as_secs())),
    };
    for answer in unanswered.end() {
        let _nobody_waits = answer.send(Err(fault.clone()));
    }
}

/// Hands out the answers of a request.
async fn listen(mut connection: SendRequest<Body>, request: Request<Body>, unanswered: &Unanswered) -> Result<(), Fault> {
    let away = |error: hyper::Error| Fault::Unavailable(in_words(&error));
    connection.ready().await.map_err(away)?;
    let response = connection.send_request(request).await.map_err(away)?;
    // Silence is no fault while no line waits.
    let mut lines = Lines::of(response, None).await?;
    while let Some(text) = lines.next().await? {
        let line: Line = serde_json::from_slice(&text).map_err(|error| Fault::Failed(format!("an answer is not understood: {error}")))?;
        if let Some(reason) = line.ends_the_request() {
            return Err(Fault::Unavailable(reason.to_owned()));
        }
        if let Some(answer) = unanswered.next() {
            let _nobody_waits = answer.send(Ok(line));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::time::sleep;

    use super::*;

    /// A request that nobody answers, over a connection that takes what fits into its channel.
    fn stalled() -> (Open, pieces::Receiver<Piece>) {
        let (pieces, body) = pieces::channel(PIECES_MAX);
        let unanswered = Arc::<Unanswered>::default();
        let heard = Arc::clone(&unanswered);
        let hearing = tokio::spawn(async move { hear(&heard, pending()).await });
        (Open { pieces, unanswered, hearing }, body)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_stalled_ends_and_holds_nobody_up() {
        let (open, _body) = stalled();
        let unanswered = Arc::clone(&open.unanswered);
        let (answer, answered) = oneshot::channel();
        assert!(registered(Some(&open), answer).is_ok());
        let mut open = Some(open);
        // One more than fits: the last one waits for the connection.
        for _ in 0..PIECES_MAX + 2 {
            send(&mut open, b"{}\n".to_vec()).await;
        }
        assert!(open.is_none(), "the next line opens another request");
        let told = answered.await.expect("the line hears of it");
        assert!(matches!(&told, Err(Fault::Unavailable(told)) if told == "no answer within 30 s"), "{told:?}");
        assert!(unanswered.register(oneshot::channel().0).is_err(), "no line waits over it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_line_that_waits_makes_an_answer_overdue() {
        let (open, _body) = stalled();
        sleep(10 * ANSWERED_IN).await;
        assert!(!open.hearing.is_finished(), "no line waits");
        let answers = [(); 3].map(|()| {
            let (answer, answered) = oneshot::channel();
            assert!(registered(Some(&open), answer).is_ok());
            answered
        });
        for _ in 0..2 {
            // Each answer gives the next one its time.
            sleep(ANSWERED_IN - Duration::from_secs(1)).await;
            assert!(open.unanswered.next().is_some() && !open.hearing.is_finished());
        }
        let [.., last] = answers;
        assert!(matches!(last.await, Ok(Err(Fault::Unavailable(_)))));
    }
}
