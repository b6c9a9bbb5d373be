//! Tensors that stay on GPUs: a list of them, and raw bytes to and from the data ports of the GPUs that have them. The gateway keeps nothing of them, and has a few pieces in hand.
//!
//! Writing and freeing are for producers, as submitting is: a task of the kind `tensor.put` or `tensor.free` does the same.

mod error;
mod pool;
mod put;
mod show;

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use data_link::RefusedBecause;
use protocol::TensorName;
use serde::Deserialize;
use task_queue::BodyShare;
use tracing::{debug, warn};

pub use self::{
    error::TensorsError,
    pool::{Destination, FoundTensor, FreedTensor, PoolTensors, TensorPage},
};
pub(crate) use self::{put::put, show::show};
use crate::{Gateway, Problem, problem::ProblemKind, query, tasks::not_utf8};

/// How many tensors are listed where nobody says it.
const LISTED: usize = 100;

/// Some of the tensors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    after: Option<String>,
    limit: Option<String>,
}

/// The version that is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VersionQuery {
    version: Option<String>,
}

/// `GET /api/v1/tensors`.
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<TensorPage>, Problem> {
    let Query(ListQuery { after, limit }) = query.map_err(|rejection| query::unread(&["after", "limit"], &rejection))?;
    let after = after.map(|text| TensorName::new(&*text).map_err(|error| query::not_allowed("after", error.rule, &text))).transpose()?;
    let limit = limit.map_or(Ok(LISTED), |text| query::whole_number("limit", &text, 1..=PoolTensors::LISTED_MAX))?;
    let now_ms = gateway.ports.producer.now_ms();
    gateway.tensors().page(after.as_ref(), limit, now_ms).await.map(Json).map_err(|cause| gateway.tensors_failed(&cause))
}

/// `DELETE /api/v1/tensors/{name}`.
pub(crate) async fn free(
    State(gateway): State<Gateway>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<VersionQuery>, QueryRejection>,
) -> Result<Json<FreedTensor>, Problem> {
    let (name, version) = (named(name)?, version(query)?);
    gateway.tensors().free(&name, version).await.map(Json).map_err(|cause| gateway.tensors_failed(&cause))
}

fn named(name: Result<Path<String>, PathRejection>) -> Result<TensorName, Problem> {
    let Path(text) = name.map_err(|_| not_utf8("name"))?;
    TensorName::new(text).map_err(|error| {
        let detail = format!("name: must be {}, not {:?}: no tensor has such a name", error.rule, error.value);
        Problem::new(ProblemKind::NotFound, detail).field("name")
    })
}

fn version(query: Result<Query<VersionQuery>, QueryRejection>) -> Result<Option<u64>, Problem> {
    let Query(VersionQuery { version }) = query.map_err(|rejection| query::unread(&["version"], &rejection))?;
    let read = |text: String| text.parse::<u64>().map_err(|_| query::not_allowed("version", "the number of a version", &text));
    version.map(read).transpose()
}

impl Gateway {
    fn tensors(&self) -> PoolTensors {
        PoolTensors::new(Arc::clone(&self.ports.table), self.options.pool.clone())
    }

    /// Memory for what is in hand of so many bytes that pass through.
    fn share_of_passage(&self, bytes: u64) -> Result<BodyShare, Problem> {
        let in_hand = usize::try_from(bytes).map_or(PoolTensors::IN_HAND_BYTES, |bytes| bytes.min(PoolTensors::IN_HAND_BYTES));
        let share = self.ports.bodies.try_take(in_hand).ok_or_else(|| self.no_memory_for(in_hand))?;
        self.overloaded.accepted();
        Ok(share)
    }

    fn tensors_failed(&self, cause: &TensorsError) -> Problem {
        let problem = match cause {
            TensorsError::Table(error) => return self.table_failed(error),
            TensorsError::Missing { .. } => Problem::new(ProblemKind::TensorMissing, cause.to_string()).field("name"),
            TensorsError::UnknownGpu { .. } => Problem::new(ProblemKind::NotFound, cause.to_string()).field("gpu"),
            TensorsError::TooLarge { .. } => Problem::new(ProblemKind::BodyTooLarge, cause.to_string()).field("body"),
            TensorsError::NoGpu { .. } => self.not_reached(cause),
            TensorsError::Port { gpu_id, .. } => match cause.refused() {
                Some(RefusedBecause::Missing) => Problem::new(ProblemKind::TensorMissing, cause.to_string()).field("name"),
                Some(RefusedBecause::Exists) => Problem::new(ProblemKind::TensorExists, cause.to_string()).field("name"),
                Some(RefusedBecause::Full) => Problem::new(ProblemKind::TensorsFull, cause.to_string()),
                Some(RefusedBecause::Invalid) => Problem::new(ProblemKind::InvalidField, cause.to_string()).field("body"),
                _ if cause.is_away() => self.not_reached(cause),
                _ => {
                    warn!(error = %cause, "pass the bytes of a tensor on");
                    let detail =
                        format!("GPU {gpu_id}: its data port failed; the gateway's log has the details, and another try may go well");
                    Problem::new(ProblemKind::TransferFailed, detail)
                }
            },
        };
        match cause.code() {
            Some(code) => problem.code(code.name()),
            None => problem,
        }
    }

    /// No data port answers. The first time after all went well is a warning in the log; what follows is the same trouble.
    fn not_reached(&self, cause: &TensorsError) -> Problem {
        if self.unreached.are_under_way() {
            debug!(error = %cause, "reached no data port again");
        } else {
            warn!(error = %cause, "reached no data port");
        }
        let detail = "no GPU that could do it has a data port which this gateway reaches (data.listen and data.advertise of its worker)";
        Problem::new(ProblemKind::NoGpu, detail).retry_after(self.unreached.refused())
    }
}
