//! `gpufleet drain` and `undrain`: an operator's flag in the table.

use std::process::ExitCode;

use crate::{arguments::Common, fault::Fault, fleet::Fleet, gpus, output};

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
    let fleet = Fleet::to_ask(common)?;
    let gpu_id = gpus::named(&fleet.pool().await?, gpu)?;
    let settings = fleet.drain(&gpu_id, drain).await?;
    if common.json {
        output::json(&settings)?;
    } else {
        let state = if drain == Drain::On { "drains: no new tasks, what runs there ends" } else { "takes tasks again" };
        output::line(&format!("GPU {gpu_id} {state}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
