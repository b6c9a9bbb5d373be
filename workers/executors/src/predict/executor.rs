//! The executor of the kind `predict`.

use std::{
    sync::{Arc, LazyLock},
    thread,
};

use async_trait::async_trait;
use devices::Use;
use protocol::{Framed, Json, Kind, config::PredictSection};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::{GenerateError, Generated, Model, PredictError, Request, Watch, registry};
use crate::{Executor, Failure, Report, Run, occupy::occupy, schemas};

/// Text generation. Each run computes on an OS thread of its own, at most [`Predict::RUNS_AT_ONCE`] at a time in the process; the others wait
/// in the order in which they came.
pub struct Predict {
    model: Arc<Model>,
    limits: PredictSection,
}

/// Of the process and not of an executor: what the runs compete for is its cores.
static PERMITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(Predict::RUNS_AT_ONCE)));

impl Predict {
    /// How many runs compute at once. One run already spreads its matrix products over all cores; a second fills the gaps between them.
    pub const RUNS_AT_ONCE: usize = 2;

    /// Loads the configured model, off the async runtime. A model that this process has in memory is shared, not loaded again.
    ///
    /// # Errors
    /// [`PredictError`] says which file, what is wrong and what to do.
    pub async fn load(section: &PredictSection) -> Result<Arc<dyn Executor>, PredictError> {
        let path = section.model.clone().ok_or(PredictError::NoModel)?;
        let began = tokio::time::Instant::now();
        let loading = tokio::task::spawn_blocking({
            let path = path.clone();
            move || registry::model(&path)
        });
        let model = loading.await.map_err(|_| PredictError::Crashed { path })??;
        tracing::info!(
            model = model.name(),
            context_tokens = model.context(),
            load_ms = began.elapsed().as_millis() as u64,
            "model loaded"
        );
        Ok(Arc::new(Self { model, limits: section.clone() }))
    }

    /// What the run takes of the GPU: its keys and values, and all of the compute. The weights are loaded once and belong to no attempt.
    fn wanted(&self, request: &Request) -> Use {
        let tokens = (request.text.len() + request.max_length as usize).min(self.model.context());
        Use { memory_mb: self.model.run_bytes(tokens).div_ceil(1_000_000) as u64, compute_share: 1.0 }
    }

    fn result(&self, generated: &Generated) -> Json {
        Json::of(&json!({
            "text": generated.text,
            "tokens": generated.tokens.len(),
            "finish_reason": generated.finish_reason.name(),
            "model": self.model.name(),
        }))
    }
}

#[async_trait]
impl Executor for Predict {
    fn kind(&self) -> Kind {
        Kind::new("predict").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        format!("continues a text, with the model {}", self.model.name())
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::predict(self.limits.max_length_max))
    }

    /// A cancel gives what was generated until then, perhaps nothing, with `finish_reason` `cancelled`. Dropping the future stops the thread at its next token.
    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let request = Request::read(run.payload, &self.limits)?;
        let stop = run.cancel.child_token();
        let _stop_if_dropped = stop.clone().drop_guard();
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(self.result(&Generated::cancelled_before_it_began()).into()),
            permit = PERMITS.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let _work = occupy(run.device.as_ref(), self.wanted(&request))?;
        let watch = Reporting { stop, report: run.report.clone(), tokens: 0, tokens_max: request.max_length };
        let generated = on_own_thread(self.model.clone(), request, watch, permit).await?;
        Ok(self.result(&generated).into())
    }

    fn models(&self) -> Vec<String> {
        vec![self.model.name().to_owned()]
    }
}

/// Generates on a new thread, which holds the permit until it really ends.
async fn on_own_thread(
    model: Arc<Model>,
    request: Request,
    mut watch: Reporting,
    permit: OwnedSemaphorePermit,
) -> Result<Generated, Failure> {
    let (answer, answered) = oneshot::channel();
    let computing = move || {
        let _permit = permit;
        // Nobody listens where the run was dropped.
        let _ = answer.send(model.generate(&request, &mut watch));
    };
    thread::Builder::new()
        .name("predict".to_owned())
        .spawn(computing)
        .map_err(|error| Failure::transient(format!("no thread to compute on: {error}")))?;
    match answered.await {
        Ok(Ok(generated)) => Ok(generated),
        Ok(Err(error @ GenerateError::PromptTooLong { .. })) => Err(Failure::invalid("payload.text", error.to_string())),
        Ok(Err(error)) => Err(Failure { retry: false, ..Failure::transient(described(&error)) }),
        Err(_) => Err(Failure::transient("the computing thread crashed")),
    }
}

fn described(error: &GenerateError) -> String {
    match std::error::Error::source(error) {
        None => error.to_string(),
        Some(source) => format!("{error}: {source}"),
    }
}

/// Stops between two tokens, and reports how far the text is and the text itself.
struct Reporting {
    stop: CancellationToken,
    report: Report,
    tokens: u32,
    tokens_max: u32,
}

impl Watch for Reporting {
    fn goes_on(&mut self) -> bool {
        !self.stop.is_cancelled()
    }

    fn token(&mut self, _token: u32) {
        self.tokens += 1;
        self.report.progress(f64::from(self.tokens) / f64::from(self.tokens_max), "");
    }

    fn wants_text(&self) -> bool {
        self.report.wants_partials()
    }

    fn text(&mut self, piece: &str) {
        self.report.partial(Json::of(piece));
    }
}
