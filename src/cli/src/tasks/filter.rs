//! A filter in words, for questions and for the action log.

use protocol::insight::TaskFilter;

use crate::words::span;

/// What passes it: `state waiting or running, kind embed, older than 10m 00s`.
pub(super) fn in_words(filter: &TaskFilter) -> String {
    let TaskFilter { state, kind, priority, group, gpu_id, id_prefix, error, older_than_ms, newer_than_ms, dead, slices } = filter;
    let any = |name: &str, values: Vec<String>| (!values.is_empty()).then(|| format!("{name} {}", values.join(" or ")));
    let parts = [
        any("state", state.iter().map(|state| state.name().to_owned()).collect()),
        any("kind", kind.iter().map(ToString::to_string).collect()),
        any("priority", priority.iter().map(ToString::to_string).collect()),
        group.as_ref().map(|group| format!("group {group}")),
        gpu_id.as_ref().map(|gpu_id| format!("GPU {gpu_id}")),
        id_prefix.as_ref().map(|prefix| format!("id from {prefix:?}")),
        error.as_ref().map(|error| format!("error {error:?}")),
        older_than_ms.map(|ms| format!("older than {}", span(ms as f64))),
        newer_than_ms.map(|ms| format!("newer than {}", span(ms as f64))),
        dead.map(|dead| if dead { "among the dead letters".to_owned() } else { "not among the dead letters".to_owned() }),
        slices.then(|| "slices too".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "all tasks".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use protocol::TaskState;

    use super::*;

    #[test]
    fn a_filter_says_what_passes_it() {
        assert_eq!(in_words(&TaskFilter::default()), "all tasks");
        let filter = TaskFilter {
            state: vec![TaskState::Waiting, TaskState::Running],
            kind: vec!["embed".parse().unwrap()],
            error: Some("Xid\x1b".to_owned()),
            older_than_ms: Some(600_000),
            dead: Some(true),
            ..TaskFilter::default()
        };
        let expected = "state waiting or running, kind embed, error \"Xid\\u{1b}\", older than 10m 00s, among the dead letters";
        assert_eq!(in_words(&filter), expected);
    }
}
