//! `POST /api/v1/tasks:bulk`: a task in each line, and an answer for each, in the same order, while the request still comes.
//!
//! Each line is submitted by a job of its own, which goes on whatever its client does: what was accepted stays accepted, and a client that reads none of its answers holds no
//! memory of bodies. The answers wait for their turn; as many lines as may be under way are the most that do.
//!
//! ```text
//!  body ──► Lines (one line in hand) ──► jobs (at most 512) ──► answers, in order ──► client
//! ```

mod answers;
mod lines;

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures::stream;
use protocol::TaskId;
use schemars::JsonSchema;
use serde::Serialize;

use self::{
    answers::{Answers, Origin},
    lines::Lines,
};
use crate::{
    Gateway, Problem, ProblemDocument,
    encoding::request_trace,
    events::NOT_KEPT_BACK,
    idempotency,
    intake::{Media, check_headers},
    problem::ProblemKind,
};

/// Bulk requests that may be under way at once.
pub(crate) const BULK_MAX: usize = 64;
/// One may end at any moment.
const RETRY_S: u64 = 1;

/// What became of a line: `task_id` where the broker has its task, else `problem`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BulkAnswer {
    /// The line of the request, from 1. Empty lines count, and have no answer.
    line: u64,
    /// The task's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
    /// What keeps the task from being run now or as asked. Absent where all is well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// Why the task was not submitted, or may not have been. A request that is not read to its end has one for the first line that was not read, as its last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemDocument>,
}

impl BulkAnswer {
    fn accepted(line: u64, (task_id, warnings): (TaskId, Vec<String>)) -> Self {
        Self { line, task_id: Some(task_id), warnings, problem: None }
    }

    fn refused(line: u64, problem: Problem) -> Self {
        Self { line, task_id: None, warnings: Vec::new(), problem: Some(problem.into_document()) }
    }

    /// The name of what became of it, in metrics.
    fn result(&self) -> &'static str {
        match self.problem.as_ref().map(|problem| problem.status) {
            None => "accepted",
            Some(429) => "full",
            Some(503) => "unavailable",
            Some(status) if status < 500 => "refused",
            Some(_) => "failed",
        }
    }
}

/// `POST /api/v1/tasks:bulk`. The head of the answer goes once the first bytes of the body are there.
pub(crate) async fn submit(State(gateway): State<Gateway>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    check_headers(&head.headers, Media::Lines)?;
    let key = idempotency::key(&head.headers)?.map(str::to_owned);
    let origin = Origin { key, trace: request_trace(&head.headers) };
    let permit = gateway.bulk.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{BULK_MAX} bulk requests are under way already; come back later, or send more lines in one request");
        Problem::new(ProblemKind::Overloaded, detail).retry_after(RETRY_S)
    })?;
    let mut lines = Lines::new(body, gateway.ports.bodies.clone(), &gateway.options);
    lines.begin().await?;
    let answers = Answers::new(gateway, lines, origin, permit);
    let texts = stream::unfold(answers, |mut answers| async move {
        let text = answers.next().await?;
        Some((Ok::<_, Infallible>(text), answers))
    });
    let content_type = [(header::CONTENT_TYPE, Media::Lines.name())];
    Ok((NOT_KEPT_BACK, content_type, Body::from_stream(texts)).into_response())
}
