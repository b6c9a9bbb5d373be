//! `POST /api/v1/tasks:wait`: the replies of many tasks as server-sent events, as the tasks end.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use protocol::{Outcome, Refusal, TaskId};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::waiting::Waiting;
use crate::{Gateway, Problem, explain, given::GivenId, intake::JsonBody, problem::ProblemKind};

/// Most tasks of one request.
const IDS_MAX: usize = 10_000;
/// The longest wait, and that of a request that names none, in milliseconds: an hour.
const TIMEOUT_MS_MAX: u64 = 3_600_000;
/// Tasks that all requests together may wait for.
const WAITED_FOR_MAX: usize = 200_000;
/// Questions to the store that all of them have under way at once.
const LOOKS_MAX: usize = 128;
/// A request may end at any moment.
const RETRY_S: u64 = 1;

/// Tasks whose replies are waited for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitRequest {
    /// Their ids, 1 to 10,000. One that is there twice counts once.
    #[serde(deserialize_with = "ids")]
    #[schemars(with = "Vec<GivenId>", length(min = 1, max = IDS_MAX), example = ["order-17", "order-18"])]
    task_ids: Vec<TaskId>,
    /// How long to wait, in milliseconds, at most an hour. What has not ended by then goes on. Default: an hour.
    #[serde(default)]
    #[schemars(range(min = 1, max = TIMEOUT_MS_MAX))]
    timeout_ms: Option<u64>,
}

impl WaitRequest {
    /// Checks the bounds that the types do not.
    fn check(&self) -> Result<(), Refusal> {
        if self.task_ids.is_empty() {
            return Err(Refusal::new("task_ids", format!("must be a list of 1 to {IDS_MAX} ids, not an empty one")));
        }
        match self.timeout_ms {
            Some(ms) if !(1..=TIMEOUT_MS_MAX).contains(&ms) => {
                let allowed = explain::allowed::<Self>("timeout_ms").unwrap_or_default();
                Err(Refusal::new("timeout_ms", format!("must be {allowed}, not {ms}")))
            }
            _ => Ok(()),
        }
    }
}

/// Reads a list of ids that is not too long. No more of it is kept than that, however long it is.
fn ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TaskId>, D::Error> {
    struct Ids;

    impl<'de> Visitor<'de> for Ids {
        type Value = Vec<TaskId>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "a list of 1 to {IDS_MAX} ids")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<TaskId>, A::Error> {
            let mut ids = Vec::new();
            while let Some(GivenId(id)) = list.next_element()? {
                if ids.len() == IDS_MAX {
                    return Err(A::Error::custom(format_args!(
                        "must be a list of 1 to {IDS_MAX} ids, and has more: wait for them in turn"
                    )));
                }
                ids.push(id);
            }
            Ok(ids)
        }
    }

    deserializer.deserialize_seq(Ids)
}

/// How many of the tasks ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Tally {
    /// Those whose reply says so.
    succeeded: u64,
    /// Those whose reply says so.
    failed: u64,
    /// Those whose reply says so.
    cancelled: u64,
    /// Those whose reply says so.
    expired: u64,
    /// Those that ended, and whose reply is no longer kept.
    not_kept: u64,
    /// Those that nobody knows.
    unknown: u64,
}

impl Tally {
    pub(super) fn replied(&mut self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Succeeded => &mut self.succeeded,
            Outcome::Failed => &mut self.failed,
            Outcome::Cancelled => &mut self.cancelled,
            Outcome::Expired => &mut self.expired,
        };
        *count += 1;
    }

    pub(super) fn not_kept(&mut self) {
        self.not_kept += 1;
    }

    pub(super) fn unknown(&mut self) {
        self.unknown += 1;
    }
}

/// The time is over.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TimeOver {
    /// How many tasks have not ended. They go on; ask again for those that no event told of.
    pub(super) left: u64,
    /// The others.
    pub(super) ended: Tally,
}

/// What the requests that wait may do together.
pub(crate) struct Waits {
    /// One permit for each task that is waited for.
    ids: Arc<Semaphore>,
    /// One permit for each question to the store.
    pub(super) looks: Semaphore,
}

