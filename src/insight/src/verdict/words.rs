//! Figures as people say them.

use protocol::insight::Evidence;

/// A figure without a limit.
pub(super) fn measured(what: &str, value: f64, unit: &str) -> Evidence {
    Evidence { what: what.to_owned(), value: rounded(value), unit: unit.to_owned(), limit: None }
}

/// A figure, and the limit that makes it evidence.
pub(super) fn limited(what: &str, value: f64, unit: &str, limit: f64) -> Evidence {
    Evidence { limit: Some(rounded(limit)), ..measured(what, value, unit) }
}

/// To two decimals.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The part of a whole, in %; 0 of nothing.
pub(super) fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole * 100.0 } else { 0.0 }
}

/// A duration with the unit that suits it.
pub(super) fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 10_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms if ms < 120_000.0 => format!("{:.0} s", ms / 1_000.0),
        ms if ms < 7_200_000.0 => format!("{:.0} min", ms / 60_000.0),
        ms => format!("{:.1} h", ms / 3_600_000.0),
    }
}

/// How many of something.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// The verb of how many, in the third person.
pub(super) const fn verb<'a>(number: u64, one: &'a str, many: &'a str) -> &'a str {
    if number == 1 { one } else { many }
}

/// Some names, and how many more there are.
pub(super) fn names(all: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}

/// The first line of a text that others wrote, cut to what a sentence has room for.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 100;
    let line = text.lines().next().unwrap_or("").trim();
    let cut = line.floor_char_boundary(LONGEST);
    if cut < line.len() { format!("{}…", &line[..cut]) } else { line.to_owned() }
}
