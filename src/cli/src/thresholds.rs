//! `gpufleet thresholds`.

use std::process::ExitCode;

use crate::{
    arguments::{Common, ThresholdsCommand},
    fault::Fault,
    fleet::{Fleet, Thresholds},
    output,
};

/// Shows or changes how full a GPU may be and still take tasks.
pub(crate) async fn run(common: &Common, command: ThresholdsCommand) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    let settings = match command {
        ThresholdsCommand::Get => fleet.settings().await?,
        ThresholdsCommand::Set(set) => {
            fleet.set_thresholds(Thresholds { memory_threshold: set.memory, utilization_threshold: set.utilization }).await?
        }
    };
    if common.json {
        output::json(&settings)?;
    } else {
        output::line(&format!(
            "a GPU takes tasks below memory {} and below utilization {} by others",
            settings.memory_threshold, settings.utilization_threshold
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
