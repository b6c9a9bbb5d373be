//! Steps, points and actions as text, a JSON object each: what both back ends keep of them.

use protocol::{HistoryPoint, OperatorAction, TaskStep};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// What a step is nothing without: where one of these is not understood, the whole step is passed over.
const NEEDED: [&str; 3] = ["at_ms", "task_id", "pool"];

/// A step, a point or an action as one line.
pub fn line_of(told: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(told).expect("its keys are texts, so it is JSON")
}

/// The step of a line; `None` if it is not one. Of a newer version's step what this one knows.
pub fn step_of(line: &[u8]) -> Option<TaskStep> {
    let step: Option<TaskStep> = read(line).or_else(|| known_part(line));
    step.filter(|step| step.task_id.is_some())
}

/// The point of a line; `None` if it is not one.
pub fn point_of(line: &[u8]) -> Option<HistoryPoint> {
    read(line)
}

/// The action of a line; `None` if it is not one.
pub fn action_of(line: &[u8]) -> Option<OperatorAction> {
    read(line)
}

fn read<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    serde_json::from_slice(line).ok()
}

/// The step without those of its fields that say what this version has no word for: a strategy that is not known here, for example.
fn known_part(line: &[u8]) -> Option<TaskStep> {
    let fields: Map<String, Value> = read(line)?;
    let mut known = fields.clone();
    known.retain(|name, value| {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        serde_json::from_value::<TaskStep>(Value::Object(alone)).is_ok()
    });
    if NEEDED.iter().any(|name| fields.contains_key(*name) && !known.contains_key(*name)) {
        return None;
    }
    serde_json::from_value(Value::Object(known)).ok()
}

#[cfg(test)]
mod tests {
    use protocol::{PoolName, StepName, TaskId};

    use super::*;

    #[test]
    fn a_step_survives_as_a_line() {
        let step = TaskStep { attempt: Some(2), ..TaskStep::new(StepName::Began, TaskId::new("a").unwrap(), PoolName::default(), 5) };
        let line = line_of(&step);
        assert!(!line.contains(&b'\n'));
        assert_eq!(step_of(&line), Some(step));
    }

    #[test]
    fn of_a_newer_versions_step_the_rest_is_read() {
        let line = br#"{"at_ms":5,"task_id":"a","step":"teleported","strategy":"by_the_stars","outcome":"enlightened","attempt":2,"colour":{"red":1}}"#;
        let step = step_of(line).expect("a step");
        assert_eq!((step.at_ms, step.step, step.strategy, step.outcome, step.attempt), (5, StepName::Other, None, None, Some(2)));
    }

    #[test]
    fn what_is_no_step_of_a_task_is_none() {
        for line in
            [&b""[..], b"no", b"[]", b"{}", b"\xff\xfe", br#"{"at_ms":5,"task_id":"","step":"began"}"#, br#"{"at_ms":-1,"task_id":"a"}"#]
        {
            assert_eq!(step_of(line), None, "{}", String::from_utf8_lossy(line));
        }
    }
}
