//! `gpufleet gpus`.

use std::process::ExitCode;

use protocol::{GpuId, NamingError, gpu::GpuView, gpu_named, task::ComputeCapability};

use crate::{arguments::Common, configuration, fault::Fault, output, servers::Servers};

/// Shows the GPUs of the pool.
pub(crate) async fn run(common: &Common) -> Result<ExitCode, Fault> {
    let configuration = configuration::load(common, &[])?;
    let pool = configuration.worker.pool.clone();
    let servers = Servers::redis_of_a_running_fleet(configuration)?;
    let rows = servers.table().await?.rows(&pool).await?;
    if common.json {
        output::json(&rows);
    } else if rows.is_empty() {
        output::line(&format!("no GPU serves the pool {pool}; start one with `gpufleet worker`"));
    } else {
        let header = [
            "#",
            "GPU",
            "NAME",
            "CC",
            "HOST",
            "STATE",
            "SLOTS",
            "WAITING",
            "MEMORY MB",
            "UTIL %",
            "TEMP °C",
            "POWER W",
            "CLOCK MHZ",
            "AGE MS",
        ];
        output::table(&header, &rows.iter().enumerate().map(row).collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
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
