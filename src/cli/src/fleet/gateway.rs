//! A fleet behind a gateway: what the gateway serves, in the words of the ports.

use std::time::Duration;

use gateway::{ProblemDocument, status_url};
use hyper::{Method, StatusCode, body::Bytes};
use producer::{NewTask, Pace, Patience};
use protocol::{
    GpuOptions, GroupName, ItemResults, Json, KeepAs, Kind, KindView, Limits, Needs, OnError, OnMissing, Outcome, PoolName, Progress,
    Reply, TaskId, TaskStatus, Unserved, batch::ITEMS_MAX, frame, gpu::GpuView,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use task_store::{Cancel, Reach};
use tokio::time::{Instant, sleep};

use super::{
    NoReply, Pool,
    http::{Answer, Client, Question},
    url::GatewayUrl,
};
use crate::{fault::Fault, status};

/// The pause between two looks at a task that is waited for: the first, and the longest.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// What a question for a status accepts.
const WITH_SEGMENTS: &str = "application/x-gpufleet-frame, application/json";

/// A gateway, as its client sees it.
pub(crate) struct Gateway {
    client: Client,
}

/// `POST /api/v1/tasks`.
#[derive(Serialize)]
struct TaskRequest<'a> {
    kind: &'a Kind,
    priority: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    task_id: &'a TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<&'a [Json]>,
    #[serde(skip_serializing_if = "OnError::is_default")]
    on_error: OnError,
    gpu_options: &'a GpuOptions,
    needs: &'a Needs,
    limits: &'a Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_as: Option<&'a KeepAs>,
    #[serde(skip_serializing_if = "OnMissing::is_default")]
    on_missing: OnMissing,
    progress: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a GroupName>,
}

/// `GET /api/v1/gpus`.
#[derive(Deserialize)]
struct GpuList {
    pool: PoolName,
    gpus: Vec<GpuView>,
}

/// `GET /api/v1/unserved`.
#[derive(Deserialize)]
struct UnservedList {
    pool: PoolName,
    unserved: Vec<Unserved>,
}

/// `GET /api/v1/kinds`.
#[derive(Deserialize)]
struct KindList {
    pool: PoolName,
    kinds: Vec<KindView>,
}

/// What of the answer to `POST /api/v1/tasks` is not known before.
#[derive(Deserialize)]
struct Accepted {
    #[serde(default)]
    warnings: Vec<String>,
}

/// `DELETE /api/v1/tasks/{task_id}`.
#[derive(Deserialize)]
struct TaskCancelling {
    was: String,
    #[serde(default)]
    gpu_id: Option<protocol::GpuId>,
}

/// The part of `/openapi.json` that tells the gateway's version.
#[derive(Deserialize)]
struct Described {
    info: Info,
}

#[derive(Deserialize)]
struct Info {
    version: String,
}

impl Gateway {
    pub(crate) fn new(url: GatewayUrl) -> Self {
        Self { client: Client::new(url) }
    }

    pub(crate) const fn url(&self) -> &GatewayUrl {
        self.client.url()
    }

    pub(super) async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, Fault> {
        // With the raw bytes of its result, where it has some.
        let question = Question { accept: Some(WITH_SEGMENTS), ..Question::new(Method::GET, status_url(task_id)) };
        let answer = self.ask(&question).await?;
        match self.read_by(&question, &answer, TaskStatus::read) {
            Err(Fault::NotFound(_)) => Ok(None),
            status => status.map(Some),
        }
    }

    pub(super) async fn results(&self, task_id: &TaskId, from: u32) -> Result<ItemResults, Fault> {
        self.get(&format!("{}/results?from={from}&limit={ITEMS_MAX}", status_url(task_id))).await
    }

