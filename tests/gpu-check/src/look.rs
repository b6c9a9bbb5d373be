//! Which GPU is checked, and what this machine has for it. Asked in a process of its own: the driver may hang at the first question.

use std::time::Duration;

use devices::nvidia::{Found, Host, libraries};
use protocol::{GpuId, gpu_named};
use serde_json::{Value, json};

use crate::Fault;

pub const ARGUMENT: &str = "--look";
pub const LIMIT: Duration = Duration::from_secs(90);

/// What was found.
pub struct Looked {
    pub gpu_id: Result<GpuId, String>,
    /// Whatever else is known, for people.
    pub lines: Vec<String>,
    /// GPUs that answer.
    pub gpus: u64,
}

impl Looked {
    pub fn of(answer: Result<Value, Fault>) -> Self {
        let answer = answer.unwrap_or_else(|fault| json!({"problem": format!("look for GPUs: {fault}")}));
        let problem = || answer["problem"].as_str().unwrap_or("no GPU was found").to_owned();
        let gpu_id = answer["gpu_id"].as_str().ok_or_else(problem).and_then(|id| GpuId::new(id).map_err(|error| error.to_string()));
        let lines = answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        Self { gpu_id, lines, gpus: answer["gpus"].as_u64().unwrap_or(0) }
    }
}

/// Looks. The answer is what [`Looked::of`] reads.
pub async fn look() -> Value {
    match tokio::task::spawn_blocking(looking).await {
        Ok(answer) => answer,
        Err(error) => json!({"problem": error.to_string()}),
    }
}

fn looking() -> Value {
    let found = libraries::look().into_iter();
    let mut lines: Vec<String> =
        found.map(|library| format!("{}: {}", library.name, library.state.unwrap_or_else(|problem| problem))).collect();
    match gpus() {
        Ok((gpu, gpus, lost)) => {
            lines.insert(0, described(&gpu));
            lines.extend(lost);
            json!({"gpu_id": gpu.description.gpu_id, "gpus": gpus, "lines": lines})
        }
        Err(fault) => json!({"problem": fault.to_string(), "lines": lines}),
    }
}

fn described(gpu: &Found) -> String {
    let description = &gpu.description;
    let capability = String::from(description.compute_capability);
    format!("GPU: {}, {} MB, compute capability {capability}, {}", description.name, description.memory_total_mb, description.gpu_id)
}

/// The GPU to check, how many there are, and which do not answer.
fn gpus() -> Result<(Found, usize, Vec<String>), Fault> {
    let (gpus, lost) = Host::open()?.gpus()?;
    let lost = lost.iter().map(|error| format!("left out: {error}")).collect();
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let by_bus = std::env::var("CUDA_DEVICE_ORDER").is_ok_and(|order| order == "PCI_BUS_ID");
    Ok((chosen(&gpus, visible.as_deref(), by_bus)?.clone(), gpus.len(), lost))
}

/// The first one that `CUDA_VISIBLE_DEVICES` allows: on a shared host the others belong to somebody else.
fn chosen<'a>(gpus: &'a [Found], visible: Option<&str>, by_bus: bool) -> Result<&'a Found, Fault> {
    let Some(visible) = visible else {
        return Ok(gpus.first().ok_or("no GPU answers: these checks need one")?);
    };
    let first = visible.split(',').next().unwrap_or_default().trim();
    let alike = gpus.windows(2).all(|two| two[0].description.name == two[1].description.name);
    if !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit()) && !alike && !by_bus {
        let why = "the GPUs of this host differ, and CUDA numbers them in an order of its own: name one by UUID, or set CUDA_DEVICE_ORDER=PCI_BUS_ID";
        return Err(format!("CUDA_VISIBLE_DEVICES={visible}: {why}").into());
    }
    let ids: Vec<GpuId> = gpus.iter().map(|found| found.description.gpu_id.clone()).collect();
    let id = gpu_named(first, &ids).map_err(|error| format!("CUDA_VISIBLE_DEVICES={visible}: {error}"))?;
    Ok(gpus.iter().find(|found| found.description.gpu_id == *id).ok_or("it is gone")?)
}
