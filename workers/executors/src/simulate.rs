//! `simulate`: takes time, memory and compute as its payload says, and computes no more than the sum of tensors. For tests, benchmarks and demonstrations.
//!
//! ```json
//! {"duration_ms": 250, "memory_mb": 2000, "compute_share": 0.5, "fail": {"code": "oops", "message": "as asked", "retry": true}, "result": 42,
//!  "progress_every_ms": 50}
//! ```
//! Every field is optional. A `fail` ends the attempt with that failure after `duration_ms`; else `result` is given back. With `progress_every_ms` it
//! reports that often how far it is, and the number of the step as a part of its output.
//!
//! ```json
//! {"batch_fixed_ms": 10, "batch_item_ms": 0.2, "memory_mb": 20}
//! ```
//! With either of these two in place of `duration_ms` it is a payload of a model that takes many at once: a run of several takes the largest `batch_fixed_ms` of them and the sum of
//! their `batch_item_ms`, needs their memory together, and the largest of their shares of the compute. It reports no progress.
//!
//! ```json
//! {"model": "llama", "model_mb": 16000, "load_ms": 2000, "duration_ms": 50}
//! ```
//! With `model` it is a payload of that model, which is loaded first unless it is (after `load_ms`), and stays in `model_mb` of the GPU's memory until others need it. Both are remembered; a model of
//! which they were never said is as the configuration has it (`models.simulated`), or takes 1,000 MB and no time.
//!
//! ```json
//! {"inputs": [{"tensor": "x"}, {"tensor": "y"}], "add": 1, "duration_ms": 50}
//! ```
//! With `inputs` it has a result of its own: the sum of these tensors, which are of one type and shape, and of `add`. It stays on the GPU where the task has `keep_as`, and is a segment of the result else.

mod models;
mod tensors;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use devices::{Device, Sleeper, Use};
use protocol::{ErrorCode, Framed, Json, Kind, config::SimulatedModel, task::Limits};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    models::{Models, SOURCE, Wanted},
    tensors::{Sum, check_outputs},
};
use crate::{
    Batching, Executor, Failure, InUse, ModelBounds, ModelCache, Report, Run, RunBatch, Shelf, TakesTensors,
    occupy::occupy,
    payload::{self, Fields},
    schemas,
};

/// Most payloads of one run.
const LARGEST: usize = 64;
/// The fields that make a payload one of many.
const OF_MANY: [&str; 2] = ["batch_fixed_ms", "batch_item_ms"];

struct Simulate {
    models: Arc<Models>,
}

/// The executor of the kind `simulate`. A device's [`speed`](devices::Device::speed) at the start scales `duration_ms`, and its
/// [`sleeper`](devices::Device::sleeper) waits for the end. It keeps models in a cache of its own, and therefore serves one GPU wherever payloads have some.
#[must_use]
pub fn simulate() -> Arc<dyn Executor> {
    simulate_keeping(Arc::new(ModelCache::new(ModelBounds::default())), &[])
}

/// The same, which keeps its models in the GPU's cache, and knows some before any payload tells of them.
#[must_use]
pub fn simulate_keeping(cache: Arc<ModelCache>, models: &[SimulatedModel]) -> Arc<dyn Executor> {
    Arc::new(Simulate { models: Models::new(cache, models) })
}

impl Simulate {
    /// The model that a payload wants, loaded; `None` where it wants none.
    async fn load(
        &self,
        wanted: Option<&Wanted>,
        device: &Arc<dyn Device>,
        cancel: &CancellationToken,
    ) -> Result<Option<InUse<SimulatedModel>>, Failure> {
        let Some(wanted) = wanted else { return Ok(None) };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Failure::cancelled()),
            model = self.models.get(wanted, device) => model.map(Some),
        }
    }
}

