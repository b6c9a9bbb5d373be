//! What a request says after the question mark, and what is wrong with it.

use std::ops::RangeInclusive;

use axum::extract::rejection::QueryRejection;

use crate::{Problem, problem::ProblemKind};

/// A query that is not of these parameters, each once. The field at fault is the only one that there may be, and otherwise the whole.
pub(crate) fn unread(known: &[&'static str], rejection: &QueryRejection) -> Problem {
    let detail = format!("the query may have {} and nothing else, each once: {}", known.join(", "), rejection.body_text());
    let field = if let [only] = known { *only } else { "query" };
    Problem::new(ProblemKind::InvalidParameter, detail).field(field)
}

/// A parameter that is not what it must be.
pub(crate) fn not_allowed(name: &'static str, allowed: &str, given: &str) -> Problem {
    let detail = format!("{name}: must be {allowed}, not {:?}", shortened(given));
    Problem::new(ProblemKind::InvalidParameter, detail).field(name)
}

/// A parameter that is a whole number within bounds.
pub(crate) fn whole_number(name: &'static str, given: &str, bounds: RangeInclusive<usize>) -> Result<usize, Problem> {
    let (least, most) = bounds.into_inner();
    let number = given.parse::<usize>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| not_allowed(name, &format!("a whole number from {least} to {most}"), given))
}

/// What a client wrote, for people.
pub(crate) fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 64;
    text.chars().take(CHARACTERS_MAX).collect()
}
