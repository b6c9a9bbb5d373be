//! `tensor.free`: frees all copies of a tensor.
//!
//! ```json
//! {"tensor": "x"}
//! ```
//! Gives the GPUs that had one, `{"freed": ["gpu-a", "gpu-b"]}`. It is not found any more from then on; what is in use goes when it no longer is. With `version` only that version is freed.

use async_trait::async_trait;
use protocol::{Framed, GpuId, Json, Kind};
use serde::Serialize;

use super::{reading, unless_cancelled};
use crate::{Executor, Failure, Run, payload::Fields, schemas};

pub(super) struct Free;

/// The result as it is written.
#[derive(Serialize)]
struct Freed {
    freed: Vec<GpuId>,
}

#[async_trait]
impl Executor for Free {
    fn kind(&self) -> Kind {
        Kind::new("tensor.free").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "frees all copies of a tensor".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::TENSOR_FREE))
    }

    fn failures_blame_gpu(&self) -> bool {
        false
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let mut fields = Fields::of_payload(run.payload)?;
        let reference = reading::reference(&mut fields)?;
        fields.finish()?;
        let plane = run.tensors.plane()?;
        let freed = unless_cancelled(&run.cancel, plane.free(&reference)).await?;
        Ok(Json::of(&Freed { freed }).into())
    }
}
