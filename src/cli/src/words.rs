//! Times, rates and sizes in words, as every page of the fleet has them.

use time::OffsetDateTime;

/// A duration with its unit, in at most 7 letters: `850 ms`, `3.2 s`, `4m 05s`, `2h 13m`, `3d 04h`.
pub(crate) fn span(ms: f64) -> String {
    let ms = ms.max(0.0);
    let seconds = (ms / 1_000.0).round() as u64;
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms if ms < 99_950.0 => format!("{:.1} s", ms / 1_000.0),
        _ if seconds < 3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// The time from one instant to a later one, both in Unix ms. Clocks of several hosts differ a little: what would be negative is none.
pub(crate) fn since(then_ms: u64, now_ms: u64) -> String {
    span(now_ms.saturating_sub(then_ms) as f64)
}

/// Tasks per second.
pub(crate) fn rate(per_s: f64) -> String {
    if per_s >= 99.95 { format!("{per_s:.0}/s") } else { format!("{per_s:.1}/s") }
}

/// A time of day in UTC: `12:03:04.512`.
pub(crate) fn time_of_day(at_ms: u64) -> String {
    let at = instant(at_ms);
    format!("{:02}:{:02}:{:02}.{:03}", at.hour(), at.minute(), at.second(), at.millisecond())
}

/// A time with its date, in UTC: `2026-05-04 12:03:04.512`.
pub(crate) fn date_and_time(at_ms: u64) -> String {
    let at = instant(at_ms);
    format!("{:04}-{:02}-{:02} {}", at.year(), u8::from(at.month()), at.day(), time_of_day(at_ms))
}

fn instant(at_ms: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A number of things: `1 task`, `3 tasks`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_at_most_seven_letters_and_its_unit() {
        let shown = [0.0, 9.96, 850.4, 999.6, 3_210.0, 99_940.0, 245_000.0, 7_980_000.0, 273_600_000.0].map(span);
        assert_eq!(shown, ["0.0 ms", "10.0 ms", "850 ms", "1.0 s", "3.2 s", "99.9 s", "4m 05s", "2h 13m", "3d 04h"]);
        assert!((0..60).all(|power| span(1.7_f64.powi(power).min(8.0e10)).chars().count() <= 8));
        assert_eq!((span(-5.0), since(9, 4)), ("0.0 ms".to_owned(), "0.0 ms".to_owned()));
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(date_and_time(1_777_896_184_512), "2026-05-04 12:03:04.512");
        assert_eq!(time_of_day(u64::MAX), "00:00:00.000", "what no calendar has");
    }

    #[test]
    fn rates_and_counts() {
        assert_eq!([0.0, 3.25, 1_234.5].map(rate), ["0.0/s", "3.2/s", "1234/s"]);
        assert_eq!((count(1, "task"), count(2, "GPU")), ("1 task".to_owned(), "2 GPUs".to_owned()));
    }
}
