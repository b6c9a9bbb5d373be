//! The executor of the kind `predict`.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use devices::Use;
use protocol::{Framed, Json, Kind, config::PredictSection};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    GenerateError, Generated, PredictError, Request, Watch,
    engine::{Answer, Engine, TEXTS_AT_ONCE},
    registry,
};
use crate::{Executor, Failure, Report, Run, occupy::occupy, schemas};

/// Text generation. The runs that are in hand in this process are generated together, at most [`Predict::RUNS_AT_ONCE`] on one model; the others wait in the order in which they came.
pub struct Predict {
    engine: Arc<Engine>,
    limits: PredictSection,
}

impl Predict {
    /// How many texts a model generates together.
    pub const RUNS_AT_ONCE: usize = TEXTS_AT_ONCE;

    /// Loads the configured model, off the async runtime. A model that this process has in memory is shared, not loaded again.
    ///
    /// # Errors
    /// [`PredictError`] says which file, what is wrong and what to do.
    pub async fn load(section: &PredictSection) -> Result<Arc<dyn Executor>, PredictError> {
        let path = section.model.clone().ok_or(PredictError::NoModel)?;
        Self::of(Some(path), section).await
    }

    /// With the small model that is part of the program: enough to try things out, too small to be of use.
    ///
    /// # Errors
    /// Only where the program was built with another file in its place.
    pub async fn built_in(section: &PredictSection) -> Result<Arc<dyn Executor>, PredictError> {
        Self::of(None, section).await
    }

    async fn of(path: Option<PathBuf>, section: &PredictSection) -> Result<Arc<dyn Executor>, PredictError> {
        let began = tokio::time::Instant::now();
        let loading = tokio::task::spawn_blocking({
            let path = path.clone();
            move || registry::engine(path.as_deref())
        });
        let engine = loading.await.map_err(|_| PredictError::Crashed { path: path.unwrap_or_else(|| "tiny".into()) })??;
        let model = engine.model();
        tracing::info!(
            model = model.name(),
            context_tokens = model.context(),
            load_ms = began.elapsed().as_millis() as u64,
            "model loaded"
        );
        Ok(Arc::new(Self { engine, limits: section.clone() }))
    }

    /// What the run takes of the GPU: its keys and values, and all of the compute. The weights are loaded once and belong to no attempt.
    fn wanted(&self, request: &Request) -> Use {
        let model = self.engine.model();
        let tokens = (request.text.len() + request.max_length as usize).min(model.context());
        Use { memory_mb: model.run_bytes(tokens).div_ceil(1_000_000) as u64, compute_share: 1.0 }
    }

    fn result(&self, generated: &Generated) -> Json {
        Json::of(&json!({
            "text": generated.text,
            "tokens": generated.tokens.len(),
            "finish_reason": generated.finish_reason.name(),
            "model": self.engine.model().name(),
        }))
    }
}

#[async_trait]
impl Executor for Predict {
    fn kind(&self) -> Kind {
        Kind::new("predict").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        format!(
            "continues a text, with the model {} on the CPU; texts that are there at once are generated together",
            self.engine.model().name()
        )
    }

    /// Each run stays a run of its own: its text joins the others between two tokens.
    fn together_max(&self) -> Option<usize> {
        Some(TEXTS_AT_ONCE)
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::predict(self.limits.max_length_max))
    }

    /// A cancel gives what was generated until then, perhaps nothing, with `finish_reason` `cancelled`. Dropping the future ends the text before its next token.
    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let request = Request::read(run.payload, &self.limits)?;
        let stop = run.cancel.child_token();
        let _stop_if_dropped = stop.clone().drop_guard();
        let _work = occupy(run.device.as_ref(), self.wanted(&request))?;
        let watch = Reporting { stop, report: run.report.clone(), tokens: 0, tokens_max: request.max_length };
        let answered = self.engine.submit(request, Box::new(watch));
        let answered = answered.map_err(|error| Failure::transient(format!("no thread to compute on: {error}")))?;
        match answered.await {
            Ok(answer) => generated(answer).map(|generated| self.result(&generated).into()),
            Err(_) => Err(Failure::transient("the computing thread crashed")),
        }
    }

    fn models(&self) -> Vec<String> {
        vec![self.engine.model().name().to_owned()]
    }
}

fn generated(answer: Answer) -> Result<Generated, Failure> {
    answer.map_err(|error| match error {
        GenerateError::PromptTooLong { .. } => Failure::invalid("payload.text", error.to_string()),
        GenerateError::Tokenize(_) => Failure { retry: false, ..Failure::transient(error.to_string()) },
    })
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
