//! Which tasks a request means: a filter out of its query, and in words.

use protocol::{GpuId, GroupName, InvalidId, Kind, TaskState, envelope::PRIORITY_MAX, insight::TaskFilter};
use serde_json::Value;

use crate::{Problem, problem::ProblemKind, query};

/// What a query may have: the lists state, kind and priority by repeating them, the others once.
pub(crate) const NAMES: [&str; 13] = [
    "state",
    "kind",
    "priority",
    "group",
    "gpu_id",
    "id_prefix",
    "error",
    "older_than_ms",
    "newer_than_ms",
    "dead",
    "slices",
    "after",
    "limit",
];

/// How many tasks are listed where a request does not say.
const LISTED: usize = 100;
/// How many are at most.
pub(crate) const LISTED_MAX: usize = 1_000;

/// What a list is to have.
#[derive(Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) filter: TaskFilter,
    /// The `next` of the page before.
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
}

/// Reads what a list is to have out of the pairs of a query.
pub(crate) fn read(pairs: Vec<(String, String)>) -> Result<Wanted, Problem> {
    let mut wanted = Wanted { filter: TaskFilter::default(), after: None, limit: LISTED };
    let mut seen: Vec<&'static str> = Vec::new();
    for (name, value) in pairs {
        let Some(name) = NAMES.into_iter().find(|known| *known == name) else { return Err(unknown(&name)) };
        let is_list = matches!(name, "state" | "kind" | "priority");
        if !is_list && seen.contains(&name) {
            let detail = format!("{name}: is there twice; only state, kind and priority may be repeated");
            return Err(Problem::new(ProblemKind::InvalidParameter, detail).field(name));
        }
        seen.push(name);
        take(&mut wanted, name, value)?;
    }
    Ok(wanted)
}

fn take(wanted: &mut Wanted, name: &'static str, value: String) -> Result<(), Problem> {
    let filter = &mut wanted.filter;
    match name {
        "state" => filter.state.push(state(&value)?),
        "kind" => filter.kind.push(identifier(name, &value, Kind::new)?),
        "priority" => filter.priority.push(priority(&value)?),
        "group" => filter.group = Some(identifier(name, &value, GroupName::new)?),
        "gpu_id" => filter.gpu_id = Some(identifier(name, &value, GpuId::new)?),
        "id_prefix" => filter.id_prefix = Some(value),
        "error" => filter.error = Some(value),
        "older_than_ms" => filter.older_than_ms = Some(milliseconds(name, &value)?),
        "newer_than_ms" => filter.newer_than_ms = Some(milliseconds(name, &value)?),
        "dead" => filter.dead = Some(yes_or_no(name, &value)?),
        "slices" => filter.slices = yes_or_no(name, &value)?,
        "after" => wanted.after = Some(value),
        _ => wanted.limit = query::whole_number("limit", &value, 1..=LISTED_MAX)?,
    }
    Ok(())
}

fn unknown(name: &str) -> Problem {
    let detail = format!("{:?} is no parameter of this list; there are {}", query::shortened(name), NAMES.join(", "));
    Problem::new(ProblemKind::InvalidParameter, detail).field("query")
}

fn state(value: &str) -> Result<TaskState, Problem> {
    TaskState::ALL.into_iter().find(|state| state.name() == value).ok_or_else(|| {
        let names = TaskState::ALL.map(TaskState::name).join(", ");
        query::not_allowed("state", &format!("one of {names}"), value)
    })
}

fn priority(value: &str) -> Result<u8, Problem> {
    let read = value.parse::<u8>().ok().filter(|priority| *priority <= PRIORITY_MAX);
    read.ok_or_else(|| query::not_allowed("priority", &format!("a whole number from 0 to {PRIORITY_MAX}"), value))
}

fn identifier<T>(name: &'static str, value: &str, read: fn(String) -> Result<T, InvalidId>) -> Result<T, Problem> {
    read(value.to_owned()).map_err(|error| {
        let detail = format!("{name}: must be {}, not {:?}", error.rule, error.value);
        Problem::new(ProblemKind::InvalidParameter, detail).field(name)
    })
}

fn milliseconds(name: &'static str, value: &str) -> Result<u64, Problem> {
    value.parse().map_err(|_| query::not_allowed(name, "a whole number of milliseconds", value))
}

/// A parameter that is true or false.
pub(crate) fn yes_or_no(name: &'static str, value: &str) -> Result<bool, Problem> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(query::not_allowed(name, "true or false", other)),
    }
}

/// A filter in words, for the action log.
pub(crate) fn in_words(filter: &TaskFilter) -> String {
    let Ok(Value::Object(fields)) = serde_json::to_value(filter) else { return String::new() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let words: Vec<String> = fields
        .iter()
        .map(|(name, value)| match value {
            Value::Array(values) => format!("{name} {}", values.iter().map(text).collect::<Vec<_>>().join(" or ")),
            other => format!("{name} {}", text(other)),
        })
        .collect();
    if words.is_empty() { "all tasks".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(pairs: &[(&str, &str)]) -> Result<Wanted, Problem> {
        read(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn lists_repeat_their_name_and_all_the_rest_is_there_once() {
        let pairs = [
            ("state", "waiting"),
            ("state", "running"),
            ("kind", "echo"),
            ("priority", "9"),
            ("gpu_id", "g-1"),
            ("error", "out of memory"),
            ("older_than_ms", "60000"),
            ("dead", "true"),
            ("after", "x"),
            ("limit", "7"),
        ];
        let wanted = read_all(&pairs).expect("a filter");
        assert_eq!(wanted.filter.state, [TaskState::Waiting, TaskState::Running]);
        assert_eq!(
            (wanted.filter.priority.as_slice(), wanted.filter.dead, wanted.filter.older_than_ms),
            (&[9][..], Some(true), Some(60_000))
        );
        assert_eq!((wanted.after.as_deref(), wanted.limit), (Some("x"), 7));
        assert_eq!(
            in_words(&wanted.filter),
            "dead true, error out of memory, gpu_id g-1, kind echo, older_than_ms 60000, priority 9, state waiting or running"
        );
        assert_eq!(in_words(&TaskFilter::default()), "all tasks");
    }

    #[test]
    fn a_refusal_names_the_parameter_and_what_it_may_be() {
        for (name, value, field, words) in [
            ("state", "foo", "state", "delayed, waiting, running, retrying, succeeded, failed, cancelled, expired"),
            ("kind", "Echo", "kind", "lower-case"),
            ("priority", "10", "priority", "0 to 9"),
            ("group", "", "group", "must be"),
            ("older_than_ms", "-1", "older_than_ms", "milliseconds"),
            ("dead", "yes", "dead", "true or false"),
            ("limit", "1001", "limit", "1 to 1000"),
            ("colour", "red", "query", "older_than_ms"),
        ] {
            let problem = read_all(&[(name, value)]).expect_err(name);
            let document = problem.document();
            assert_eq!((document.status, document.field.as_deref()), (400, Some(field)), "{name}");
            assert!(document.detail.contains(words), "{name}: {}", document.detail);
        }
        assert!(read_all(&[("limit", "1"), ("limit", "2")]).is_err());
    }
}
