//! `GET /api/v1/tasks/{task_id}/events`: a task's life as server-sent events.
//!
//! The store tells of every task how it stands and how far it is, whoever submitted it; it is asked at a pace that slows down while nothing changes. Parts of the output
//! are never in the store: they come from this gateway's [`log`], for tasks that were submitted here with `progress`.

mod follow;
pub(crate) mod group;
pub(crate) mod log;
pub(crate) mod wait;
mod waiting;

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use protocol::ProgressMessage;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use self::follow::Following;
use crate::{Gateway, Problem, problem::ProblemKind, tasks};

/// Streams that may be open at once.
pub(crate) const STREAMS_MAX: usize = 1_024;
/// How often a silent stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Tells a proxy not to gather the events before it passes them on, which nginx does unless it is told.
pub(crate) const NOT_KEPT_BACK: [(&str, &str); 2] = [("x-accel-buffering", "no"), ("cache-control", "no-cache")];

/// One event, ready to be sent any number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    name: &'static str,
    data: String,
    /// Its place in the [`log`], for `Last-Event-ID`.
    id: Option<u64>,
}

impl Event {
    pub(crate) fn new(name: &'static str, data: &impl Serialize) -> Self {
        let data = serde_json::to_string(data).expect("our own types have string keys only");
        // A result is as its executor wrote it. A carriage return, which JSON has between values only, would end a line of the stream.
        let data = if data.contains('\r') { data.replace('\r', " ") } else { data };
        Self { name, data, id: None }
    }

    /// The events that a progress message tells of.
    pub(crate) fn of(message: &ProgressMessage) -> Vec<Self> {
        let progress = message.progress.iter().map(|progress| Self::new("progress", progress));
        progress.chain(message.partials.iter().map(|partial| Self::new("partial", partial))).collect()
    }

    fn sse(&self) -> sse::Event {
        let event = sse::Event::default().event(self.name).data(&self.data);
        match self.id {
            Some(id) => event.id(id.to_string()),
            None => event,
        }
    }
}

/// Where events come from.
pub(crate) trait Source: Send + 'static {
    /// The next event; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Event>> + Send;
}

/// An answer of events. All work is done as the client reads: when it goes away, `source` is dropped and nothing goes on.
pub(crate) fn answer(source: impl Source) -> Response {
    let events = Sse::new(events_of(source)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    (NOT_KEPT_BACK, events).into_response()
}

fn events_of(source: impl Source) -> impl Stream<Item = Result<sse::Event, Infallible>> + Send {
    stream::unfold(source, |mut source| async move {
        let event = source.next().await?;
        Some((Ok(event.sse()), source))
    })
}

/// Room for one more stream of events.
fn admitted(gateway: &Gateway) -> Result<OwnedSemaphorePermit, Problem> {
    gateway.streams.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS_MAX} streams of events are open already; poll the task's status, or come back");
        Problem::new(ProblemKind::Unavailable, detail).retry_after(gateway.unavailable.refused())
    })
}

/// `GET /api/v1/tasks/{task_id}/events`.
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let task_id = tasks::named(task_id)?;
    let permit = admitted(&gateway)?;
    let status = tasks::known_status(&gateway, &task_id).await?;
    Ok(answer(Following::new(gateway, status, seen(&headers), permit)))
}

/// The last numbered event that a client has that comes back; 0: none.
pub(crate) fn seen(headers: &HeaderMap) -> u64 {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    struct Silence;

    impl Source for Silence {
        async fn next(&mut self) -> Option<Event> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_shows_that_it_lives() {
        let body: Body = answer(Silence).into_body();
        let began = tokio::time::Instant::now();
        let mut frames = body.into_data_stream();
        for beat in 1..=3 {
            let frame = futures::StreamExt::next(&mut frames).await.expect("a frame").expect("no error");
            assert_eq!((&frame[..], began.elapsed()), (&b":\n\n"[..], KEEP_ALIVE * beat));
        }
    }
}
