//! `classify`: what kind of file some bytes are, by the model magika.
//!
//! ```json
//! {"content": {"$segment": 0}}
//! ```
//! Gives `{"label": "python", "score": 0.99, "mime_type": "text/x-python", …}`; `content` may also be a text. The model sees the first and the last bytes. Its labels and thresholds
//! (`config.json`) and what is known of each label (`content_types.json`) lie beside its file.

mod features;
mod labels;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use devices::Device;
use protocol::{DType, Framed, Json, Kind, SegmentRef, Segments};
use tokio_util::sync::CancellationToken;

use self::{
    features::Features,
    labels::{Labels, Verdict},
};
use super::{
    OnnxError, OnnxModels,
    directory::{ModelFile, Stamp},
    model::OnnxModel,
    session::Tensors,
    source::SOURCE,
    tensor::Tensor,
    together::is_everybodys,
};
use crate::{
    Batching, Executor, Failure, Run, RunBatch,
    models::{InUse, ModelCache, Shelf, ShelfOf},
    payload::Fields,
    schemas,
};

/// The model where none is configured.
const DEFAULT_MODEL: &str = "magika";
/// Most payloads of one run.
const LARGEST: usize = 32;
/// What the model takes and gives.
const INPUT: &str = "bytes";
const OUTPUT: &str = "target_label";

struct Classify {
    models: Arc<OnnxModels>,
    cache: Arc<ModelCache>,
    shelf: Arc<ShelfOf<OnnxModels>>,
    name: String,
    labels: Mutex<(Stamp, Arc<Labels>)>,
}

/// The executor of the kind `classify`, on the model of that name; `None`: `DEFAULT_MODEL`.
///
/// # Errors
/// The model is not in the folder, or what belongs to it cannot be read.
pub async fn classify(models: Arc<OnnxModels>, cache: Arc<ModelCache>, name: Option<String>) -> Result<Arc<dyn Executor>, OnnxError> {
    let name = name.unwrap_or_else(|| DEFAULT_MODEL.to_owned());
    let file = models.find(&name).await?;
    let stamp = file.stamp;
    let labels = labels_of(file).await?;
    let shelf = Arc::new(ShelfOf::new(Arc::clone(&cache), Arc::clone(&models)));
    Ok(Arc::new(Classify { models, cache, shelf, name, labels: Mutex::new((stamp, labels)) }))
}

async fn labels_of(file: ModelFile) -> Result<Arc<Labels>, OnnxError> {
    let path = file.path.clone();
    let loading = tokio::task::spawn_blocking(move || Labels::load(&file)).await;
    loading.unwrap_or_else(|_| Err(OnnxError::unreadable(&path, &"reading its labels crashed"))).map(Arc::new)
}

impl Classify {
    async fn model(&self, device: &Arc<dyn Device>, cancel: &CancellationToken) -> Result<(Arc<InUse<OnnxModel>>, Arc<Labels>), Failure> {
        let model = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Failure::cancelled()),
            model = self.models.get(&self.cache, &self.name, device) => Arc::new(model?),
        };
        let known = {
            let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
            (labels.0 == model.stamp()).then(|| Arc::clone(&labels.1))
        };
        if let Some(labels) = known {
            return Ok((model, labels));
        }
        let labels = labels_of(model.file.clone()).await.map_err(|error| error.failure())?;
        *self.labels.lock().unwrap_or_else(PoisonError::into_inner) = (model.stamp(), Arc::clone(&labels));
        Ok((model, labels))
    }

    /// The label of each content, in their order.
    async fn labelled(&self, contents: &[Vec<u8>], device: &Arc<dyn Device>, cancel: &CancellationToken) -> Result<Vec<Framed>, Failure> {
        let (model, labels) = self.model(device, cancel).await?;
        let features: Vec<Features> = contents.iter().map(|content| labels.features(content)).collect();
        let rows: Vec<&[i32]> = features.iter().filter_map(Features::row).collect();
        let together = if model.axis.is_some() { rows.len().max(1) } else { 1 };
        let mut scores = Vec::with_capacity(rows.len());
        for rows in rows.chunks(together) {
            let answer = model.run(inputs(rows), device.as_ref(), cancel, Arc::clone(&model)).await?;
            scores.extend(labels.scores(&answer, rows.len()).map_err(|why| wrong(&model, &why))?);
        }
        let mut scores = scores.into_iter();
        let verdicts = features.iter().map(|features| match features {
            Features::Known(label) => Ok(Verdict::certain(label)),
            Features::Row(_) => scores.next().map(|scores| labels.verdict(&scores)).ok_or_else(|| wrong(&model, "gave too few rows")),
        });
        verdicts.map(|verdict| verdict.map(|verdict| labels.written(&verdict, &model))).collect()
    }

    async fn answer(&self, content: Vec<u8>, device: &Arc<dyn Device>, cancel: &CancellationToken) -> Result<Framed, Failure> {
        let labelled = self.labelled(&[content], device, cancel).await?;
        labelled.into_iter().next().ok_or_else(|| Failure::transient("the run gave no answer"))
    }

    /// After they failed together: only the one that did it fails.
    async fn one_by_one(&self, contents: Vec<Result<Vec<u8>, Failure>>, batch: &RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let mut answers = Vec::with_capacity(contents.len());
        for (content, member) in contents.into_iter().zip(&batch.members) {
            answers.push(match content {
                Ok(content) => self.answer(content, batch.device, &member.cancel).await,
                Err(failure) => Err(failure),
            });
        }
        answers
    }
}

