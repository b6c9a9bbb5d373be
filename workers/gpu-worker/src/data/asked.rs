//! What a task asks of tensors: those that its payloads name, and whether its outputs stay on the GPU.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use executors::{Executor, Executors, TakesTensors};
use protocol::{ErrorCode, Task, TaskError, TensorRecord, TensorRef, batch::ITEMS_MAX};
use tensors::{DataError, DataPlane};
use tokio::time::Instant;

/// For so long what the table said of where they are is believed: from the claim to the run that follows it at once.
const BELIEVED: Duration = Duration::from_secs(1);

/// How many tensors a payload may name, each counted once: all of them are on the GPU while it runs. A kind that only does something with them wherever they are bounds them itself.
const NAMED_MAX: usize = 1_024;
/// The same of a whole task: each item of the largest batch may name one of its own.
const NAMED_IN_ALL_MAX: usize = ITEMS_MAX;

/// What one task asks of tensors.
pub(crate) struct AskedTensors {
    /// How its kind takes them.
    pub(crate) takes: TakesTensors,
    /// Those that its payload, or its items, name: each once.
    pub(crate) references: Vec<TensorRef>,
    /// It names more than it may.
    refusal: Option<TaskError>,
    /// Where they are, as the table said last.
    found: Mutex<Option<(Instant, Arc<[TensorRecord]>)>>,
}

impl AskedTensors {
    /// `None`: it names none that its kind would take, and keeps none.
    pub(crate) fn of(executors: &Executors, task: &Task) -> Option<Arc<Self>> {
        let executor = executors.get(&task.kind);
        let takes = executor.as_ref().map_or(TakesTensors::No, |executor| executor.takes_tensors());
        let (references, refusal) = match &executor {
            Some(executor) if takes != TakesTensors::No => named(executor.as_ref(), task),
            _ => (Vec::new(), None),
        };
        let asks = !references.is_empty() || task.body.keep_as.is_some();
        asks.then(|| Arc::new(Self { takes, references, refusal, found: Mutex::default() }))
    }

    /// Why its task is refused: a payload of it, or all of them together, name more tensors than they may.
    pub(crate) const fn refusal(&self) -> Option<&TaskError> {
        self.refusal.as_ref()
    }

    /// Where they are. Asks the table once, unless it was asked a moment ago.
    ///
    /// # Errors
    /// Those of [`DataPlane::find`].
    pub(crate) async fn find(&self, plane: &DataPlane) -> Result<Arc<[TensorRecord]>, DataError> {
        if let Some(found) = self.found_lately() {
            return Ok(found);
        }
        let asked = Instant::now();
        let found: Arc<[TensorRecord]> = plane.find(&self.references).await?.into();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked, Arc::clone(&found)));
        Ok(found)
    }

    /// Where they are, if that was asked for a moment ago.
    pub(crate) fn found_lately(&self) -> Option<Arc<[TensorRecord]>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, found)| Arc::clone(found))
    }

    /// What was found is not so any more.
    pub(crate) fn forget_found(&self) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What a task names, each once, and why that is too much, if it is.
fn named(executor: &dyn Executor, task: &Task) -> (Vec<TensorRef>, Option<TaskError>) {
    let in_payload_max = if executor.takes_tensors() == TakesTensors::ByName { NAMED_IN_ALL_MAX } else { NAMED_MAX };
    let Some(items) = &task.body.items else {
        let named = executor.tensors_named(&task.body.payload);
        let refusal = too_many(named.len(), in_payload_max, "payload".to_owned());
        return (named, refusal);
    };
    let (mut all, mut refusal) = (Vec::new(), None);
    for (number, item) in items.iter().enumerate() {
        let named = executor.tensors_named(item);
        refusal = refusal.or_else(|| too_many(named.len(), in_payload_max, format!("items[{number}]")));
        all.extend(named);
    }
    all.sort();
    all.dedup();
    let refusal = refusal.or_else(|| too_many(all.len(), NAMED_IN_ALL_MAX, "items".to_owned()));
    (all, refusal)
}

