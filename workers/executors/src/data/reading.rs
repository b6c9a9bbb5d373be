//! What the payloads of several of these kinds have in common.

use std::time::Duration;

use protocol::{IfExists, InvalidId, KeepAs, TaskId, TensorName, TensorRef, TensorShape};
use tensors::Keep;

use crate::{Failure, payload::Fields};

/// The name of a tensor.
pub(super) fn name(fields: &mut Fields, field: &'static str) -> Result<TensorName, Failure> {
    optional_name(fields, field)?.ok_or_else(|| Failure::invalid(fields.path(field), "is missing; give the name of a tensor"))
}

/// The name of a tensor, if there is one.
pub(super) fn optional_name(fields: &mut Fields, field: &'static str) -> Result<Option<TensorName>, Failure> {
    let Some(text) = fields.text(field)? else { return Ok(None) };
    let wrong = |error: InvalidId| Failure::invalid(fields.path(field), format!("must be {}, not {:?}", error.rule, error.value));
    TensorName::new(text).map(Some).map_err(wrong)
}

/// The tensor that the fields `tensor` and `version` name.
pub(super) fn reference(fields: &mut Fields) -> Result<TensorRef, Failure> {
    let tensor = name(fields, "tensor")?;
    Ok(TensorRef { tensor, version: fields.whole("version", 0, u64::MAX)? })
}

/// How a tensor is to be kept, beside what its numbers are.
pub(super) struct Keeping {
    name: TensorName,
    ttl: Option<Duration>,
    if_exists: IfExists,
}

impl Keeping {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, Failure> {
        let name = name(fields, "name")?;
        let ttl = fields.whole("ttl_ms", 1, KeepAs::TTL_MS_MAX)?.map(Duration::from_millis);
        let if_exists = match fields.text("if_exists")?.as_deref() {
            None | Some("replace") => IfExists::Replace,
            Some("fail") => IfExists::Fail,
            Some(other) => {
                return Err(Failure::invalid(fields.path("if_exists"), format!("must be \"replace\" or \"fail\", not {other:?}")));
            }
        };
        Ok(Self { name, ttl, if_exists })
    }

    /// By this task. Its version is the time.
    pub(super) fn by(self, task: &TaskId, shape: TensorShape) -> Keep {
        let Self { name, ttl, if_exists } = self;
        Keep { name, shape, owner: task.to_string(), version: None, ttl, if_exists }
    }
}
