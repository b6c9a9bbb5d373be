//! `gpufleet drain` and `undrain`: an operator's flag in the table.

use std::process::ExitCode;

use protocol::{GpuId, claim::Settings};

use crate::{arguments::Common, configuration, fault::Fault, fleet::needs_servers, gpus, output, servers::Servers, settings};

/// What to do with a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    /// It takes no new tasks; what runs there ends, what waits there goes elsewhere.
    On,
    /// It takes tasks again.
    Off,
}

/// Sets or clears a GPU's flag. The flag outlives the GPU's worker and a loss of the table.
pub(crate) async fn run(common: &Common, gpu: &str, drain: Drain) -> Result<ExitCode, Fault> {
    needs_servers(common, "drains", "give --redis-url, the fleet's Redis; an embedded `gpufleet up` has none, and is stopped as a whole")?;
    let servers = Servers::redis_of_a_running_fleet(configuration::load(common, Vec::new())?)?;
    let gpu_id = gpus::named(&servers.pool().await?, gpu)?;
    let pool = &servers.configuration().worker.pool;
    let known = servers.table().await?.known(pool).await?;
    if !known.contains(&gpu_id) {
        return Err(Fault::NotFound(format!("the pool {pool} never had a GPU {gpu_id}; `gpufleet gpus` lists those that live")));
    }
    let settings = settings::change(&servers, |settings| flagged(settings, &gpu_id, drain)).await?;
    if common.json {
        output::json(&settings)?;
    } else {
        let state = if drain == Drain::On { "drains: no new tasks, what runs there ends" } else { "takes tasks again" };
        output::line(&format!("GPU {gpu_id} {state}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn flagged(mut settings: Settings, gpu_id: &GpuId, drain: Drain) -> Settings {
    settings.draining.retain(|other| other != gpu_id);
    if drain == Drain::On {
        settings.draining.push(gpu_id.clone());
        settings.draining.sort();
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_twice_is_draining_once() {
        let gpu_id = GpuId::new("g").unwrap();
        let once = flagged(Settings::default(), &gpu_id, Drain::On);
        assert_eq!(once.draining, std::slice::from_ref(&gpu_id));
        assert_eq!(flagged(once.clone(), &gpu_id, Drain::On), once);
        assert_eq!(flagged(once, &gpu_id, Drain::Off), Settings::default());
    }
}
