//! `predict`: submit the kind `predict` and wait for its result, in one call. A list of texts is one task too: a batch.

pub(crate) mod answer;
mod stream;
mod texts;

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use producer::NewTask;
use protocol::{
    GpuOptions, Json as JsonText, Kind, OnError, Refusal, TaskBody, carried,
    predict::{MAX_LENGTH_MIN, TEMPERATURE_MAX, TEMPERATURE_MIN},
    task::object,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{answer::Form, texts::Texts};
use crate::{
    Gateway, Problem,
    encoding::{RequestTrace, request_trace},
    events, explain,
    idempotency::Identity,
    intake::JsonBody,
    trail::Trail,
    unserved::Served,
};

/// A text to continue, or many.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PredictRequest {
    /// The text, or a list of texts. A list is one task, a batch, which may be split over several GPUs (`gpu_options.batch_split`): the answer has a result for each text, in
    /// this order, and what else is asked for holds for each. The whole list must be done within the time that a prediction is waited for (`gateway.predict_timeout_ms`); submit
    /// what takes longer as a task with `items`.
    text: Texts,
    /// With a list of texts, and not with one text: what becomes of the list if a text fails. Default: `report`, the others go on and the answer says of each how it ended.
    #[serde(default, deserialize_with = "carried::given_on_error")]
    on_error: Option<OnError>,
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
    /// Whether the answer is a stream of server-sent events: the text as it grows, of a list the result of each text as it is there, then the whole. A client that goes away
    /// before cancels the task, unless it has given an Idempotency-Key, with which it may come again. Default: false.
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
        if let Some((field, found)) = self.text.out_of_bounds() {
            return wrong(&field, found);
        }
        match self {
            Self { text: Texts::One(_), on_error: Some(_), .. } => Err(Refusal::new(
                "on_error",
                "says what becomes of a list of texts, and text is one alone; leave it out, or make text a list",
            )),
            Self { max_length: Some(tokens), .. } if *tokens < MAX_LENGTH_MIN => wrong("max_length", tokens.to_string()),
            Self { temperature: Some(heat), .. } if !(TEMPERATURE_MIN..=TEMPERATURE_MAX).contains(heat) => {
                wrong("temperature", heat.to_string())
            }
            _ => Ok(()),
        }
    }

    const fn form(&self) -> Form {
        match self.text {
            Texts::One(_) => Form::One,
            Texts::List(_) => Form::List,
        }
    }
}

/// `POST /api/v1/predict`.
pub(crate) async fn predict(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    JsonBody(request, share): JsonBody<PredictRequest>,
) -> Result<Response, Problem> {
    request.check()?;
    let (stream, form) = (request.stream, request.form());
    let RequestTrace { traceparent, tracestate } = request_trace(&headers);
    let trail = Trail::of(traceparent.as_deref());
    let identity = Identity::read(&headers, None)?;
    let new = NewTask { progress: stream, task_id: identity.task_id.clone(), traceparent, tracestate, ..new_task(request) };
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
        return Ok(events::answer(stream::Prediction::new(gateway, (pending, form), (&identity, trail))));
    }
    let reply = pending.await.map_err(|error| trail.failed(gateway.not_answered(&error)))?;
    let task_id = reply.task_id.clone();
    let answered = form.answer(reply).map_err(|problem| trail.failed(problem))?;
    trail.answered(&task_id);
    Ok(Json(answered).into_response())
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
    let PredictRequest { text, on_error, max_length, temperature, seed, gpu_options, stream: _ } = request;
    let payload = |text| JsonText::of(&PredictPayload { text, max_length, temperature, seed });
    let body = match text {
        Texts::One(text) => TaskBody { payload: payload(text), ..TaskBody::default() },
        Texts::List(texts) => {
            let items = Some(texts.into_iter().map(payload).collect());
            TaskBody { items, on_error: on_error.unwrap_or_default(), ..TaskBody::default() }
        }
    };
    let kind = Kind::new("predict").expect("lower-case letters keep the rule");
    NewTask::new(kind, TaskBody { gpu_options, ..body })
}
