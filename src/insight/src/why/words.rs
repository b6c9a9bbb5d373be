//! Figures in words.

/// A duration for people, to about three digits: `350 ms`, `12.3 s`, `14 min`, `5 h 10 min`, `3 days`.
pub(super) fn duration(ms: f64) -> String {
    let (seconds, minutes) = (ms / 1_000.0, (ms / 60_000.0).round() as u64);
    if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if seconds < 119.95 {
        format!("{seconds:.1} s")
    } else if minutes < 120 {
        format!("{minutes} min")
    } else if minutes < 48 * 60 {
        format!("{} h {} min", minutes / 60, minutes % 60)
    } else {
        format!("{} days", (minutes as f64 / 1_440.0).round())
    }
}

/// A whole number with its thousands apart: `40,000`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 slot`, `2,000 slots`.
pub(super) fn count(of: u64, one: &str) -> String {
    format!("{} {one}{}", number(of), if of == 1 { "" } else { "s" })
}

/// `is` or `are`.
pub(super) const fn is_or_are(of: u64) -> &'static str {
    if of == 1 { "is" } else { "are" }
}

/// A moment before now: `12.3 s ago`.
pub(super) fn ago(now_ms: u64, at_ms: u64) -> String {
    format!("{} ago", duration(now_ms.saturating_sub(at_ms) as f64))
}

/// A moment after now: `in 12.3 s`; `now`, where it has come.
pub(super) fn hence(now_ms: u64, at_ms: u64) -> String {
    if at_ms <= now_ms { "now".to_owned() } else { format!("in {}", duration((at_ms - now_ms) as f64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units_and_few_digits() {
        let durations = [0.0, 999.4, 12_345.0, 119_949.0, 120_000.0, 18_600_000.0, 260_000_000.0].map(duration);
        assert_eq!(durations, ["0 ms", "999 ms", "12.3 s", "119.9 s", "2 min", "5 h 10 min", "3 days"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((count(1, "slot"), count(2_000, "slot")), ("1 slot".to_owned(), "2,000 slots".to_owned()));
        assert_eq!((ago(5_000, 3_000), hence(5_000, 3_000), hence(3_000, 5_000)), ("2.0 s ago".into(), "now".into(), "in 2.0 s".into()));
    }
}
