//! `simulate`: takes time, memory and compute as its payload says, and computes nothing. For tests, benchmarks and demonstrations.
//!
//! ```json
//! {"duration_ms": 250, "memory_mb": 2000, "compute_share": 0.5, "fail": {"code": "oops", "message": "as asked", "retry": true}, "result": 42,
//!  "progress_every_ms": 50}
//! ```
//! Every field is optional. A `fail` ends the attempt with that failure after `duration_ms`; else `result` is given back. With `progress_every_ms` it
//! reports that often how far it is, and the number of the step as a part of its output.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use devices::{Sleeper, Use};
use protocol::{ErrorCode, Json, Kind, task::Limits};
use tokio::time::Instant;

use crate::{Executor, Failure, Report, Run, occupy::occupy, payload::Fields};

struct Simulate;

/// The executor of the kind `simulate`. A device's [`speed`](devices::Device::speed) at the start scales `duration_ms`, and its
/// [`sleeper`](devices::Device::sleeper) waits for the end.
#[must_use]
pub fn simulate() -> Arc<dyn Executor> {
    Arc::new(Simulate)
}

#[async_trait]
impl Executor for Simulate {
    fn kind(&self) -> Kind {
        Kind::new("simulate").expect("a literal that keeps the rule")
    }

    async fn run(&self, run: Run<'_>) -> Result<Json, Failure> {
        let asked = Asked::read(run.payload)?;
        let _work = occupy(run.device.as_ref(), asked.wanted)?;
        let duration = asked.duration.div_f64(run.device.speed());
        tokio::select! {
            biased;
            () = run.cancel.cancelled() => return Err(Failure::cancelled()),
            () = pass(run.device.sleeper(), duration, asked.progress_every, &run.report) => {}
        }
        asked.end
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
struct Asked {
    duration: Duration,
    wanted: Use,
    progress_every: Option<Duration>,
    end: Result<Json, Failure>,
}

impl Asked {
    fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let duration = Duration::from_millis(fields.whole("duration_ms", 0, Limits::LONGEST_MS)?.unwrap_or(0));
        let memory_mb = fields.whole("memory_mb", 0, 100_000_000)?.unwrap_or(0);
        let compute_share = fields.number("compute_share", 0.0, 1.0)?.unwrap_or(0.1);
        let failure = fields.object("fail")?.map(failure).transpose()?;
        let result = fields.value("result").unwrap_or_default();
        let progress_every = fields.whole("progress_every_ms", 1, Limits::LONGEST_MS)?.map(Duration::from_millis);
        fields.finish()?;
        Ok(Self { duration, wanted: Use { memory_mb, compute_share }, progress_every, end: failure.map_or(Ok(result), Err) })
    }
}

fn failure(mut fields: Fields) -> Result<Failure, Failure> {
    let failure = Failure {
        code: fields.text("code")?.unwrap_or_else(|| ErrorCode::ExecutorFailed.into()),
        message: fields.text("message")?.unwrap_or_else(|| "the payload asked for a failure".to_owned()),
        field: None,
        retry: fields.flag("retry")?.unwrap_or(false),
        memory_mb: None,
    };
    fields.finish()?;
    Ok(failure)
}

#[cfg(test)]
mod tests;
