//! When a task may start at the earliest, as the headers of its message say it.

use super::deadlines::published_ms;
use crate::{EarliestStart, Envelope, Refusal};

/// The headers, as a refusal names them.
const NAMES: [&str; 2] = ["headers.x-gpufleet-not-before-ms", "headers.x-gpufleet-delay-ms"];

/// By so much the clock of a host may be behind that of another one, which has accepted the task.
const CLOCKS_DIFFER_MS: u64 = 24 * 3_600 * 1_000;

/// The time before which the task must not start, or must not have started; `None`: it may at once. A delay counts from the publish as far as that is known, else from now.
pub(super) fn earliest_start_ms(envelope: &Envelope, now_ms: u64) -> Result<Option<u64>, Refusal> {
    let headers = &envelope.headers;
    let asked = EarliestStart { not_before_ms: headers.not_before_ms, delay_ms: headers.delay_ms };
    if asked == EarliestStart::default() {
        return Ok(None);
    }
    let published_ms = published_ms(envelope, now_ms).unwrap_or(now_ms);
    // What has a pool was sent on by somebody of the fleet.
    let judged_by_ms = if headers.pool.is_some() { now_ms.saturating_add(CLOCKS_DIFFER_MS) } else { now_ms };
    asked.at((published_ms, judged_by_ms), NAMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Limits,
        envelope::{DELAY, Headers, NOT_BEFORE},
    };

    const NOW: u64 = 1_800_000_000_000;

    fn earliest(timestamp: Option<u64>, headers: Headers) -> Result<Option<u64>, String> {
        earliest_start_ms(&Envelope { timestamp, headers, ..Envelope::default() }, NOW).map_err(|refusal| refusal.field)
    }

    fn delayed(delay_ms: u64) -> Headers {
        Headers { delay_ms: Some(delay_ms), ..Headers::default() }
    }

    #[test]
    fn a_refusal_names_the_header() {
        assert_eq!(NAMES.map(str::to_owned), [NOT_BEFORE, DELAY].map(|name| format!("headers.{name}")));
        assert_eq!(earliest(None, delayed(Limits::LONGEST_MS + 1)), Err(NAMES[1].to_owned()));
        assert_eq!(earliest(None, Headers { not_before_ms: Some(1), ..delayed(1) }), Err(NAMES[1].to_owned()));
    }

    #[test]
    fn a_delay_counts_from_the_end_of_the_second_of_the_publish_and_else_from_now() {
        assert_eq!(earliest(Some(NOW / 1_000 - 10), delayed(60_000)), Ok(Some(NOW - 10_000 + 999 + 60_000)));
        assert_eq!(earliest(None, delayed(60_000)), Ok(Some(NOW + 60_000)));
        assert_eq!(earliest(Some(NOW / 1_000 + 3_600), delayed(60_000)), Ok(Some(NOW + 60_000)), "a clock that is not believed");
        assert_eq!(earliest(None, Headers::default()), Ok(None));
    }

    #[test]
    fn what_another_host_accepted_is_not_refused_because_its_clock_is_ahead() {
        let far = Headers { not_before_ms: Some(NOW + Limits::LONGEST_MS + 5_000), ..Headers::default() };
        assert_eq!(earliest(None, far.clone()), Err(NAMES[0].to_owned()));
        let sent_on = Headers { pool: Some("default".to_owned()), ..far };
        assert_eq!(earliest(None, sent_on), Ok(Some(NOW + Limits::LONGEST_MS + 5_000)));
    }
}
