//! `tensor.put`: puts numbers of the payload on the GPU, under a name.
//!
//! ```json
//! {"name": "x", "value": {"$segment": 0, "dtype": "f32", "shape": [2, 3]}, "ttl_ms": 60000, "if_exists": "replace"}
//! {"name": "x", "value": [1, 2, 3, 4, 5, 6], "dtype": "f32", "shape": [2, 3]}
//! ```
//! `value` is a segment (without a `dtype` it is bytes), or a flat list of numbers of `dtype`. `ttl_ms` and `if_exists` are those of `keep_as`. Gives what it kept:
//! `{"tensor": "x", "version": 17, "gpu_id": "gpu-a", "dtype": "f32", "shape": [2, 3], "bytes": 24}`, which another task may name as it is.

use async_trait::async_trait;
use devices::Use;
use protocol::{Framed, Json, Kind};
use tensors::Content;

use super::{numbers, reading::Keeping, unless_cancelled};
use crate::{Executor, Failure, Run, occupy::occupy, payload::Fields, schemas};

pub(super) struct Put;

#[async_trait]
impl Executor for Put {
    fn kind(&self) -> Kind {
        Kind::new("tensor.put").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "puts numbers or raw bytes on a GPU under a name, for tasks to use".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::TENSOR_PUT))
    }

    fn failures_blame_gpu(&self) -> bool {
        false
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let mut fields = Fields::of_payload(run.payload)?;
        let keeping = Keeping::read(&mut fields)?;
        let (shape, bytes) = numbers::read(&mut fields, run.segments())?;
        fields.finish()?;
        let plane = run.tensors.plane()?;
        let _work = occupy(run.device.as_ref(), Use::default())?;
        let keep = keeping.by(&run.task.id, shape);
        let kept = unless_cancelled(&run.cancel, plane.keep(keep, Content::Host(bytes))).await?;
        Ok(Json::of(&kept).into())
    }
}
