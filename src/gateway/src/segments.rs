//! The raw bytes of results: beside the status of their task where a client asks for them so, or one segment by itself. They are sent from where the store's answer has them.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use protocol::{Reply, SegmentRef, Segments, TaskId, TaskStatus, frame};

use crate::{
    Gateway, Problem, multipart,
    problem::ProblemKind,
    tasks::{known_status, named},
};

/// The type of the numbers that raw bytes are.
pub(crate) const DTYPE: HeaderName = HeaderName::from_static("x-gpufleet-dtype");
/// The sizes of their dimensions.
pub(crate) const SHAPE: HeaderName = HeaderName::from_static("x-gpufleet-shape");
/// The content type of parts, without their boundary.
const MIXED: &str = "multipart/mixed";
/// The content type of raw bytes.
pub(crate) const BYTES: &str = "application/octet-stream";

/// How a client wants segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Frame,
    Parts,
}

impl Wanted {
    /// What the request accepts that carries segments; of two the first. Weights are not looked at: who names one of them can read it.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        accepted.flat_map(|value| value.split(',')).find_map(|range| {
            let essence = range.split(';').next().unwrap_or_default().trim();
            if essence.eq_ignore_ascii_case(frame::FRAME) {
                Some(Self::Frame)
            } else {
                essence.eq_ignore_ascii_case(MIXED).then_some(Self::Parts)
            }
        })
    }
}

/// A status as the client wants it. One without segments is JSON in any case.
pub(crate) fn answer(headers: &HeaderMap, status: TaskStatus) -> Response {
    let segments = status.reply.as_ref().map(|reply| reply.segments.clone()).unwrap_or_default();
    match Wanted::of(headers).filter(|_| !segments.is_empty()) {
        None => Json(status).into_response(),
        Some(Wanted::Frame) => match status.frame_head() {
            Some(head) => in_pieces(frame::FRAME.to_owned(), std::iter::once(head).chain(segments.iter().cloned()).collect()),
            // No frame has so much JSON.
            None => Json(status).into_response(),
        },
        Some(Wanted::Parts) => in_parts(&status, &segments),
    }
}

/// A part for the status, and one for each segment.
fn in_parts(status: &TaskStatus, segments: &Segments) -> Response {
    let json = protocol::Json::of(status).as_bytes().clone();
    let boundary = multipart::boundary_beside(segments.iter().chain([&json]));
    let mut pieces = Vec::with_capacity(2 * segments.len() + 3);
    let mut part = |head: String, content: &Bytes| {
        pieces.push(Bytes::from(format!("--{boundary}\r\n{head}\r\n\r\n")));
        pieces.extend([content.clone(), Bytes::from_static(b"\r\n")]);
    };
    part(format!("Content-Type: {}\r\nContent-Disposition: inline; name=\"status\"", frame::JSON), &json);
    let references = status.reply.as_ref().map(|reply| SegmentRef::all_in(&reply.result)).unwrap_or_default();
    for (number, segment) in segments.iter().enumerate() {
        let mut head = format!("Content-Type: {BYTES}\r\nContent-Disposition: attachment; name=\"segment{number}\"");
        for (name, value) in described(number, &references) {
            head.push_str(&format!("\r\n{name}: {value}"));
        }
        part(head, segment);
    }
    pieces.push(Bytes::from(format!("--{boundary}--\r\n")));
    in_pieces(format!("{MIXED}; boundary={boundary}"), pieces)
}

/// An answer that is made of these, one behind the other.
fn in_pieces(content_type: String, pieces: Vec<Bytes>) -> Response {
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::convert::Infallible>)));
    ([(header::CONTENT_TYPE, content_type), (header::CONTENT_LENGTH, bytes.to_string())], body).into_response()
}

/// The type and the shape of a segment, where one of the references says them.
fn described(number: usize, references: &[SegmentRef]) -> Vec<(HeaderName, String)> {
    let Some(reference) = references.iter().find(|reference| reference.number == number) else { return Vec::new() };
    let dtype = reference.dtype.map(|dtype| (DTYPE, dtype.name().to_owned()));
    let shape = reference.shape.as_ref().map(|shape| (SHAPE, shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")));
    dtype.into_iter().chain(shape).collect()
}

/// `GET /api/v1/tasks/{task_id}/segments/{number}`.
pub(crate) async fn show(State(gateway): State<Gateway>, path: Result<Path<(String, String)>, PathRejection>) -> Result<Response, Problem> {
    let (task_id, number) = match path {
        Ok(Path((task_id, number))) => (named(Ok(Path(task_id)))?, number),
        Err(rejection) => (named(Err(rejection))?, String::new()),
    };
    let reply = ended(&gateway, &task_id).await?;
    let number = number.parse::<usize>().ok().filter(|number| *number < reply.segments.len());
    let Some((number, segment)) = number.and_then(|number| Some((number, reply.segments.get(number)?.clone()))) else {
        let detail = format!("number: the result of task {task_id} has {} segments, numbered from 0", reply.segments.len());
        return Err(Problem::new(ProblemKind::NotFound, detail).field("number").task(&task_id));
    };
    let mut response = ([(header::CONTENT_TYPE, BYTES)], segment).into_response();
    for (name, value) in described(number, &SegmentRef::all_in(&reply.result)) {
        let value = HeaderValue::from_str(&value).expect("names of types, digits and commas");
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// The reply of a task that has ended.
async fn ended(gateway: &Gateway, task_id: &TaskId) -> Result<Reply, Problem> {
    let status = known_status(gateway, task_id).await?;
    let state = status.state;
    status.reply.ok_or_else(|| {
        let problem = if state.ended() {
            Problem::new(ProblemKind::ReplyNotKept, format!("task {task_id} {}, and its reply is not kept", state.name()))
        } else {
            Problem::new(ProblemKind::NotFound, format!("task {task_id} is {}: it has no result yet", state.name()))
        };
        problem.task(task_id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_segments_is_given_to_who_names_it() {
        let wanted = |accept: &str| Wanted::of(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("a value"))]));
        for (accept, expected) in [
            ("application/json", None),
            ("*/*", None),
            ("application/json, application/x-gpufleet-frame;q=0.5", Some(Wanted::Frame)),
            ("Multipart/Mixed, application/x-gpufleet-frame", Some(Wanted::Parts)),
        ] {
            assert_eq!(wanted(accept), expected, "{accept}");
        }
        assert_eq!(Wanted::of(&HeaderMap::new()), None);
    }

    #[test]
    fn a_segment_is_described_by_the_first_reference_to_it() {
        let result = serde_json::json!({"a": {"$segment": 1}, "b": [{"$segment": 0, "dtype": "bf16", "shape": [10, 3]}]});
        let references = SegmentRef::all_in(&result.into());
        assert_eq!(described(0, &references), [(DTYPE, "bf16".to_owned()), (SHAPE, "10,3".to_owned())]);
        assert_eq!((described(1, &references), described(2, &references)), (Vec::new(), Vec::new()));
    }
}