#[async_trait]
impl Executor for Simulate {
    fn kind(&self) -> Kind {
        Kind::new("simulate").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "takes time, memory and compute as its payload says, and computes no more than the sum of tensors: for tests and measurements"
            .to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::SIMULATE))
    }

    fn result_bytes_min(&self, payload: &Json) -> usize {
        // One that asks for a failure, or is not what it should be, has no result.
        Asked::read(payload).and_then(|asked| asked.end).map_or(0, |result| result.json.as_bytes().len())
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let Asked { model, time, wanted, progress_every, sum, end } = Asked::read(run.payload)?;
        check_outputs(sum.as_ref(), run.tensors.kept_outputs())?;
        let asked = Instant::now();
        let _model = self.load(model.as_ref(), run.device, &run.cancel).await?;
        run.usage.loaded_for(asked.elapsed());
        let _work = occupy(run.device.as_ref(), wanted)?;
        let duration = time.alone().div_f64(run.device.speed());
        let work = async {
            pass(run.device.sleeper(), duration, progress_every, &run.report).await;
            match &sum {
                Some(sum) if end.is_ok() => sum.framed(run.device, &run.tensors).await,
                _ => end,
            }
        };
        tokio::select! {
            biased;
            () = run.cancel.cancelled() => Err(Failure::cancelled()),
            ended = work => ended,
        }
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::OnGpu
    }

    fn batching(&self) -> Option<Batching> {
        Some(Batching::up_to(LARGEST))
    }

    fn takes_part(&self, payload: &Json) -> bool {
        // Most payloads are none of these, and need not be read for that.
        payload.as_str().contains("batch_") && payload.fields().is_ok_and(|fields| OF_MANY.iter().any(|name| fields.contains_key(*name)))
    }

    fn model_of(&self, payload: &Json) -> Option<String> {
        payload::model_named(payload)
    }

    fn models(&self) -> Vec<String> {
        self.models.cache().models_of(SOURCE)
    }

    fn shelf(&self) -> Option<Arc<dyn Shelf>> {
        let shelf: Arc<dyn Shelf> = Arc::<Models>::clone(&self.models);
        Some(shelf)
    }

    fn is_up(&self) -> Result<(), String> {
        self.models.cache().is_warm(SOURCE)
    }

    fn on_change(&self, told: Arc<dyn Fn() + Send + Sync>) {
        self.models.cache().on_change(told);
    }

    async fn evict(&self, _device: &dyn Device) -> bool {
        self.models.cache().evict()
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let asked: Vec<Result<Asked, Failure>> = batch.members.iter().map(|member| Asked::read(member.payload)).collect();
        let came_out = match Together::of(asked.iter().flatten()) {
            Some(together) => self.pass(&together, &asked, &batch).await,
            None => Ok(()),
        };
        asked.into_iter().map(|asked| came_out.clone().and(asked?.end)).collect()
    }
}

impl Simulate {
    /// Loads the models of all of them, each once, and holds the GPU.
    async fn pass(&self, together: &Together, asked: &[Result<Asked, Failure>], batch: &RunBatch<'_>) -> Result<(), Failure> {
        let wanted: BTreeMap<&str, &Wanted> =
            asked.iter().flatten().filter_map(|asked| asked.model.as_ref()).map(|wanted| (wanted.name.as_str(), wanted)).collect();
        let mut loaded = Vec::with_capacity(wanted.len());
        let began = Instant::now();
        for wanted in wanted.into_values() {
            loaded.push(self.load(Some(wanted), batch.device, &batch.cancel).await?);
        }
        let took = began.elapsed();
        batch.members.iter().for_each(|member| member.usage.loaded_for(took));
        together.pass(batch).await
    }
}

/// What payloads ask for that run together.
struct Together {
    fixed: Duration,
    items: Duration,
    wanted: Use,
}

impl Together {
    /// `None` where there are none.
    fn of<'a>(asked: impl Iterator<Item = &'a Asked>) -> Option<Self> {
        asked.map(|asked| Self { fixed: asked.time.fixed, items: asked.time.item, wanted: asked.wanted }).reduce(|one, other| Self {
            fixed: one.fixed.max(other.fixed),
            items: one.items.saturating_add(other.items),
            wanted: Use {
                memory_mb: one.wanted.memory_mb.saturating_add(other.wanted.memory_mb),
                compute_share: one.wanted.compute_share.max(other.wanted.compute_share),
            },
        })
    }

    /// Holds the GPU once for all of them.
    async fn pass(&self, batch: &RunBatch<'_>) -> Result<(), Failure> {
        let _work = occupy(batch.device.as_ref(), self.wanted)?;
        let duration = self.fixed.saturating_add(self.items).div_f64(batch.device.speed());
        tokio::select! {
            biased;
            () = batch.cancel.cancelled() => Err(Failure::cancelled()),
            () = batch.device.sleeper().sleep_until(Instant::now() + duration) => Ok(()),
        }
    }
}

