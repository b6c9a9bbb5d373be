//! `predict`: submit the kind `predict` and wait for its result, in one call.

mod stream;

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use producer::NewTask;
use protocol::{
    Choice, ErrorCode, GpuId, GpuOptions, Json as JsonText, Kind, Outcome, Refusal, Reply, TaskBody, TaskError, TaskId,
    predict::{MAX_LENGTH_MIN, TEMPERATURE_MAX, TEMPERATURE_MIN},
    reply::Timings,
    task::object,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    Gateway, Problem, encoding::traceparent, events, explain, idempotency::Identity, intake::JsonBody, problem::ProblemKind, trail::Trail,
    unserved::Served,
};

/// A text to continue.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PredictRequest {
    /// The text.
    #[schemars(length(min = 1))]
    text: String,
    /// Most tokens to generate. Default and largest value: the workers' (`predict.max_length`, `predict.max_length_max`).
    #[serde(default)]
    #[schemars(range(min = MAX_LENGTH_MIN, max = u32::MAX))]
    max_length: Option<u32>,
    /// 0 takes the likeliest token every time, up to 2 the more random. Default: 0.
    #[serde(default)]
    #[schemars(range(min = TEMPERATURE_MIN, max = TEMPERATURE_MAX))]
    temperature: Option<f64>,
    /// The same seed gives the same text. Default: 0.
    #[serde(default)]
    seed: Option<u64>,
    /// Whether the answer is a stream of server-sent events: the text as it grows, then the whole. A client that goes away before cancels the task, unless it has given an
    /// Idempotency-Key, with which it may come again. Default: false.
    #[serde(default)]
    stream: bool,
    /// How a GPU is chosen.
    #[serde(default, deserialize_with = "object")]
    gpu_options: GpuOptions,
}

impl PredictRequest {
    /// Checks the bounds that the types do not, so that nothing is submitted that every worker refuses.
    fn check(&self) -> Result<(), Refusal> {
        let wrong = |field: &str, value: String| {
            let allowed = explain::allowed::<Self>(field).unwrap_or_default();
            Err(Refusal::new(field, format!("must be {allowed}, not {value}")))
        };
        match self {
            Self { text, .. } if text.is_empty() => wrong("text", "\"\"".to_owned()),
            Self { max_length: Some(tokens), .. } if *tokens < MAX_LENGTH_MIN => wrong("max_length", tokens.to_string()),
            Self { temperature: Some(heat), .. } if !(TEMPERATURE_MIN..=TEMPERATURE_MAX).contains(heat) => {
                wrong("temperature", heat.to_string())
            }
            _ => Ok(()),
        }
    }
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
    /// Reads a result; says what is wrong with one that is no prediction.
    fn read(result: &JsonText) -> Result<Self, String> {
        let mut more = result.fields().map_err(|error| error.to_string())?;
        let text = more.remove("text").ok_or("missing field `text`")?.to().map_err(|error| error.to_string())?;
        more.retain(|name, _| !OURS.contains(&name.as_str()));
        Ok(Self { text, more })
    }
}

/// What stands in the answer beside the executor's result. A result's own fields of these names give way.
const OURS: [&str; 5] = ["task_id", "gpu_id", "strategy", "attempt", "timings"];

/// `POST /api/v1/predict`.
pub(crate) async fn predict(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    JsonBody(request, share): JsonBody<PredictRequest>,
) -> Result<Response, Problem> {
    request.check()?;
    let (stream, traceparent) = (request.stream, traceparent(&headers));
    let trail = Trail::of(traceparent.as_deref());
    let identity = Identity::read(&headers, None)?;
    let new = NewTask { progress: stream, task_id: identity.task_id.clone(), traceparent, ..new_task(request) };
    let served = gateway.must_be_served(&new.kind, &new.body.gpu_options, share).await.map_err(|problem| trail.failed(problem))?;
    let Served { waited, share } = served;
    // One limit for both waits.
    let submitted = gateway.ports.producer.pending(new, gateway.options.predict_timeout.saturating_sub(waited)).await;
    let pending = submitted.map_err(|error| trail.failed(identity.not_answered(&gateway, &error)))?;
    trail.submitted(pending.task_id());
    // The broker has the body now. Kept up to the result, the share could be the one that the task's worker waits for in this very process.
    drop(share);
    gateway.accepted();
    if stream {
        return Ok(events::answer(stream::Prediction::new(gateway, pending, (&identity, trail))));
    }
    let reply = pending.await.map_err(|error| trail.failed(gateway.not_answered(&error)))?;
    let response = answer(reply).map_err(|problem| trail.failed(problem))?;
    trail.answered(&response.task_id);
    Ok(Json(response).into_response())
}

/// The payload of the kind `predict`.
#[derive(Serialize)]
struct PredictPayload {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

fn new_task(request: PredictRequest) -> NewTask {
    let PredictRequest { text, max_length, temperature, seed, gpu_options, stream: _ } = request;
    let payload = JsonText::of(&PredictPayload { text, max_length, temperature, seed });
    let kind = Kind::new("predict").expect("lower-case letters keep the rule");
    NewTask::new(kind, TaskBody { payload, gpu_options, ..TaskBody::default() })
}

fn answer(reply: Reply) -> Result<PredictResponse, Problem> {
    let Reply { task_id, outcome, result, error, gpu_id, attempt, strategy, timings, .. } = reply;
    // A reply whose result is no longer kept has an error beside its good outcome.
    if outcome != Outcome::Succeeded || error.is_some() {
        return Err(unsuccessful(outcome, error).task(&task_id));
    }
    let result = Prediction::read(&result).map_err(|error| {
        warn!(%task_id, error, "a result of predict is no prediction");
        let detail = "its result is no prediction: that is an object with the field text";
        Problem::new(ProblemKind::TaskFailed, detail).task(&task_id)
    })?;
    Ok(PredictResponse { task_id, gpu_id, strategy, attempt, timings, result })
}

/// How a task that did not succeed looks over HTTP.
fn unsuccessful(outcome: Outcome, error: Option<TaskError>) -> Problem {
    let error = error.unwrap_or_else(|| TaskError::new(outcome.name(), format!("the task {}", outcome.name())));
    let kind = match (outcome, ErrorCode::named(&error.code)) {
        (Outcome::Cancelled, _) => ProblemKind::TaskCancelled,
        (Outcome::Expired, _) => ProblemKind::TaskExpired,
        (_, Some(ErrorCode::InvalidPayload | ErrorCode::InvalidTask | ErrorCode::UnknownGpu)) => ProblemKind::TaskRefused,
        (_, Some(ErrorCode::AttemptTimeout | ErrorCode::Deadline)) => ProblemKind::TaskTimeout,
        (_, Some(ErrorCode::Unserved)) => ProblemKind::NoGpu,
        _ => ProblemKind::TaskFailed,
    };
    let problem = Problem::new(kind, error.message).code(error.code);
    match error.field {
        // The request's fields are the payload's.
        Some(field) => problem.field(field.strip_prefix("payload.").unwrap_or(&field)),
        None => problem,
    }
}
