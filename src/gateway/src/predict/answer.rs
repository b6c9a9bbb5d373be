//! What became of a prediction, or of a list of them, in the words of the request.

use std::collections::BTreeMap;

use protocol::{Choice, ErrorCode, GpuId, ItemCounts, ItemResult, Json as JsonText, Outcome, Reply, TaskError, TaskId, reply::Timings};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use tracing::warn;

use crate::{Problem, encoding::status_url, problem::ProblemKind};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One text.
    One,
    /// A list of texts.
    List,
}

/// The answer, in the form of the request.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Answer {
    One(PredictResponse),
    List(PredictListResponse),
}

/// The schema of the answer.
pub(crate) fn schema(schemas: &mut SchemaGenerator) -> Schema {
    let either = [schemas.subschema_for::<PredictResponse>(), schemas.subschema_for::<PredictListResponse>()];
    json_schema!({ "oneOf": either })
}

/// The text that follows, what else the model says, and who ran it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PredictResponse {
    /// The task, for its status.
    task_id: TaskId,
    /// The GPU that ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_id: Option<GpuId>,
    /// The strategy that chose the GPU, and a fallback if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<Choice>,
    /// The attempt that succeeded, from 1.
    attempt: u32,
    /// How long it took.
    timings: Timings,
    /// What the executor gave: `text`, and for example `tokens`, `finish_reason`, `model`.
    #[serde(flatten)]
    result: Prediction,
}

/// How each text of a list came out, in the order of the list, and who ran them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PredictListResponse {
    /// The task, for its status.
    task_id: TaskId,
    /// The GPUs that ran it, sorted; several where the list was split.
    gpu_ids: Vec<GpuId>,
    /// The strategy that chose the GPU, and a fallback if there was one. Absent where the list was split.
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<Choice>,
    /// The attempt that succeeded, from 1.
    attempt: u32,
    /// How long it took.
    timings: Timings,
    /// How many texts there were, and how many of them failed.
    items: ItemCounts,
    /// What follows each text, or why there is nothing.
    results: Vec<Predicted>,
}

/// How one text of a list came out.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Predicted {
    /// It was continued.
    Text(Prediction),
    /// It was not.
    Failed {
        /// Why. Its `field` names the text, `text[17]`, or what else of the request is at fault.
        error: TaskError,
    },
}

/// How one text of a list came out, as it is there.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PredictedItem<'a> {
    /// The text, counted from 0.
    pub(super) index: u32,
    /// How it came out.
    #[serde(flatten)]
    pub(super) predicted: &'a Predicted,
}

/// What the executor of `predict` gives.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Prediction {
    /// The text that follows, without the prompt.
    text: String,
    /// What else the executor says.
    #[serde(flatten)]
    more: BTreeMap<String, JsonText>,
}

impl Prediction {
    /// Reads a result, of which the fields give way that have names of `ours`; says what is wrong with one that is no prediction.
    fn read(result: &JsonText, ours: &[&str]) -> Result<Self, String> {
        let mut more = result.fields().map_err(|error| error.to_string())?;
        let text = more.remove("text").ok_or("missing field `text`")?.to().map_err(|error| error.to_string())?;
        more.retain(|name, _| !ours.contains(&name.as_str()));
        Ok(Self { text, more })
    }
}

/// What stands in the answer beside the executor's result.
const BESIDE_A_RESULT: [&str; 5] = ["task_id", "gpu_id", "strategy", "attempt", "timings"];
/// What stands beside it where it is one of many.
const BESIDE_AN_ITEM: [&str; 2] = ["index", "error"];
const NO_PREDICTION: &str = "its result is no prediction: that is an object with the field text";

impl Form {
    /// The answer that a reply makes.
    pub(super) fn answer(self, reply: Reply) -> Result<Answer, Problem> {
        // A reply whose result is no longer kept has an error beside its good outcome.
        if reply.outcome != Outcome::Succeeded || reply.error.is_some() {
            let task_id = reply.task_id;
            return Err(unsuccessful(reply.outcome, reply.error, &task_id).task(&task_id));
        }
        match self {
            Self::One => one(reply).map(Answer::One),
            Self::List => list(reply).map(Answer::List),
        }
    }
}

fn one(reply: Reply) -> Result<PredictResponse, Problem> {
    let Reply { task_id, result, gpu_id, attempt, strategy, timings, .. } = reply;
    let result = Prediction::read(&result, &BESIDE_A_RESULT).map_err(|error| {
        warn!(%task_id, error, "a result of predict is no prediction");
        Problem::new(ProblemKind::TaskFailed, NO_PREDICTION).task(&task_id)
    })?;
    Ok(PredictResponse { task_id, gpu_id, strategy, attempt, timings, result })
}

