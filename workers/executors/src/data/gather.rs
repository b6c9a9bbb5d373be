//! `tensor.gather`: joins tensors along their first dimension into one, on the task's GPU.
//!
//! ```json
//! {"tensors": [{"tensor": "a"}, {"tensor": "b", "version": 17}], "name": "joined"}
//! {"batch": "part", "items": 8, "name": "joined"}
//! ```
//! The second form means `part.0` to `part.7`: what a batch of eight items has kept as `part`. `ttl_ms` and `if_exists` are those of `keep_as`. Gives what it kept, as `tensor.put` does.

use async_trait::async_trait;
use devices::Use;
use protocol::{Framed, Json, Kind, TensorRef, TensorShape, batch::ITEMS_MAX};
use tensors::Moving;

use super::{
    reading::{self, Keeping},
    unless_cancelled,
};
use crate::{Executor, Failure, Run, TakesTensors, occupy::occupy, payload::Fields, schemas};

pub(super) struct Gather;

/// What is asked for.
struct Asked {
    parts: Vec<TensorRef>,
    keeping: Keeping,
}

impl Asked {
    fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let keeping = Keeping::read(&mut fields)?;
        let listed = listed(&mut fields)?;
        let of_batch = of_batch(&mut fields)?;
        fields.finish()?;
        match (listed, of_batch) {
            (Some(parts), None) | (None, Some(parts)) => Ok(Self { parts, keeping }),
            (None, None) => Err(Failure::invalid("payload.tensors", "is missing; give a list of tensors, or batch and items")),
            (Some(_), Some(_)) => Err(Failure::invalid("payload.batch", "cannot stand beside tensors; give the one or the other")),
        }
    }
}

/// The tensors of the field `tensors`.
fn listed(fields: &mut Fields) -> Result<Option<Vec<TensorRef>>, Failure> {
    let path = fields.path("tensors");
    let Some(value) = fields.value("tensors") else { return Ok(None) };
    let parts = value.elements().ok().filter(|parts| (1..=ITEMS_MAX).contains(&parts.len()));
    let parts = parts.ok_or_else(|| Failure::invalid(&path, format!("must be a list of 1 to {ITEMS_MAX} tensors")))?;
    let part = |(at, part): (usize, &Json)| {
        let wrong = || Failure::invalid(format!("{path}[{at}]"), format!("must be {{\"tensor\": name}}, not {}", part.in_brief()));
        TensorRef::read(part).ok_or_else(wrong)
    };
    parts.iter().enumerate().map(part).collect::<Result<Vec<_>, _>>().map(Some)
}

/// The tensors that the fields `batch` and `items` mean.
fn of_batch(fields: &mut Fields) -> Result<Option<Vec<TensorRef>>, Failure> {
    let batch = reading::optional_name(fields, "batch")?;
    let items = fields.whole("items", 1, ITEMS_MAX as u64)?;
    match (batch, items) {
        (None, None) => Ok(None),
        (Some(batch), Some(items)) => {
            let part = |item| batch.of_item(item).map(TensorRef::latest);
            let parts: Option<Vec<TensorRef>> = (0..items as usize).map(part).collect();
            parts.map(Some).ok_or_else(|| Failure::invalid(fields.path("batch"), format!("{batch} is too long for a name of items")))
        }
        (None, Some(_)) => Err(Failure::invalid(fields.path("batch"), "is missing beside items; give the name that the batch kept")),
        (Some(_), None) => Err(Failure::invalid(fields.path("items"), "is missing beside batch; say how many items it had")),
    }
}

#[async_trait]
impl Executor for Gather {
    fn kind(&self) -> Kind {
        Kind::new("tensor.gather").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "joins tensors along their first dimension into one, on one GPU".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::TENSOR_GATHER))
    }

    fn failures_blame_gpu(&self) -> bool {
        false
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::ByName
    }

    /// Also those of a batch. Of a payload that it does not take there are none: it is refused when it runs.
    fn tensors_named(&self, payload: &Json) -> Vec<TensorRef> {
        let mut named = Asked::read(payload).map_or_else(|_| Vec::new(), |asked| asked.parts);
        named.sort();
        named.dedup();
        named
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let Asked { parts, keeping } = Asked::read(run.payload)?;
        let plane = run.tensors.plane()?;
        let _work = occupy(run.device.as_ref(), Use::default())?;
        // What its numbers are follows from the parts.
        let keep = keeping.by(&run.task.id, TensorShape::of_bytes(0));
        let told = |moving: &Moving| run.report.progress(moving.fraction(), &format!("gathering tensor {}", moving.name));
        let kept = unless_cancelled(&run.cancel, plane.gather_telling(&parts, keep, &run.cancel, &told)).await?;
        Ok(Json::of(&kept).into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parts(payload: Value) -> Result<Vec<String>, (String, String)> {
        let asked = Asked::read(&payload.into()).map_err(|failure| (failure.field.unwrap(), failure.message))?;
        let written = |part: TensorRef| part.version.map_or(part.tensor.to_string(), |version| format!("{}@{version}", part.tensor));
        Ok(asked.parts.into_iter().map(written).collect())
    }

    #[test]
    fn the_parts_are_listed_or_those_of_a_batch() {
        let listed = json!({"tensors": [{"tensor": "b", "version": 17, "bytes": 8}, {"tensor": "a"}], "name": "x"});
        assert_eq!(parts(listed).unwrap(), ["b@17", "a"], "in their order");
        assert_eq!(parts(json!({"batch": "p", "items": 3, "name": "x", "tensors": null})).unwrap(), ["p.0", "p.1", "p.2"]);
        for (payload, field) in [
            (json!({"batch": "p", "items": 3}), "payload.name"),
            (json!({"name": "x"}), "payload.tensors"),
            (json!({"name": "x", "tensors": []}), "payload.tensors"),
            (json!({"name": "x", "tensors": [{"tensor": "a"}, {"tensor": "a b"}]}), "payload.tensors[1]"),
            (json!({"name": "x", "tensors": [{"tensor": "a"}], "batch": "p", "items": 1}), "payload.batch"),
            (json!({"name": "x", "batch": "p"}), "payload.items"),
            (json!({"name": "x", "items": 1}), "payload.batch"),
            (json!({"name": "x", "batch": "p".repeat(199), "items": 1}), "payload.batch"),
            (json!({"name": "x", "batch": "p", "items": 10_001}), "payload.items"),
            (json!({"name": "x", "batch": "p", "items": 1, "ttl_ms": 0}), "payload.ttl_ms"),
            (json!({"name": "x", "batch": "p", "items": 1, "if_exists": "never"}), "payload.if_exists"),
        ] {
            assert_eq!(parts(payload.clone()).unwrap_err().0, field, "{payload}");
        }
    }
}
