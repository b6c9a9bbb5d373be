//! The executor of the kind `onnx`.
//!
//! ```json
//! {"model": "resnet", "inputs": {"x": {"$segment": 0, "dtype": "f32", "shape": [1, 3, 224, 224]}}, "outputs": ["y"]}
//! ```
//! Gives `{"outputs": {"y": …}, "model": "resnet", "version": "2", "provider": "cuda"}`. Inputs may be nested lists, too; outputs come as segments where an input did, or as `"as"` says.

use std::sync::Arc;

use async_trait::async_trait;
use devices::Device;
use protocol::{Framed, Json, Kind};
use tokio::time::Instant;

use super::{OnnxModels, request::Request, source::SOURCE, together, written::written};
use crate::{
    Batching, Executor, Failure, Run, RunBatch, TakesTensors,
    models::{ModelCache, Shelf, ShelfOf},
    payload, schemas,
};

/// Most payloads of one run.
const LARGEST: usize = 32;
/// Payloads whose JSON is longer than this, in bytes, run alone and wherever there is room: to look for their model would take as long as to run them.
const JSON_MAX: usize = 64 * 1024;

/// Runs the models of the operator's folder.
pub(super) struct Onnx {
    pub(super) models: Arc<OnnxModels>,
    pub(super) cache: Arc<ModelCache>,
    shelf: Arc<ShelfOf<OnnxModels>>,
}

/// The executor of the kind `onnx`.
#[must_use]
pub fn onnx(models: Arc<OnnxModels>, cache: Arc<ModelCache>) -> Arc<dyn Executor> {
    let shelf = Arc::new(ShelfOf::new(Arc::clone(&cache), Arc::clone(&models)));
    Arc::new(Onnx { models, cache, shelf })
}

#[async_trait]
impl Executor for Onnx {
    fn kind(&self) -> Kind {
        Kind::new("onnx").expect("a literal that keeps the rule")
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let request = Request::read(run.payload)?;
        let asked = Instant::now();
        let model = tokio::select! {
            biased;
            () = run.cancel.cancelled() => return Err(Failure::cancelled()),
            model = self.models.get(&self.cache, &request.model, run.device) => Arc::new(model?),
        };
        run.usage.loaded_for(asked.elapsed());
        let inputs = request.tensors(&model.inputs, run.segments())?;
        let wanted = request.wanted(&model.outputs)?;
        let began = Instant::now();
        let outputs = model.run(inputs, run.device.as_ref(), &run.cancel, Arc::clone(&model)).await?;
        run.usage.ran_for(began.elapsed());
        written(&model, outputs, &wanted, request.written_as())
    }

    fn batching(&self) -> Option<Batching> {
        Some(Batching { at_once: 2, ..Batching::up_to(LARGEST) })
    }

    /// Only where it is known that payloads of its model leave each other alone: before that, each runs by itself.
    fn takes_part(&self, payload: &Json) -> bool {
        self.model_of(payload).is_some_and(|model| self.models.runs_together(&model))
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        together::run(self, batch).await
    }

    fn about(&self) -> String {
        "runs an ONNX model of the operator's".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::ONNX))
    }

    fn model_of(&self, payload: &Json) -> Option<String> {
        (payload.as_bytes().len() <= JSON_MAX).then(|| payload::model_named(payload))?
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::AsSegments
    }

    fn models(&self) -> Vec<String> {
        self.cache.models_of(SOURCE)
    }

    fn shelf(&self) -> Option<Arc<dyn Shelf>> {
        let shelf: Arc<dyn Shelf> = Arc::<ShelfOf<OnnxModels>>::clone(&self.shelf);
        Some(shelf)
    }

    fn on_change(&self, told: Arc<dyn Fn() + Send + Sync>) {
        self.cache.on_change(told);
    }

    async fn evict(&self, _device: &dyn Device) -> bool {
        self.cache.evict()
    }

    fn is_up(&self) -> Result<(), String> {
        self.cache.is_warm(SOURCE)
    }
}
