//! `embed`: texts to vectors. Texts whose meaning is near have vectors whose product is near 1.
//!
//! ```json
//! {"text": "a cat"}
//! ```
//! Gives `{"embedding": [0.05, …], "dimensions": 384, "model": "all-MiniLM-L6-v2", …}`. A list of texts gives `embeddings`, a list of vectors; `"as": "segment"` gives the numbers as raw bytes.
//! The model's words (`tokenizer.json`) lie beside its file. Its answers for each word are averaged, and the vector has the length 1.

mod pooling;
mod request;
mod vectors;
mod words;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use devices::Device;
use protocol::{Framed, Json, Kind};
use tokio_util::sync::CancellationToken;

use self::{
    request::Request,
    vectors::{Vectors, vectors},
    words::Words,
};
use super::{OnnxError, OnnxModels, directory::Stamp, model::OnnxModel, source::SOURCE, together::is_everybodys};
use crate::{
    Batching, Executor, Failure, Run, RunBatch,
    models::{InUse, ModelCache, Shelf, ShelfOf},
    schemas,
};

/// The model where none is configured.
const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";
/// Most payloads of one run.
const LARGEST: usize = 32;

struct Embed {
    models: Arc<OnnxModels>,
    cache: Arc<ModelCache>,
    shelf: Arc<ShelfOf<OnnxModels>>,
    name: String,
    /// The words of the file that was loaded last, and whether its padding was found to change nothing.
    words: Mutex<Option<(Stamp, Arc<Words>)>>,
}

/// The executor of the kind `embed`, on the model of that name; `None`: `DEFAULT_MODEL`.
///
/// # Errors
/// The model is not in the folder, or its words cannot be read.
pub async fn embed(models: Arc<OnnxModels>, cache: Arc<ModelCache>, name: Option<String>) -> Result<Arc<dyn Executor>, OnnxError> {
    let name = name.unwrap_or_else(|| DEFAULT_MODEL.to_owned());
    let file = models.find(&name).await?;
    let words = Words::load(file.beside("tokenizer.json")).await?;
    let shelf = Arc::new(ShelfOf::new(Arc::clone(&cache), Arc::clone(&models)));
    Ok(Arc::new(Embed { models, cache, shelf, name, words: Mutex::new(Some((file.stamp, words))) }))
}

impl Embed {
    async fn model(&self, device: &Arc<dyn Device>, cancel: &CancellationToken) -> Result<(Arc<InUse<OnnxModel>>, Arc<Words>), Failure> {
        let model = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Failure::cancelled()),
            model = self.models.get(&self.cache, &self.name, device) => Arc::new(model?),
        };
        let known = {
            let known = self.words.lock().unwrap_or_else(PoisonError::into_inner);
            known.as_ref().filter(|(stamp, _)| *stamp == model.stamp()).map(|(_, words)| Arc::clone(words))
        };
        if let Some(words) = known {
            return Ok((model, words));
        }
        let words = Words::load(model.file.beside("tokenizer.json")).await.map_err(|error| error.failure())?;
        *self.words.lock().unwrap_or_else(PoisonError::into_inner) = Some((model.stamp(), Arc::clone(&words)));
        Ok((model, words))
    }

    /// The vectors of all texts, in their order.
    async fn vectors(
        &self,
        texts: Vec<String>,
        device: &Arc<dyn Device>,
        cancel: &CancellationToken,
    ) -> Result<(Arc<InUse<OnnxModel>>, Vectors), Failure> {
        let (model, words) = self.model(device, cancel).await?;
        let read = words.read(texts).await?;
        let vectors = vectors(&model, &words, read, (device, cancel)).await?;
        Ok((model, vectors))
    }

    async fn answer(&self, request: &Request, device: &Arc<dyn Device>, cancel: &CancellationToken) -> Result<Framed, Failure> {
        let (model, vectors) = self.vectors(request.texts.clone(), device, cancel).await?;
        Ok(request.written(&model, vectors))
    }

    /// After they failed together: only the one that did it fails.
    async fn one_by_one(&self, requests: Vec<Result<Request, Failure>>, batch: &RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let mut answers = Vec::with_capacity(requests.len());
        for (request, member) in requests.into_iter().zip(&batch.members) {
            answers.push(match request {
                Ok(request) => self.answer(&request, batch.device, &member.cancel).await,
                Err(failure) => Err(failure),
            });
        }
        answers
    }
}

#[async_trait]
impl Executor for Embed {
    fn kind(&self) -> Kind {
        Kind::new("embed").expect("a literal that keeps the rule")
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let request = Request::read(run.payload)?;
        self.answer(&request, run.device, &run.cancel).await
    }

    fn batching(&self) -> Option<Batching> {
        Some(Batching { at_once: 2, ..Batching::up_to(LARGEST) })
    }

    /// All texts of all payloads are one run's.
    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let requests: Vec<Result<Request, Failure>> = batch
            .members
            .iter()
            .map(|member| if member.cancel.is_cancelled() { Err(Failure::cancelled()) } else { Request::read(member.payload) })
            .collect();
        let texts = requests.iter().flatten().flat_map(|request| request.texts.iter().cloned()).collect();
        let together = requests.iter().flatten().count();
        let came_out = self.vectors(texts, batch.device, &batch.cancel).await;
        let (model, mut vectors) = match came_out {
            Ok(came_out) => came_out,
            Err(failure) if together > 1 && !is_everybodys(&failure) => return self.one_by_one(requests, &batch).await,
            Err(failure) => return requests.into_iter().map(|request| request.and_then(|_| Err(failure.clone()))).collect(),
        };
        let answers = requests.into_iter().zip(&batch.members).map(|(request, member)| {
            let request = request?;
            member.usage.ran_together(together);
            let own = vectors.take_first(request.texts.len());
            Ok(request.written(&model, own))
        });
        answers.collect()
    }

    fn about(&self) -> String {
        format!("makes vectors of texts with {}: near meanings have near vectors", self.name)
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::EMBED))
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
