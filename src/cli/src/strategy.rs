//! `gpufleet strategy`.

use std::process::ExitCode;

use crate::{
    arguments::{Common, StrategyCommand},
    fault::Fault,
    fleet::Fleet,
    output,
};

/// Shows or changes the default strategy.
pub(crate) async fn run(common: &Common, command: StrategyCommand) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    let settings = match command {
        StrategyCommand::Get => fleet.settings().await?,
        StrategyCommand::Set { strategy } => fleet.set_strategy(strategy).await?,
    };
    if common.json {
        output::json(&settings)?;
    } else {
        let names: Vec<&str> = settings.strategies.iter().map(|strategy| strategy.name()).collect();
        output::line(&format!("{} (tasks may name {})", settings.default_strategy, names.join(", ")))?;
    }
    Ok(ExitCode::SUCCESS)
}