fn too_many(named: usize, bound: usize, field: String) -> Option<TaskError> {
    let message =
        || format!("names {named} tensors, and may name at most {bound}; join some of them by tensor.gather, or cut the task into several");
    (named > bound).then(|| TaskError { code: ErrorCode::InvalidPayload.into(), message: message(), field: Some(field) })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use executors::{Failure, Run};
    use protocol::{BodyHash, DeliveryId, Framed, Json, KeepAs, Kind, TaskBody, TaskId, TensorName};
    use serde_json::json;

    use super::*;

    struct Reads;

    #[async_trait]
    impl Executor for Reads {
        fn kind(&self) -> Kind {
            Kind::new("reads").unwrap()
        }

        fn takes_tensors(&self) -> TakesTensors {
            TakesTensors::AsSegments
        }

        async fn run(&self, _run: Run<'_>) -> Result<Framed, Failure> {
            Ok(Json::null().into())
        }
    }

    fn asked(kind: &str, body: TaskBody) -> Option<Arc<AskedTensors>> {
        let task = Task {
            id: TaskId::new("task").unwrap(),
            body_hash: BodyHash::of(b""),
            kind: Kind::new(kind).unwrap(),
            priority: 0,
            attempt: 1,
            hops: 0,
            memory_mb: None,
            start_before_ms: None,
            end_before_ms: None,
            not_before_ms: None,
            body,
            delivery: DeliveryId(1),
        };
        AskedTensors::of(&Executors::new().with(executors::echo()).with(Arc::new(Reads)), &task)
    }

    fn naming(payload: serde_json::Value) -> TaskBody {
        TaskBody { payload: payload.into(), ..TaskBody::default() }
    }

    #[test]
    fn a_task_that_names_too_many_tensors_is_refused_with_where_and_how_many() {
        let naming_many = |count: usize| json!((0..count).map(|number| json!({"tensor": format!("x.{number}")})).collect::<Vec<_>>());
        let refusal = |body: TaskBody| asked("reads", body).unwrap().refusal().map(|error| (error.field.clone(), error.message.clone()));
        assert_eq!(refusal(naming(naming_many(NAMED_MAX))), None);
        let (field, message) = refusal(naming(naming_many(NAMED_MAX + 1))).unwrap();
        assert_eq!(field.as_deref(), Some("payload"));
        assert!(message.starts_with("names 1025 tensors, and may name at most 1024"), "{message}");
        let items = [json!(1), naming_many(NAMED_MAX + 1)].map(Json::from).to_vec();
        let (field, _) = refusal(TaskBody { items: Some(items), ..TaskBody::default() }).unwrap();
        assert_eq!(field.as_deref(), Some("items[1]"));
        let items = (0..=NAMED_IN_ALL_MAX).map(|number| json!({"tensor": format!("x.{number}")}).into()).collect();
        let (field, message) = refusal(TaskBody { items: Some(items), ..TaskBody::default() }).unwrap();
        assert_eq!((field.as_deref(), message.contains("10001")), (Some("items"), true), "{message}");
    }

    #[test]
    fn a_task_asks_for_tensors_only_where_its_kind_takes_them() {
        let names = |kind: &str, body: TaskBody| {
            asked(kind, body).map(|asked| asked.references.iter().map(|reference| reference.tensor.to_string()).collect::<Vec<_>>())
        };
        let (one, none) = (json!({"of": {"tensor": "x"}}), json!({"of": 1}));
        assert_eq!(names("reads", naming(one.clone())), Some(vec!["x".to_owned()]));
        assert_eq!(names("reads", naming(none)), None);
        assert_eq!(names("echo", naming(one.clone())), None, "an object like any other");
        assert_eq!(names("unknown", naming(one.clone())), None);
        let items = [json!({"tensor": "y"}), one.clone(), json!([{"tensor": "x"}])].map(Json::from).to_vec();
        assert_eq!(names("reads", TaskBody { items: Some(items), ..TaskBody::default() }), Some(vec!["x".to_owned(), "y".to_owned()]));
        let keep_as = Some(KeepAs::one(TensorName::new("z").unwrap()));
        assert_eq!(names("echo", TaskBody { keep_as, ..naming(one) }), Some(Vec::new()), "any kind may keep its output");
    }
}