impl Default for Waits {
    fn default() -> Self {
        Self { ids: Arc::new(Semaphore::new(WAITED_FOR_MAX)), looks: Semaphore::new(LOOKS_MAX) }
    }
}

impl Waits {
    fn admitted(&self, ids: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let many = u32::try_from(ids).unwrap_or(u32::MAX);
        Arc::clone(&self.ids).try_acquire_many_owned(many).map_err(|_| {
            let left = self.ids.available_permits();
            let detail = format!(
                "{WAITED_FOR_MAX} tasks may be waited for at once, and there is room for {left} more: name fewer, or come back later"
            );
            Problem::new(ProblemKind::Overloaded, detail).retry_after(RETRY_S)
        })
    }
}

/// `POST /api/v1/tasks:wait`.
pub(crate) async fn wait(State(gateway): State<Gateway>, JsonBody(request, share): JsonBody<WaitRequest>) -> Result<Response, Problem> {
    request.check()?;
    let limit = Duration::from_millis(request.timeout_ms.unwrap_or(TIMEOUT_MS_MAX));
    let task_ids = each_once(request.task_ids);
    // The ids have a bound of their own.
    drop(share);
    let permits = (super::admitted(&gateway)?, gateway.waits.admitted(task_ids.len())?);
    // A store that is away is told of at once, not by a stream without events.
    if let Some(first) = task_ids.first() {
        gateway.ports.producer.status(first).await.map_err(|error| gateway.store_failed(&error))?;
    }
    Ok(super::answer(Waiting::new(gateway, task_ids, limit, permits)))
}

/// The same, in the same order, without those that were there before.
fn each_once(mut task_ids: Vec<TaskId>) -> Vec<TaskId> {
    let mut seen = BTreeSet::new();
    task_ids.retain(|task_id| seen.insert(task_id.clone()));
    task_ids
}

#[cfg(test)]
mod tests {
    use protocol::read_object;
    use serde_json::json;

    use super::*;

    fn read(value: &serde_json::Value) -> Result<WaitRequest, String> {
        let text = value.to_string();
        let unfit = |unfit| explain::refusal::<WaitRequest>(unfit, &axum::body::Bytes::copy_from_slice(text.as_bytes())).to_string();
        let request = read_object::<WaitRequest>(text.as_bytes()).map_err(unfit)?;
        request.check().map(|()| request).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_list_has_its_bounds_and_its_ids_are_checked() {
        let ids = |count: usize| (0..count).map(|number| format!("t{number}")).collect::<Vec<_>>();
        assert_eq!(read(&json!({"task_ids": ids(IDS_MAX)})).map(|request| request.task_ids.len()), Ok(IDS_MAX));
        for (value, words) in [
            (json!({"task_ids": []}), "task_ids: must be a list of 1 to 10000 ids, not an empty one"),
            (json!({"task_ids": ids(IDS_MAX + 1)}), "must be a list of 1 to 10000 ids, and has more: wait for them in turn"),
            (json!({"task_ids": "t"}), "task_ids: must be a list of 1 to 10000 entries, not \"t\""),
            (json!({"task_ids": ["a b"]}), "must be 1 to 128 visible ASCII characters other than braces"),
            (json!({"task_ids": ["t{0..4}"]}), "task_ids[0]: must be 1 to 128 visible ASCII characters other than braces, not \"t{0..4}\""),
            (json!({"task_ids": ["t"], "timeout_ms": 0}), "timeout_ms: must be a whole number from 1 to 3600000, not 0"),
            (json!({"task_ids": ["t"], "timeout_ms": 3_600_001}), "timeout_ms: must be a whole number from 1 to 3600000, not 3600001"),
            (json!({}), "task_ids: is missing; it must be a list of 1 to 10000 entries"),
        ] {
            let problem = read(&value).expect_err(words);
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn an_id_that_is_there_twice_counts_once_and_keeps_its_first_place() {
        let id = |text: &str| TaskId::new(text).expect("valid");
        assert_eq!(each_once(["b", "a", "b", "c", "a"].map(id).into()), ["b", "a", "c"].map(id));
    }
}
