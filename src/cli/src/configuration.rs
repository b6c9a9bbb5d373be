//! `gpufleet config`, and the loading that every command on servers begins with.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    let mut loaded = loaded(common, Vec::new())?;
    if matches!(command, ConfigCommand::Check) {
        let missing = not_there(&loaded.configuration);
        missing.iter().for_each(|warning| output::warning(warning));
        loaded.warnings.extend(missing);
    }
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

/// What the configuration names and this host does not have, a sentence each. A worker that needs it says so at its start; another host may have it.
fn not_there(configuration: &Configuration) -> Vec<String> {
    let mut missing = Vec::new();
    let mut look = |key: String, path: &Path, is_there: bool| {
        if !is_there {
            missing.push(format!("{key}: {} is not on this host; workers that run here need it", path.display()));
        }
    };
    for (place, handler) in configuration.handlers.iter().enumerate() {
        if let Some(directory) = &handler.directory {
            look(format!("handlers[{place}].directory"), directory, directory.is_dir());
        }
        // Anything else is the name of a module.
        let named = |file: &&PathBuf| file.extension().is_some_and(|extension| extension == "py") || file.components().nth(1).is_some();
        if let Some(file) = handler.file.as_ref().filter(named) {
            let whole = handler.directory.as_deref().unwrap_or(Path::new("")).join(file);
            look(format!("handlers[{place}].file"), &whole, whole.is_file());
        }
    }
    let directories = [("models.directory", &configuration.models.directory), ("kernel.directory", &configuration.kernel.directory)];
    for (key, directory) in directories {
        if let Some(directory) = directory {
            look(key.to_owned(), directory, directory.is_dir());
        }
    }
    if let Some(model) = &configuration.predict.model {
        look("predict.model".to_owned(), model, model.exists());
    }
    missing
}

#[cfg(test)]
mod tests {
    use protocol::config::HandlerSection;

    use super::*;

    #[test]
    fn what_is_not_on_this_host_is_named_with_its_key() {
        let mut configuration = Configuration::default();
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let handler = |file: &str, directory: Option<&Path>| HandlerSection {
            file: Some(file.into()),
            directory: directory.map(Path::to_owned),
            ..HandlerSection::default()
        };
        configuration.handlers = vec![
            handler("a_module", None),
            handler("src/main.rs", Some(&here)),
            handler("no.py", Some(&here)),
            handler("x", Some(Path::new("/no/folder"))),
        ];
        configuration.models.directory = Some(here.clone());
        configuration.kernel.directory = Some("/no/kernels".into());
        let missing = not_there(&configuration);
        let keys: Vec<&str> = missing.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(keys, ["handlers[2].file", "handlers[3].directory", "kernel.directory"]);
        assert!(missing[0].contains(&here.join("no.py").display().to_string()), "{missing:?}");
    }
}