/// Takes its time, and reports at every step of it.
async fn pass(sleeper: Sleeper, duration: Duration, progress_every: Option<Duration>, report: &Report) {
    let started = Instant::now();
    let ends = started + duration;
    for step in 1_u32.. {
        let Some(due) = progress_every.map(|every| started + every.saturating_mul(step)).filter(|due| *due < ends) else { break };
        sleeper.sleep_until(due).await;
        let passed = started.elapsed();
        report.progress(passed.div_duration_f64(duration), &format!("{} of {} ms", passed.as_millis(), duration.as_millis()));
        report.partial(Json::of(&step));
    }
    sleeper.sleep_until(ends).await;
}

/// What the payload asks for.
#[derive(Debug)]
struct Asked {
    model: Option<Wanted>,
    time: Time,
    wanted: Use,
    progress_every: Option<Duration>,
    /// What it gives in the place of `end`, where that is no failure.
    sum: Option<Sum>,
    end: Result<Framed, Failure>,
}

/// How long it takes: of many that run together, what they share and what each adds.
#[derive(Debug, Clone, Copy)]
struct Time {
    fixed: Duration,
    item: Duration,
    is_of_many: bool,
}

impl Time {
    fn read(fields: &mut Fields) -> Result<Self, Failure> {
        let longest = Limits::LONGEST_MS as f64;
        let duration = fields.whole("duration_ms", 0, Limits::LONGEST_MS)?;
        let of_many = [fields.number(OF_MANY[0], 0.0, longest)?, fields.number(OF_MANY[1], 0.0, longest)?];
        if of_many == [None; 2] {
            return Ok(Self { fixed: Duration::from_millis(duration.unwrap_or(0)), item: Duration::ZERO, is_of_many: false });
        }
        if duration.is_some() {
            let message = format!("cannot stand beside {} and {}, which say how long it takes", OF_MANY[0], OF_MANY[1]);
            return Err(Failure::invalid(fields.path("duration_ms"), message));
        }
        let [fixed, item] = of_many.map(|ms| Duration::from_secs_f64(ms.unwrap_or(0.0) / 1e3));
        Ok(Self { fixed, item, is_of_many: true })
    }

    fn alone(self) -> Duration {
        self.fixed.saturating_add(self.item)
    }
}

impl Asked {
    fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let time = Time::read(&mut fields)?;
        let model = Wanted::read(&mut fields)?;
        let memory_mb = fields.whole("memory_mb", 0, 100_000_000)?.unwrap_or(0);
        let compute_share = fields.number("compute_share", 0.0, 1.0)?.unwrap_or(0.1);
        let failure = fields.object("fail")?.map(failure).transpose()?;
        let result = fields.value("result");
        let sum = Sum::read(&mut fields)?;
        if sum.is_some() && (result.is_some() || time.is_of_many) {
            let message = format!("cannot stand beside result, {} and {}", OF_MANY[0], OF_MANY[1]);
            return Err(Failure::invalid(fields.path("inputs"), message));
        }
        let progress_every = fields.whole("progress_every_ms", 1, Limits::LONGEST_MS)?.map(Duration::from_millis);
        fields.finish()?;
        let end = failure.map_or(Ok(result.unwrap_or_default().into()), Err);
        Ok(Self { model, time, wanted: Use { memory_mb, compute_share }, progress_every, sum, end })
    }
}

fn failure(mut fields: Fields) -> Result<Failure, Failure> {
    let failure = Failure {
        code: fields.text("code")?.unwrap_or_else(|| ErrorCode::ExecutorFailed.into()),
        message: fields.text("message")?.unwrap_or_else(|| "the payload asked for a failure".to_owned()),
        retry: fields.flag("retry")?.unwrap_or(false),
        ..Failure::default()
    };
    fields.finish()?;
    Ok(failure)
}

#[cfg(test)]
mod tests;
