//! `gpufleet gpus`: the GPUs of the pool, or one of them.

mod one;

use std::{process::ExitCode, time::Duration};

use protocol::{GpuId, NamingError, gpu::GpuView, gpu_named, task::ComputeCapability};

pub(crate) use self::one::way;
use crate::{
    arguments::{Common, Gpus},
    configuration,
    fault::Fault,
    output,
    servers::Servers,
};

/// Between two looks of `--watch`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const HEADER: [&str; 14] =
    ["#", "GPU", "NAME", "CC", "HOST", "STATE", "SLOTS", "WAITING", "MEMORY MB", "UTIL %", "TEMP °C", "POWER W", "CLOCK MHZ", "AGE MS"];

/// Shows the GPUs of the pool, once or until it is interrupted.
pub(crate) async fn run(common: &Common, gpus: &Gpus) -> Result<ExitCode, Fault> {
    let servers = Servers::redis_of_a_running_fleet(configuration::load(common, &[])?)?;
    if !gpus.watch {
        output::line(&look(common, &servers, gpus.gpu.as_deref()).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut looked = Ok(look(common, &servers, gpus.gpu.as_deref()).await?);
    loop {
        // A server or a GPU that is away for a while is told, and ends nothing.
        match looked {
            Ok(text) if output::page(&text).is_err() => return Ok(ExitCode::SUCCESS),
            Ok(_) => {}
            Err(Fault::Unavailable(away) | Fault::NotFound(away)) => output::note(&away),
            Err(fault) => return Err(fault),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        looked = look(common, &servers, gpus.gpu.as_deref()).await;
    }
}

async fn look(common: &Common, servers: &Servers, name: Option<&str>) -> Result<String, Fault> {
    let pool = &servers.configuration().worker.pool;
    let rows = servers.table().await?.rows(pool).await?;
    if let Some(name) = name {
        let ids: Vec<GpuId> = rows.iter().map(|view| view.row.gpu.gpu_id.clone()).collect();
        let wanted = gpu_named(name, &ids).map_err(|error| match error {
            several @ NamingError::Several { .. } => Fault::Usage(several.to_string()),
            none => Fault::NotFound(none.to_string()),
        })?;
        let found = rows.iter().enumerate().find(|(_, view)| view.row.gpu.gpu_id == *wanted);
        let (number, view) = found.ok_or_else(|| Fault::NotFound(format!("GPU {wanted} is gone")))?;
        return Ok(if common.json { output::json_text(view) } else { one::described(number, view) });
    }
    Ok(match rows.as_slice() {
        rows if common.json => output::json_text(&rows),
        [] => format!("no GPU serves the pool {pool}; start one with `gpufleet worker`"),
        rows => output::table_text(&HEADER, &rows.iter().enumerate().map(row).collect::<Vec<_>>()),
    })
}

fn row((number, view): (usize, &GpuView)) -> Vec<String> {
    let GpuView { row, held, .. } = view;
    let sample = &row.sample;
    vec![
        number.to_string(),
        row.gpu.gpu_id.to_string(),
        row.gpu.name.clone(),
        capability(row.gpu.compute_capability),
        row.host.clone(),
        state(view),
        format!("{held}/{}", row.slots),
        row.waiting.to_string(),
        format!("{}/{}", sample.memory_used_mb, row.gpu.memory_total_mb),
        format!("{:.0}", sample.utilization_percent),
        format!("{:.0}", sample.temperature_celsius),
        format!("{:.0}", sample.power_watts),
        format!("{:.0}", sample.sm_clock_mhz),
        sample.age_ms.to_string(),
    ]
}

/// The GPU that an operator named: its id, the beginning of it, or its number in the list that [`run`] shows. A whole id need not be of a GPU that lives.
pub(crate) async fn named(servers: &Servers, name: &str) -> Result<GpuId, Fault> {
    let rows = servers.table().await?.rows(&servers.configuration().worker.pool).await?;
    let ids: Vec<GpuId> = rows.into_iter().map(|view| view.row.gpu.gpu_id).collect();
    match gpu_named(name, &ids) {
        Ok(gpu_id) => Ok(gpu_id.clone()),
        Err(several @ NamingError::Several { .. }) => Err(Fault::Usage(several.to_string())),
        Err(none) => GpuId::new(name).map_err(|_| Fault::NotFound(none.to_string())),
    }
}

fn capability(capability: ComputeCapability) -> String {
    String::from(capability)
}

/// What keeps a GPU from taking tasks, or its health.
fn state(view: &GpuView) -> String {
    let row = &view.row;
    match view {
        _ if row.stopping => "stopping".to_owned(),
        _ if view.draining => "draining".to_owned(),
        _ if !row.consuming => "no broker".to_owned(),
        _ if !row.sample.throttled_by.is_empty() && row.health_reason.is_empty() => {
            let names: Vec<&str> = row.sample.throttled_by.iter().map(|throttle| throttle.name()).collect();
            format!("{}, throttled: {}", row.health.name(), names.join(", "))
        }
        _ if !row.health_reason.is_empty() => format!("{} ({})", row.health.name(), row.health_reason),
        _ if !view.eligible && view.held < row.slots => format!("{}, over a threshold", row.health.name()),
        _ => row.health.name().to_owned(),
    }
}