    pub(super) async fn cancel(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, Fault> {
        let ahead = if reach == Reach::Ahead { "?ahead=true" } else { "" };
        let question = Question::new(Method::DELETE, status_url(task_id) + ahead);
        let answer = self.ask(&question).await?;
        if answer.status == StatusCode::CONFLICT {
            let outcome = self.status(task_id).await?.and_then(|status| status.state.outcome());
            return outcome.map(Cancel::Ended).ok_or_else(|| self.refused(&question, &answer));
        }
        let cancelling: TaskCancelling = self.read(&question, &answer)?;
        Ok(match (cancelling.was.as_str(), cancelling.gpu_id) {
            ("running", Some(gpu_id)) => Cancel::Running(gpu_id),
            ("unseen", _) => Cancel::Unseen,
            _ => Cancel::Waiting,
        })
    }

    pub(super) async fn unserved(&self) -> Result<(PoolName, Vec<Unserved>), Fault> {
        let UnservedList { pool, unserved } = self.get("/api/v1/unserved").await?;
        Ok((pool, unserved))
    }

    pub(super) async fn kinds(&self) -> Result<(PoolName, Vec<KindView>), Fault> {
        let KindList { pool, kinds } = self.get("/api/v1/kinds").await?;
        Ok((pool, kinds))
    }

    pub(super) async fn gpus(&self) -> Result<Pool, Fault> {
        let GpuList { pool, gpus } = self.get("/api/v1/gpus").await?;
        Ok(Pool { name: pool, gpus })
    }

    /// Submits a task under an id that is known before, so that a question that goes out twice submits one. The gateway's warnings.
    pub(super) async fn submit(&self, task: &NewTask, task_id: &TaskId) -> Result<Vec<String>, Fault> {
        let (text, segments) = (request_text(task, task_id), &task.body.segments);
        let (body, content_type) = if segments.is_empty() {
            (text.into(), frame::JSON)
        } else {
            let too_long = || Fault::Usage(format!("there is more JSON than can go beside segments, {} bytes", frame::JSON_BYTES_MAX));
            (frame::of(text, segments).ok_or_else(too_long)?, frame::FRAME)
        };
        let traceparent = task.traceparent.clone();
        let question = Question { body, content_type, traceparent, ..Question::new(Method::POST, "/api/v1/tasks") };
        let answer = self.ask(&question).await?;
        let accepted: Accepted = self.read(&question, &answer)?;
        Ok(accepted.warnings)
    }

    /// Looks at a task until it has ended and its reply is there; tells of its progress on the way.
    pub(super) async fn reply(&self, task_id: &TaskId, until: Instant, told: &impl Fn(&Progress)) -> Result<Reply, NoReply> {
        let [shortest, longest] = PAUSE;
        let (mut pace, mut patience) = (Pace::new(shortest, longest), Patience::default());
        let mut last: Option<Progress> = None;
        loop {
            match self.status(task_id).await {
                Ok(Some(TaskStatus { reply: Some(reply), .. })) => return Ok(reply),
                Ok(Some(status)) => {
                    let progress = status::of_batch(status.items, status.progress.clone());
                    if progress != last {
                        progress.iter().for_each(told);
                        last = progress;
                    }
                    if let Some(outcome) = status.state.outcome()
                        && patience.is_over()
                    {
                        return without_reply(task_id, status, outcome).map_err(NoReply::from);
                    }
                }
                Ok(None) => return Err(Fault::NotFound(format!("wait for task {task_id}: the fleet has forgotten it")).into()),
                // The gateway, or what is behind it, may come back while there is time.
                Err(Fault::Unavailable(_)) if Instant::now() < until => {}
                Err(fault) => return Err(fault.into()),
            }
            match pace.pause_until(until) {
                Some(pause) => sleep(pause).await,
                None => return Err(NoReply::Late(task_id.clone())),
            }
        }
    }

    /// What is not ready behind the gateway; `None` if all is.
    pub(crate) async fn not_ready(&self) -> Result<Option<String>, Fault> {
        let question = Question::new(Method::GET, "/readyz");
        let answer = self.ask(&question).await?;
        if answer.status.is_success() {
            return Ok(None);
        }
        match self.refused(&question, &answer) {
            Fault::Unavailable(why) => Ok(Some(why)),
            fault => Err(fault),
        }
    }

    /// The version of the gateway.
    pub(crate) async fn version(&self) -> Result<String, Fault> {
        let described: Described = self.get("/openapi.json").await?;
        Ok(described.info.version)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        let question = Question::new(Method::GET, path);
        let answer = self.ask(&question).await?;
        self.read(&question, &answer)
    }

    pub(super) async fn ask(&self, question: &Question) -> Result<Answer, Fault> {
        let url = self.url();
        self.client.ask(question).await.map_err(|reason| {
            Fault::Unavailable(format!("reach the gateway at {url}: {reason}; does `gpufleet up` or `gpufleet gateway` listen there?"))
        })
    }

    pub(super) fn read<T: DeserializeOwned>(&self, question: &Question, answer: &Answer) -> Result<T, Fault> {
        self.read_by(question, answer, |body| serde_json::from_slice(body))
    }

    fn read_by<T>(
        &self,
        question: &Question,
        answer: &Answer,
        read: impl FnOnce(&Bytes) -> Result<T, serde_json::Error>,
    ) -> Result<T, Fault> {
        if !answer.status.is_success() {
            return Err(self.refused(question, answer));
        }
        read(&answer.body).map_err(|error| {
            let Question { method, path, .. } = question;
            let url = self.url();
            Fault::Failed(format!(
                "{method} {path}: the answer of {url} is not understood ({error}); is it a gateway of this program's version?"
            ))
        })
    }

    /// What a problem document says, under the exit code that goes with its status.
    fn refused(&self, question: &Question, answer: &Answer) -> Fault {
        let Ok(problem) = serde_json::from_slice::<ProblemDocument>(&answer.body) else {
            let (Question { method, path, .. }, url, status) = (question, self.url(), answer.status);
            return Fault::Failed(format!(
                "{method} {path}: {url} answers {status}, and not as a gateway does; is this a gateway's address?"
            ));
        };
        fault_of(answer.status, problem)
    }
}

/// What becomes of waiting for a task that has ended, and whose reply did not come. Of one that was cancelled before any worker had it nobody makes a reply.
fn without_reply(task_id: &TaskId, status: TaskStatus, outcome: Outcome) -> Result<Reply, Fault> {
    match outcome {
        Outcome::Cancelled => Ok(Reply::without_body(status, outcome)),
        _ => Err(Fault::Failed(format!("wait for task {task_id}: it {}, and its reply is not kept", outcome.name()))),
    }
}

/// What the gateway takes for a task. It has no line breaks but those of the payload.
pub(super) fn request_text(task: &NewTask, task_id: &TaskId) -> Vec<u8> {
    let body = &task.body;
    let request = TaskRequest {
        kind: &task.kind,
        priority: task.priority,
        not_before_ms: task.not_before_ms,
        delay_ms: task.delay_ms,
        task_id,
        payload: body.items.is_none().then_some(&body.payload),
        items: body.items.as_deref(),
        on_error: body.on_error,
        gpu_options: &body.gpu_options,
        needs: &body.needs,
        limits: &body.limits,
        keep_as: body.keep_as.as_ref(),
        on_missing: body.on_missing,
        progress: task.progress,
        group: task.group.as_ref(),
    };
    serde_json::to_vec(&request).expect("its keys are texts")
}

/// What a problem document says, under the exit code that goes with its status.
pub(super) fn fault_of(status: StatusCode, problem: ProblemDocument) -> Fault {
    let detail = problem.detail;
    let text = match problem.field {
        Some(field) if !detail.starts_with(&field) => format!("{field}: {detail}"),
        _ => detail,
    };
    match (status.as_u16(), problem.kind.rsplit(':').next().unwrap_or_default()) {
        // The request is right, and the fleet has nobody for it; without a gateway the exit code is the same.
        (_, "unserved") => Fault::Unavailable(text),
        // Not before a group is forgotten is there room again.
        (_, "group-full") => Fault::Unavailable(text),
        // The id was the caller's choice.
        (_, "task-id-in-use") => Fault::Usage(text),
        (404 | 410, _) => Fault::NotFound(text),
        (429 | 503 | 507, _) => Fault::Unavailable(text),
        (408 | 504, _) => Fault::TimeLimit(text),
        (400 | 403 | 413 | 415 | 422, _) => Fault::Usage(text),
        _ => Fault::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The exit code under which a problem is told.
    fn exit_code(name: &str, status: u16) -> u8 {
        let gateway = Gateway::new("http://h".parse().expect("a URL"));
        let problem = json!({"type": format!("urn:gpufleet:problem:{name}"), "title": "a title", "status": status, "detail": "a detail"});
        let answer = Answer { status: StatusCode::from_u16(status).expect("a status"), body: problem.to_string().into() };
        gateway.refused(&Question::new(Method::POST, "/api/v1/tasks"), &answer).told()
    }

    #[test]
    fn a_problem_has_the_exit_code_that_it_has_without_a_gateway() {
        for (name, status, code) in [
            ("invalid-field", 422, 2),
            ("task-id-in-use", 409, 2),
            ("unserved", 422, 3),
            ("group-full", 409, 3),
            ("unavailable", 503, 3),
            ("queue-full", 429, 3),
            ("tensors-full", 507, 3),
            ("tensor-missing", 404, 4),
            ("tensor-exists", 409, 1),
            ("transfer-failed", 502, 1),
            ("not-found", 404, 4),
            ("no-results", 409, 1),
            ("reply-not-kept", 410, 4),
            ("wait-timeout", 504, 5),
            ("internal", 500, 1),
        ] {
            assert_eq!(exit_code(name, status), code, "{name}");
        }
    }
}
