//! Moments, for people.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// RFC 3339 in UTC, to the second; what no calendar knows stays a number of milliseconds.
pub(crate) fn date(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).ok();
    let date = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok());
    date.unwrap_or_else(|| format!("{unix_ms} ms"))
}
