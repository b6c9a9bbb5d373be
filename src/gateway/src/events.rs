//! `GET /api/v1/tasks/{task_id}/events`: a task's life as server-sent events.
//!
//! The store tells of every task how it stands and how far it is, whoever submitted it; it is asked at a pace that slows down while nothing changes. Parts of the output
//! are never in the store: they come from this gateway's [`log`], for tasks that were submitted here with `progress`. So do the results of a batch's items before its reply; those
//! that did not come so, or to nobody who follows the task elsewhere, are told out of the reply: each item once.

pub(crate) mod follow;
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
use protocol::{Fraction, ItemCounts, ItemResult, Progress, ProgressMessage};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use self::follow::Following;
use crate::{Gateway, Problem, problem::ProblemKind, tasks};

/// Streams that may be open at once.
pub(crate) const STREAMS_MAX: usize = 1_024;
/// Replies of many tasks that are in memory at once until the client takes them, in bytes: with one more than that no further one is asked for.
const READY_BYTES_MAX: usize = 1 << 20;
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
    /// The item of a batch whose result it tells.
    item: Option<u32>,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct HowFar {
    /// The share of the work that is done, 0 to 1; of a batch the share of its items that have ended.
    fraction: Fraction,
    /// What it does now, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// When it was noted, in Unix milliseconds. Absent where only the counts of a batch's items say how far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ms: Option<u64>,
    /// Of a batch: how many of its items have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<ItemCounts>,
}

impl HowFar {
    /// What progress and the counts of items say together; `None` if neither is there.
    pub(crate) fn of(progress: Option<&Progress>, items: Option<ItemCounts>) -> Option<Self> {
        let fraction = items.map(ItemCounts::fraction).or(progress.map(|progress| progress.fraction))?;
        let message = progress.and_then(|progress| progress.message.clone());
        Some(Self { fraction, message, at_ms: progress.map(|progress| progress.at_ms), items })
    }

    /// What a message says of it. The progress of one slice is none of its batch's.
    pub(crate) fn said_by(message: &ProgressMessage) -> Option<Self> {
        let progress = message.progress.as_ref();
        match message.slice {
            None => Self::of(progress, message.items),
            Some(_) => Some(Self { message: None, at_ms: progress.map(|progress| progress.at_ms), ..Self::of(None, message.items)? }),
        }
    }
}

impl Event {
    pub(crate) fn new(name: &'static str, data: &impl Serialize) -> Self {
        Self::written(name, serde_json::to_string(data).expect("our own types have string keys only"))
    }

    fn written(name: &'static str, data: String) -> Self {
        // A result is as its executor wrote it. A carriage return, which JSON has between values only, would end a line of the stream.
        let data = if data.contains('\r') { data.replace('\r', " ") } else { data };
        Self { name, data, id: None, item: None }
    }

    /// The result of an item of a batch.
    pub(crate) fn of_item(index: u32, came_out: &ItemResult) -> Self {
        let came_out = came_out.to_json();
        // Its text is that of an object with one field.
        let data = format!("{{\"index\":{index},{}", came_out.as_str().trim_start_matches('{'));
        Self { item: Some(index), ..Self::written("item", data) }
    }

    /// The events that a progress message tells of. Parts of output are those of one payload: of a batch nobody could tell which item's they are.
    pub(crate) fn of(message: &ProgressMessage) -> Vec<Self> {
        let progress = HowFar::said_by(message).map(|how_far| Self::new("progress", &how_far));
        let items = message.results.iter().map(|item| Self::of_item(item.index, &item.came_out));
        let is_of_batch = message.slice.is_some() || message.items.is_some() || !message.results.is_empty();
        let partials = message.partials.iter().filter(|_| !is_of_batch).map(|partial| Self::new("partial", partial));
        progress.into_iter().chain(items).chain(partials).collect()
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
pub(crate) fn admitted(gateway: &Gateway) -> Result<OwnedSemaphorePermit, Problem> {
    gateway.streams.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS_MAX} streams of events are open already; come back, or ask for the status from time to time");
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
    use protocol::{IndexedItem, Json, Partial, TaskError, Token};

    use super::*;

    fn said(slice: Option<&str>, items: Option<ItemCounts>) -> ProgressMessage {
        let result = Json::parse("{\"a\": 1.0}").expect("JSON");
        ProgressMessage {
            task_id: "b".parse().expect("valid"),
            attempt: 1,
            token: Token(7),
            number: 1,
            slice: slice.map(|text| text.parse().expect("a slice")),
            items,
            results: vec![IndexedItem { index: 3, came_out: ItemResult::succeeded(result) }],
            progress: Some(Progress { fraction: Fraction::clamped(0.5), message: Some("m".to_owned()), at_ms: 9 }),
            partials: vec![Partial { number: 1, value: Json::null() }],
        }
    }

    #[test]
    fn a_batch_tells_its_items_and_how_many_of_them_have_ended() {
        let texts = |message: &ProgressMessage| Event::of(message).into_iter().map(|event| (event.name, event.data)).collect::<Vec<_>>();
        let item = ("item", r#"{"index":3,"result":{"a": 1.0}}"#.to_owned());
        let counts = ItemCounts { of: 8, done: 2, failed: Some(1) };
        let of_slice = r#"{"fraction":0.25,"at_ms":9,"items":{"of":8,"done":2,"failed":1}}"#;
        assert_eq!(texts(&said(Some("2..4"), Some(counts))), [("progress", of_slice.to_owned()), item.clone()]);
        let of_whole = r#"{"fraction":0.25,"message":"m","at_ms":9,"items":{"of":8,"done":2,"failed":1}}"#;
        assert_eq!(texts(&said(None, Some(counts))), [("progress", of_whole.to_owned()), item.clone()]);
        assert_eq!(texts(&said(Some("2..4"), None)), [item], "the progress of a slice says nothing of its batch");
    }

    #[test]
    fn an_item_that_failed_is_told_with_its_error_and_one_of_nothing_with_null() {
        let failed = ItemResult::failed(TaskError::new("broken", "as asked"));
        assert_eq!(Event::of_item(0, &failed).data, r#"{"index":0,"error":{"code":"broken","message":"as asked"}}"#);
        assert_eq!(Event::of_item(1, &ItemResult::succeeded(Json::null())).data, r#"{"index":1,"result":null}"#);
    }

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