fn wrong(model: &OnnxModel, why: &str) -> Failure {
    Failure { retry: false, ..Failure::transient(format!("model {} is none for `classify`: it {why}", model.file.name)) }
}

fn inputs(rows: &[&[i32]]) -> Tensors {
    let shape = vec![rows.len(), rows.first().map_or(0, |row| row.len())];
    let bytes: Vec<u8> = rows.iter().copied().flatten().flat_map(|number| number.to_le_bytes()).collect();
    Tensors::from([(INPUT.to_owned(), Tensor::numbers(DType::I32, shape, bytes))])
}

/// The bytes that a payload asks about.
fn content(payload: &Json, segments: &Segments) -> Result<Vec<u8>, Failure> {
    const FIELD: &str = "payload.content";
    let mut fields = Fields::of_payload(payload)?;
    let content = fields.value("content").ok_or_else(|| Failure::invalid(FIELD, "is missing"))?;
    fields.finish()?;
    if let Some(reference) = SegmentRef::read(&content) {
        // The first and the last bytes are what counts: the rest is not copied.
        return reference.of(segments).map(|bytes| features::ends(bytes)).map_err(|why| Failure::invalid(FIELD, why));
    }
    let text: Option<String> = content.to().ok();
    text.map(String::into_bytes).ok_or_else(|| Failure::invalid(FIELD, format!("must be a segment or a text, not {}", content.in_brief())))
}

#[async_trait]
impl Executor for Classify {
    fn kind(&self) -> Kind {
        Kind::new("classify").expect("a literal that keeps the rule")
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let content = content(run.payload, run.segments())?;
        self.answer(content, run.device, &run.cancel).await
    }

    fn batching(&self) -> Option<Batching> {
        Some(Batching { at_once: 2, ..Batching::up_to(LARGEST) })
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let contents: Vec<Result<Vec<u8>, Failure>> = batch
            .members
            .iter()
            .map(|member| if member.cancel.is_cancelled() { Err(Failure::cancelled()) } else { content(member.payload, member.segments()) })
            .collect();
        let right: Vec<Vec<u8>> = contents.iter().flatten().cloned().collect();
        let mut labelled = match self.labelled(&right, batch.device, &batch.cancel).await {
            Ok(labelled) => labelled.into_iter(),
            Err(failure) if right.len() > 1 && !is_everybodys(&failure) => return self.one_by_one(contents, &batch).await,
            Err(failure) => return contents.into_iter().map(|content| content.and_then(|_| Err(failure.clone()))).collect(),
        };
        let answers = contents.into_iter().zip(&batch.members).map(|(content, member)| {
            content?;
            member.usage.ran_together(right.len());
            labelled.next().ok_or_else(|| Failure::transient("the run gave no answer for it"))
        });
        answers.collect()
    }

    fn about(&self) -> String {
        format!("says what kind of file some bytes are, with {}", self.name)
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::CLASSIFY))
    }

    fn is_up(&self) -> Result<(), String> {
        // A pinned model that this kind does not use may be broken.
        self.cache.is_model_warm(SOURCE, &self.name)?;
        self.models.is_up(&self.name)
    }

    fn model_of(&self, _payload: &Json) -> Option<String> {
        Some(self.name.clone())
    }

    fn models(&self) -> Vec<String> {
        self.cache.models_of(SOURCE).into_iter().filter(|name| *name == self.name).collect()
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
}
