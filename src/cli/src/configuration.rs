//! `gpufleet config`, and the loading that every command on servers begins with.

use std::process::ExitCode;

use protocol::config::Configuration;
use service::{FlagSetting, Loaded, Sources};

use crate::{
    arguments::{Common, ConfigCommand, HandlerFlags},
    fault::Fault,
    output,
};

/// Loads the configuration; `more` are settings that a command's own flags make.
pub(crate) fn load(common: &Common, more: Vec<FlagSetting>) -> Result<Configuration, Fault> {
    loaded(common, more).map(|loaded| loaded.configuration)
}

/// As [`load`], for a program that serves: its log starts before, so that all it ever says is in the form that the configuration wants, mistakes included.
pub(crate) fn load_and_log(common: &Common, more: Vec<FlagSetting>) -> Result<Configuration, Fault> {
    service::telemetry::start_log(&common.sources(more.clone()).log());
    load(common, more)
}

/// As [`load`], for a program that runs workers: with the handlers that its command line names.
pub(crate) fn load_for_workers(common: &Common, more: Vec<FlagSetting>, handlers: &HandlerFlags) -> Result<Configuration, Fault> {
    let mut sources = common.sources(more);
    sources.handlers = handlers.sections()?;
    let mut configuration = loaded_from(&sources)?.configuration;
    handlers.name_python(&mut configuration);
    Ok(configuration)
}

/// As [`load_and_log`], for a program that runs workers.
pub(crate) fn load_for_workers_and_log(common: &Common, more: Vec<FlagSetting>, handlers: &HandlerFlags) -> Result<Configuration, Fault> {
    service::telemetry::start_log(&common.sources(more.clone()).log());
    load_for_workers(common, more, handlers)
}

fn loaded(common: &Common, more: Vec<FlagSetting>) -> Result<Loaded, Fault> {
    loaded_from(&common.sources(more))
}

fn loaded_from(sources: &Sources) -> Result<Loaded, Fault> {
    let loaded = sources.load().map_err(|errors| Fault::Usage(format!("the configuration is wrong\n{errors}")))?;
    loaded.warnings.iter().for_each(|warning| output::warning(warning));
    Ok(loaded)
}

/// Runs `gpufleet config …`.
pub(crate) fn run(common: &Common, command: &ConfigCommand) -> Result<ExitCode, Fault> {
    let loaded = loaded(common, Vec::new())?;
    match command {
        ConfigCommand::Check if common.json => {
            output::json(&serde_json::json!({"ok": true, "file": loaded.file, "warnings": loaded.warnings}))?;
        }
        ConfigCommand::Check => {
            let file = loaded.file.map_or_else(|| "no file; defaults, environment and flags".to_owned(), |path| path.display().to_string());
            output::line(&format!("the configuration is right ({file})"))?;
        }
        ConfigCommand::Print if common.json => output::pretty(&loaded.redacted())?,
        ConfigCommand::Print => output::line(loaded.to_yaml().trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}
