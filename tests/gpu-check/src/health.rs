//! The way of a GPU out of the pool and back in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use devices::{SimulatedGpu, SimulatedOptions};
use executors::{Executor, Failure, Run};
use protocol::{GpuId, Health, Kind, Outcome, gpu::GpuView};
use serde_json::Value;

use crate::{
    Fault,
    bench::Bench,
    finding::{Checked, Finding},
    fleet::{Fleet, Plan, once_on, task},
    work::modules,
};

/// So many different tasks in a row that fail take a GPU out.
const FAILURES: u32 = 3;
const QUARANTINE: Duration = Duration::from_millis(500);

/// An executor whose every attempt fails in a way that may be the GPU's fault.
struct Fails;

impl Fails {
    const KIND: &str = "fails";
}

#[async_trait]
impl Executor for Fails {
    fn kind(&self) -> Kind {
        Kind::new(Self::KIND).expect("a literal that keeps the rule")
    }

    async fn run(&self, _run: Run<'_>) -> Result<protocol::Framed, Failure> {
        Err(Failure::transient("it fails here"))
    }
}

fn health_of(rows: &[GpuView], gpu_id: &GpuId) -> Option<Health> {
    rows.iter().find(|view| view.row.gpu.gpu_id == *gpu_id).map(|view| view.row.health)
}

pub async fn quarantine(bench: &Bench) -> Finding {
    let modules = modules()?;
    let mut plan = Plan::of(Arc::new(bench.open().await?), modules.path());
    // A GPU is taken out for its failures only where another one can take over.
    plan.devices.push(Arc::new(SimulatedGpu::new(SimulatedOptions::default())));
    plan.executors = plan.executors.with(Arc::new(Fails));
    plan.configuration.worker.failures_to_quarantine = FAILURES;
    plan.configuration.worker.quarantine_ms = QUARANTINE.as_millis() as u64;
    let fleet = Fleet::of(plan).await?;
    let on = |health: Health| move |rows: &[GpuView]| health_of(rows, &bench.gpu_id) == Some(health);
    for _ in 0..FAILURES {
        let failed = fleet.reply_to(once_on(&bench.gpu_id, task(Fails::KIND, Value::Null)?)).await?;
        if failed.outcome != Outcome::Failed || failed.gpu_id.as_ref() != Some(&bench.gpu_id) {
            return Err(format!("expected a failure on this GPU: {failed:?}").into());
        }
    }
    let started = Instant::now();
    fleet.until("the GPU is quarantined", on(Health::Quarantined)).await?;
    let rows = fleet.until("its canary passes and it is re-admitted", on(Health::Suspect)).await?;
    let out = started.elapsed().as_secs_f64();
    let reason = rows.iter().find(|view| view.row.gpu.gpu_id == bench.gpu_id).map(|view| view.row.health_reason.clone());
    works(bench, &fleet).await?;
    fleet.until("the GPU is healthy again", on(Health::Healthy)).await?;
    fleet.end().await?;
    let reason = reason.unwrap_or_default();
    Ok(Checked::Passed(format!(
        "after {FAILURES} failing tasks it was out for {out:.1} s, until its canary passed ({reason}), and healthy after 5 successes; a simulated GPU stood by"
    )))
}

/// As many successes as make it healthy.
async fn works(bench: &Bench, fleet: &Fleet) -> Result<(), Fault> {
    for number in 0..5 {
        let reply = fleet.reply_to(once_on(&bench.gpu_id, task("echo", number.into())?)).await?;
        if reply.outcome != Outcome::Succeeded {
            return Err(format!("re-admitted, it does not work: {reply:?}").into());
        }
    }
    Ok(())
}
