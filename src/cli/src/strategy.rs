//! `gpufleet strategy`.

use std::process::ExitCode;

use protocol::{Strategy, claim::Settings};

use crate::{
    arguments::{Common, StrategyCommand},
    configuration,
    fault::Fault,
    fleet::needs_servers,
    output,
    servers::Servers,
    settings,
};

/// Shows or changes the default strategy.
pub(crate) async fn run(common: &Common, command: StrategyCommand) -> Result<ExitCode, Fault> {
    let instead = "give --redis-url, the fleet's Redis; an embedded `gpufleet up` takes its own at the start, by --set gpu.multi_gpu.default_strategy=NAME";
    needs_servers(common, "the default strategy", instead)?;
    let servers = Servers::redis_of_a_running_fleet(configuration::load(common, Vec::new())?)?;
    let settings = match command {
        StrategyCommand::Get => settings::get(&servers).await?,
        StrategyCommand::Set { strategy } => settings::change(&servers, |settings| with(settings, strategy)).await?,
    };
    if common.json {
        output::json(&settings)?;
    } else {
        let names: Vec<&str> = settings.strategies.iter().map(|strategy| strategy.name()).collect();
        output::line(&format!("{} (tasks may name {})", settings.default_strategy, names.join(", ")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn with(settings: Settings, strategy: Strategy) -> Settings {
    let mut strategies = settings.strategies.clone();
    if !strategies.contains(&strategy) {
        strategies.push(strategy);
        strategies.sort();
    }
    Settings { default_strategy: strategy, strategies, ..settings }
}