fn list(reply: Reply) -> Result<PredictListResponse, Problem> {
    let Reply { task_id, results, gpu_id, gpu_ids, attempt, strategy, timings, .. } = reply;
    let came_out: Vec<ItemResult> = results.to().map_err(|error| {
        warn!(%task_id, %error, "the results of a batch are no list of results");
        Problem::new(ProblemKind::TaskFailed, "its reply has no list of results, one for each text").task(&task_id)
    })?;
    let results: Vec<Predicted> = (0..).zip(&came_out).map(|(index, came_out)| Predicted::read(index, came_out)).collect();
    let of = u32::try_from(results.len()).unwrap_or(u32::MAX);
    let failed = results.iter().filter(|predicted| matches!(predicted, Predicted::Failed { .. })).count();
    let items = ItemCounts { of, done: of, failed: Some(u32::try_from(failed).unwrap_or(u32::MAX)) };
    let gpu_ids = if gpu_ids.is_empty() { gpu_id.into_iter().collect() } else { gpu_ids };
    Ok(PredictListResponse { task_id, gpu_ids, strategy, attempt, timings, items, results })
}

impl PredictListResponse {
    /// How one of its texts came out.
    pub(super) fn item(&self, index: u32) -> Option<PredictedItem<'_>> {
        let predicted = self.results.get(usize::try_from(index).ok()?)?;
        Some(PredictedItem { index, predicted })
    }
}

impl Predicted {
    /// How the text of this index came out.
    pub(super) fn read(index: u32, came_out: &ItemResult) -> Self {
        if let Some(error) = &came_out.error {
            let field = error.field.as_deref().map(in_the_request);
            return Self::Failed { error: TaskError { field, ..error.clone() } };
        }
        match Prediction::read(&came_out.result, &BESIDE_AN_ITEM) {
            Ok(prediction) => Self::Text(prediction),
            Err(error) => {
                warn!(index, error, "a result of predict is no prediction");
                Self::Failed { error: TaskError::new(ErrorCode::ExecutorFailed, NO_PREDICTION).at(format!("text[{index}]")) }
            }
        }
    }
}

/// How a task that did not succeed looks over HTTP.
fn unsuccessful(outcome: Outcome, error: Option<TaskError>, task_id: &TaskId) -> Problem {
    let error = error.unwrap_or_else(|| TaskError::new(outcome.name(), format!("the task {}", outcome.name())));
    let code = ErrorCode::named(&error.code);
    let kind = match (outcome, code) {
        (Outcome::Cancelled, _) => ProblemKind::TaskCancelled,
        (Outcome::Expired, _) => ProblemKind::TaskExpired,
        (_, Some(ErrorCode::InvalidPayload | ErrorCode::InvalidTask | ErrorCode::UnknownGpu)) => ProblemKind::TaskRefused,
        (_, Some(ErrorCode::AttemptTimeout | ErrorCode::Deadline)) => ProblemKind::TaskTimeout,
        (_, Some(ErrorCode::Unserved)) => ProblemKind::NoGpu,
        _ => ProblemKind::TaskFailed,
    };
    // With a field it was refused before anything ran.
    let detail = if code == Some(ErrorCode::ReplyTooLarge) && error.field.is_none() {
        format!("{}; GET {}/results gives those that are kept in pieces", error.message, status_url(task_id))
    } else {
        error.message
    };
    let problem = Problem::new(kind, detail).code(error.code);
    match error.field {
        Some(field) => problem.field(in_the_request(&field)),
        None => problem,
    }
}

/// The request's own name of a field of its task: `payload.seed` and `items[17].seed` are `seed`, `items[17].text` is `text[17]`.
fn in_the_request(field: &str) -> String {
    if field == "items" {
        return "text".to_owned();
    }
    let Some((index, rest)) = field.strip_prefix("items[").and_then(|rest| rest.split_once(']')) else {
        return field.strip_prefix("payload.").unwrap_or(field).to_owned();
    };
    match rest.strip_prefix(".text") {
        Some(within) if within.is_empty() || within.starts_with(['.', '[']) => format!("text[{index}]{within}"),
        _ => match rest.strip_prefix('.') {
            Some(beside) => beside.to_owned(),
            None => format!("text[{index}]{rest}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_task_has_the_name_that_the_request_gives_it() {
        for (field, named) in [
            ("payload.max_length", "max_length"),
            ("payload", "payload"),
            ("gpu_options.specific_gpu_id", "gpu_options.specific_gpu_id"),
            ("items", "text"),
            ("items[17]", "text[17]"),
            ("items[17].text", "text[17]"),
            ("items[17].text[3]", "text[17][3]"),
            ("items[17].texture", "texture"),
            ("items[17].max_length", "max_length"),
        ] {
            assert_eq!(in_the_request(field), named, "{field}");
        }
    }

    #[test]
    fn a_result_that_is_no_prediction_fails_alone_and_others_keep_their_bytes() {
        let came_out = |text: &'static str| ItemResult::succeeded(JsonText::parse(text).expect("JSON"));
        let texts = [came_out(r#"{"text":"b","score": 1.00,"index":7,"error":8}"#), came_out("5")].map(|came_out| {
            let predicted = Predicted::read(3, &came_out);
            serde_json::to_string(&PredictedItem { index: 3, predicted: &predicted }).expect("JSON")
        });
        assert_eq!(texts[0], r#"{"index":3,"text":"b","score":1.00}"#);
        assert_eq!(
            texts[1],
            format!(r#"{{"index":3,"error":{{"code":"executor_failed","message":"{NO_PREDICTION}","field":"text[3]"}}}}"#)
        );
    }
}
