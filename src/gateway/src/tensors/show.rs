//! `GET /api/v1/tensors/{name}`: the raw bytes of a tensor, all of them or a range, as they come from a GPU that has it; or what is known of it.

use std::ops::Range;

use axum::{
    Json,
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use protocol::TensorRecord;
use tracing::warn;

use super::{FoundTensor, VersionQuery, named, version};
use crate::{
    Gateway, Problem,
    problem::ProblemKind,
    segments::{BYTES, DTYPE, SHAPE},
};

const VERSION: HeaderName = HeaderName::from_static("x-gpufleet-version");

/// `GET /api/v1/tensors/{name}`.
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    method: Method,
    headers: HeaderMap,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<VersionQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let (name, version) = (named(name)?, version(query)?);
    let found = gateway.tensors().find(&name, version).await.map_err(|cause| gateway.tensors_failed(&cause))?;
    if wants_json(&headers) {
        return Ok(Json(found.view(gateway.ports.producer.now_ms())).into_response());
    }
    let record = found.record();
    let (status, range) = match Wanted::of(&headers, record) {
        Wanted::Whole => (StatusCode::OK, 0..record.bytes),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => return Ok(not_satisfiable(record)),
    };
    // The first piece is there before it is said that all is well.
    let body = if method == Method::HEAD { Body::empty() } else { gateway.bytes(&found, range.clone()).await? };
    let mut response = (status, body).into_response();
    describe(response.headers_mut(), record, &range, status);
    Ok(response)
}

impl Gateway {
    async fn bytes(&self, found: &FoundTensor, range: Range<u64>) -> Result<Body, Problem> {
        let share = self.share_of_passage(range.end - range.start)?;
        let mut pieces = found.read(range);
        let Some(first) = pieces.next().await else { return Ok(Body::empty()) };
        let first = first.map_err(|cause| self.tensors_failed(&cause))?;
        self.unreached.accepted();
        let name = found.record().name.clone();
        // The connection is cut where an error comes, since what was announced as its length has not come.
        let rest = pieces.inspect(move |piece| {
            let _as_long_as_it_passes = &share;
            if let Err(cause) = piece {
                warn!(%name, error = %cause, "cut an answer off: its tensor is gone half-way");
            }
        });
        Ok(Body::from_stream(stream::iter([Ok(first)]).chain(rest)))
    }
}

/// Whether what is known of it is wanted, and not its bytes.
fn wants_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.contains("application/json") && !accepted.contains(BYTES) && !accepted.contains("*/*")
}

/// What a version of a tensor is known by: it never changes.
pub(super) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

fn describe(headers: &mut HeaderMap, record: &TensorRecord, range: &Range<u64>, status: StatusCode) {
    let shape = &record.shape;
    let sides = shape.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut described = vec![
        (header::CONTENT_TYPE, BYTES.to_owned()),
        (header::CONTENT_LENGTH, (range.end - range.start).to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, etag(record.version)),
        (VERSION, record.version.to_string()),
        (DTYPE, shape.dtype.name().to_owned()),
        (SHAPE, sides),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        described.push((header::CONTENT_RANGE, format!("bytes {}-{}/{}", range.start, range.end - 1, record.bytes)));
    }
    for (name, value) in described {
        headers.insert(name, HeaderValue::from_str(&value).expect("names, digits and commas"));
    }
}

fn not_satisfiable(record: &TensorRecord) -> Response {
    let detail = format!("Range: the tensor {} has {} bytes, and none of those that are asked for", record.name, record.bytes);
    let mut response = Problem::new(ProblemKind::RangeNotSatisfiable, detail).field("Range").into_response();
    let value = HeaderValue::from_str(&format!("bytes */{}", record.bytes)).expect("digits");
    response.headers_mut().insert(header::CONTENT_RANGE, value);
    response
}

/// Which bytes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Whole,
    /// At least one byte.
    Part(Range<u64>),
    /// A range that has no byte of it.
    Nothing,
}

impl Wanted {
    /// By the headers. One that is no single range of bytes, or that counts for another version (`If-Range`), says nothing, as HTTP has it (RFC 9110).
    fn of(headers: &HeaderMap, record: &TensorRecord) -> Self {
        let counts_for = headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == etag(record.version).as_bytes());
        let mut given = headers.get_all(header::RANGE).iter();
        match (given.next().and_then(|value| value.to_str().ok()), given.next()) {
            (Some(range), None) if counts_for => Self::read(range, record.bytes).unwrap_or(Self::Whole),
            _ => Self::Whole,
        }
    }

    /// `bytes=0-99`, `bytes=100-` or `bytes=-100`.
    fn read(range: &str, bytes: u64) -> Option<Self> {
        let (unit, range) = range.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let wanted = match (first, last) {
            ("", length) => bytes.saturating_sub(number(length)?)..bytes,
            (first, "") => number(first)?..bytes,
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return None;
                }
                first..last.saturating_add(1).min(bytes)
            }
        };
        Some(if wanted.is_empty() { Self::Nothing } else { Self::Part(wanted) })
    }
}

/// Digits and nothing else. More than can be counted is past every end.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_http_has_it() {
        let part = |range| Some(Wanted::Part(range));
        for (range, expected) in [
            ("bytes=0-0", part(0..1)),
            ("bytes=2-5", part(2..6)),
            ("Bytes= 2-5", part(2..6)),
            ("bytes=2-99999999999999999999", part(2..10)),
            ("bytes=8-", part(8..10)),
            ("bytes=-3", part(7..10)),
            ("bytes=-30", part(0..10)),
            ("bytes=10-", Some(Wanted::Nothing)),
            ("bytes=10-12", Some(Wanted::Nothing)),
            ("bytes=-0", Some(Wanted::Nothing)),
            ("bytes=5-2", None),
            ("bytes=0-1,4-5", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("items=0-1", None),
            ("bytes", None),
        ] {
            assert_eq!(Wanted::read(range, 10), expected, "{range}");
        }
        assert_eq!(Wanted::read("bytes=0-", 0), Some(Wanted::Nothing));
    }

    #[test]
    fn json_is_given_to_who_wants_nothing_else() {
        let of = |accept: &'static str| wants_json(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("a value"))]));
        assert!(of("application/json") && !of("*/*") && !of("application/json, text/plain, */*") && !of("application/octet-stream"));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
