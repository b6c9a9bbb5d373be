//! Loads the configuration: defaults < file < environment < flags.
//!
//! Every mistake of every source is found before any is reported, so that one correction is enough. What the keys mean is in
//! [`protocol::config`]; this module knows their names, types and ranges only from there.

mod checks;
mod file;
mod known;
mod lines;
mod mistake;
mod print;
mod setting;
mod text;
mod variables;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use protocol::config::{Configuration, HandlerSection, LogSection};

use self::{known::KnownKeys, mistake::Mistakes, setting::Setting};
pub use self::{
    mistake::{ConfigurationErrors, Mistake},
    setting::Origin,
};

/// The environment variable that names the file.
pub const FILE_VARIABLE: &str = "GPUFLEET_CONFIG";
/// The environment variable that names the gateway that operators' commands talk to. It sets no key.
pub const GATEWAY_VARIABLE: &str = "GPUFLEET_URL";
/// The environment variable that names the Python of handlers that name none of their own. It sets no key.
pub const PYTHON_VARIABLE: &str = "GPUFLEET_PYTHON";
/// The file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str = "gpufleet.yaml";

/// A key that a flag of its own sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagSetting {
    /// The flag as it is written on the command line, for example `--redis-url`.
    pub flag: &'static str,
    /// The dotted key.
    pub key: &'static str,
    /// The value, as text.
    pub value: String,
}

/// Where a configuration comes from, lowest first: the file, the environment, the overrides, the flags.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that `--config` names. Default: what `GPUFLEET_CONFIG` names; else `gpufleet.yaml` in `folder`, if it exists.
    pub file: Option<PathBuf>,
    /// The folder in which `gpufleet.yaml` is looked for. Default: the current one.
    pub folder: PathBuf,
    /// Environment variables: `GPUFLEET__SECTION__KEY`, `GPUFLEET_AMQP_URL`, `GPUFLEET_REDIS_URL`; others are ignored.
    pub environment: BTreeMap<String, String>,
    /// What `--set` sets: `section.key=value`.
    pub overrides: Vec<String>,
    /// What other flags set.
    pub flags: Vec<FlagSetting>,
    /// What each `--handler` adds to `handlers`.
    pub handlers: Vec<HandlerSection>,
}

/// A configuration, and where its values come from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub configuration: Configuration,
    /// Dotted key → where it was set. Keys that nobody set are absent.
    pub origins: BTreeMap<String, Origin>,
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    /// What looks like a slip and is none that must stop a program, one sentence each: variables of our name that nobody reads.
    pub warnings: Vec<String>,
}

/// Loads a configuration.
///
/// # Errors
/// [`ConfigurationErrors`] has every mistake: a file that cannot be read, unknown keys, wrong types, values out of their range, and values that do
/// not go together.
pub fn load(sources: &Sources) -> Result<Configuration, ConfigurationErrors> {
    sources.load().map(|loaded| loaded.configuration)
}

impl Sources {
    /// The sources of this process: its environment, and what its command line says.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, overrides: Vec<String>, flags: Vec<FlagSetting>) -> Self {
        let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Self { file, folder: PathBuf::new(), environment, overrides, flags, handlers: Vec::new() }
    }

    /// Loads a configuration and remembers where its values come from.
    ///
    /// # Errors
    /// See [`load`].
    pub fn load(&self) -> Result<Loaded, ConfigurationErrors> {
        let mut mistakes = Mistakes::default();
        let loaded = self.read(&mut mistakes);
        checks::check(&loaded.configuration, &loaded.origins, &mut mistakes);
        mistakes.into_result()?;
        Ok(loaded)
    }

    /// How the log is wanted, as far as that can be told: mistakes elsewhere do not matter. For the log that is to say what is wrong with the configuration.
    #[must_use]
    pub fn log(&self) -> LogSection {
        self.read(&mut Mistakes::default()).configuration.log
    }

    /// Every value that its key accepts; what else there is goes to `mistakes`.
    fn read(&self, mistakes: &mut Mistakes) -> Loaded {
        let known = KnownKeys::read();
        let file = self.file_to_read();
        let mut settings = file.as_deref().map(|path| file::read(path, &known, mistakes)).unwrap_or_default();
        settings.extend(text::from_environment(&self.environment, &known, mistakes));
        settings.extend(text::from_overrides(&self.overrides, &known, mistakes));
        settings.extend(text::from_flags(&self.flags, &known, mistakes));
        let (mut configuration, mut origins) = merge(&known, settings);
        for handler in &self.handlers {
            let flag = Origin::Flag("--handler".to_owned());
            origins.entry("handlers".to_owned()).or_insert_with(|| flag.clone());
            origins.insert(format!("handlers[{}]", configuration.handlers.len()), flag);
            configuration.handlers.push(handler.clone());
        }
        Loaded { configuration, origins, file, warnings: variables::warnings(&self.environment, &known) }
    }

    fn file_to_read(&self) -> Option<PathBuf> {
        let named = self.file.clone().or_else(|| self.environment.get(FILE_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from));
        named.or_else(|| Some(self.folder.join(Path::new(DEFAULT_FILE))).filter(|path| path.exists()))
    }
}

impl Loaded {
    /// The configuration without its passwords, and without the values of handlers' environments.
    #[must_use]
    pub fn redacted(&self) -> Configuration {
        print::redacted(&self.configuration)
    }

    /// The whole configuration as YAML, passwords hidden, with the origin of every value that was set.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        print::yaml(&self.configuration, &self.origins)
    }
}

/// Later settings replace earlier ones.
fn merge(known: &KnownKeys, settings: Vec<Setting>) -> (Configuration, BTreeMap<String, Origin>) {
    let mut tree = known.defaults();
    let mut origins = BTreeMap::new();
    for setting in settings {
        known::put(&mut tree, &setting.key, setting.value);
        origins.insert(setting.key, setting.origin);
    }
    let configuration =
        serde_json::from_value(tree).expect("each setting was accepted by itself, and no key's type depends on another's value");
    (configuration, origins)
}

#[cfg(test)]
mod outside;
#[cfg(test)]
mod tests;
