//! `tensor.copy`: copies a tensor to other GPUs.
//!
//! ```json
//! {"tensor": "x", "to": "gpu-b"}
//! {"tensor": "x", "to": ["gpu-b", "gpu-c"]}
//! {"tensor": "x", "to": "all"}
//! ```
//! `"all"` is every GPU of the pool that takes tensors. Many are served by those that have it already, not all by one. Gives for each what came of it, `{"copies": [{"gpu_id": "gpu-b", "from":
//! "gpu-a", "took_ms": 12}, {"gpu_id": "gpu-c", "error": "..."}]}`, and fails where there is no copy at all.

use async_trait::async_trait;
use protocol::{ErrorCode, Framed, GpuId, Json, Kind, TensorName, TensorRef};
use serde::Serialize;
use tensors::{CopiedTo, Moving};

use super::{reading, unless_cancelled};
use crate::{Executor, Failure, Run, TakesTensors, payload::Fields, schemas};

/// The word for every GPU.
const ALL: &str = "all";

pub(super) struct CopyTo;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    reference: TensorRef,
    /// Empty: to all.
    to: Vec<GpuId>,
}

/// The result as it is written.
#[derive(Serialize)]
struct Copies {
    copies: Vec<Written>,
}

/// What came of one copy, as it is written.
#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Made { gpu_id: GpuId, from: GpuId, took_ms: u64 },
    Failed { gpu_id: GpuId, error: String },
}

impl Asked {
    fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let reference = reading::reference(&mut fields)?;
        let path = fields.path("to");
        let to =
            fields.value("to").ok_or_else(|| Failure::invalid(&path, "is missing; give the id of a GPU, a list of them, or \"all\""))?;
        fields.finish()?;
        let to = destinations(&to).map_err(|problem| Failure::invalid(path, problem))?;
        Ok(Self { reference, to })
    }
}

fn destinations(to: &Json) -> Result<Vec<GpuId>, String> {
    let read = |id: String| GpuId::new(id).map_err(|error| format!("must be the id of a GPU ({}), not {:?}", error.rule, error.value));
    if let Ok(one) = to.to::<String>() {
        return if one == ALL { Ok(Vec::new()) } else { Ok(vec![read(one)?]) };
    }
    match to.to::<Vec<String>>() {
        Ok(several) if !several.is_empty() => several.into_iter().map(read).collect(),
        _ => Err(format!("must be the id of a GPU, a list of them, or \"all\", not {}", to.in_brief())),
    }
}

/// The result, where there is at least one copy, or none was to be made.
fn written(tensor: &TensorName, came_out: Vec<CopiedTo>) -> Result<Json, Failure> {
    let reasons = came_out.iter().map(|copy| copy.outcome.as_ref().err().map(|reason| format!("{}: {reason}", copy.gpu_id)));
    if let Some(reasons) = reasons.collect::<Option<Vec<_>>>().filter(|reasons| !reasons.is_empty()) {
        let message = format!("no copy of the tensor {tensor} was made: {}", reasons.join("; "));
        return Err(Failure { code: ErrorCode::TransferFailed.into(), message, retry: true, ..Failure::default() });
    }
    let written = |CopiedTo { gpu_id, outcome }| match outcome {
        Ok(copied) => {
            let took_ms = u64::try_from(copied.took.as_millis()).unwrap_or(u64::MAX);
            Written::Made { gpu_id, from: copied.from, took_ms }
        }
        Err(error) => Written::Failed { gpu_id, error },
    };
    Ok(Json::of(&Copies { copies: came_out.into_iter().map(written).collect() }))
}

#[async_trait]
impl Executor for CopyTo {
    fn kind(&self) -> Kind {
        Kind::new("tensor.copy").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "copies a tensor to other GPUs, to one, several or all".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::TENSOR_COPY))
    }

    fn failures_blame_gpu(&self) -> bool {
        false
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::ByName
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let Asked { reference, to } = Asked::read(run.payload)?;
        let plane = run.tensors.plane()?;
        let told = |moving: &Moving| run.report.progress(moving.fraction(), &format!("copying tensor {}", moving.name));
        let came_out = unless_cancelled(&run.cancel, plane.copy_to_telling(&reference, &to, &run.cancel, &told)).await?;
        Ok(written(&reference.tensor, came_out)?.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tensors::Copied;

    use super::*;

    fn gpu(id: &str) -> GpuId {
        GpuId::new(id).unwrap()
    }

    fn copied(to: &str) -> CopiedTo {
        CopiedTo { gpu_id: gpu(to), outcome: Ok(Copied { from: gpu("a"), took: Duration::from_millis(12) }) }
    }

    fn failed(to: &str) -> CopiedTo {
        CopiedTo { gpu_id: gpu(to), outcome: Err("it is full".to_owned()) }
    }

    #[test]
    fn it_goes_to_one_to_several_or_to_all() {
        for (to, expected) in [(json!("all"), vec![]), (json!("b"), vec![gpu("b")]), (json!(["b", "all"]), vec![gpu("b"), gpu("all")])] {
            let asked = Asked::read(&json!({"tensor": "x", "to": to}).into()).unwrap();
            assert_eq!(asked.to, expected);
        }
        for wrong in [json!([]), json!(7), json!("a b"), json!(["b", 7]), json!({}), json!(null)] {
            let refused = Asked::read(&json!({"tensor": "x", "to": wrong}).into()).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("payload.to"), "{refused:?}");
        }
    }

    #[test]
    fn it_fails_where_no_copy_was_made() {
        let x = TensorName::new("x").unwrap();
        let written = |came_out| super::written(&x, came_out);
        let both = json!({"copies": [{"gpu_id": "b", "from": "a", "took_ms": 12}, {"gpu_id": "c", "error": "it is full"}]});
        assert_eq!(written(vec![copied("b"), failed("c")]).unwrap(), both);
        assert_eq!(written(vec![]).unwrap(), json!({"copies": []}));
        let failure = written(vec![failed("b"), failed("c")]).unwrap_err();
        assert_eq!(failure.message, "no copy of the tensor x was made: b: it is full; c: it is full");
        assert_eq!((failure.code.as_str(), failure.retry, failure.field), ("transfer_failed", true, None));
    }
}
