//! `gpufleet strategy`.

use std::process::ExitCode;

use protocol::{Strategy, claim::Settings};

use crate::{
    arguments::{Common, StrategyCommand},
    configuration,
    fault::Fault,
    output,
    servers::Servers,
};

/// How often a change is tried again when somebody else was faster.
const TRIES: u32 = 8;

/// Shows or changes the default strategy.
pub(crate) async fn run(common: &Common, command: StrategyCommand) -> Result<ExitCode, Fault> {
    let configuration = configuration::load(common, &[])?;
    let pool = configuration.worker.pool.clone();
    let initial = configuration.gpu.multi_gpu.initial_settings();
    let servers = Servers::redis_of_a_running_fleet(configuration)?;
    let table = servers.table().await?;
    let mut settings = table.settings(&pool, &initial).await?;
    if let StrategyCommand::Set { strategy } = command {
        let mut tries = 0;
        while settings.default_strategy != strategy {
            if tries == TRIES {
                return Err(Fault::Failed(format!("the settings change faster than they can be changed: {TRIES} tries")));
            }
            tries += 1;
            settings = table.change_settings(&pool, &with(settings, strategy)).await?;
        }
    }
    if common.json {
        output::json(&settings);
    } else {
        let names: Vec<&str> = settings.strategies.iter().map(|strategy| strategy.name()).collect();
        output::line(&format!("{} (tasks may name {})", settings.default_strategy, names.join(", ")));
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
