//! Settings that come as text: environment variables and flags.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{FlagSetting, Mistakes, Origin, Setting, known::KnownKeys, variables};

/// Before the name of every variable that sets a key: `GPUFLEET__WORKER__LEASE_MS`.
pub const GENERIC: &str = "GPUFLEET__";
/// The variables that people set most, and the key of each.
pub const SHORT: [(&str, &str); 2] = [("GPUFLEET_AMQP_URL", "amqp.url"), ("GPUFLEET_REDIS_URL", "redis.url")];

/// Reads the variables; the generic form wins over the short one.
pub fn from_environment(environment: &BTreeMap<String, String>, known: &KnownKeys, mistakes: &mut Mistakes) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (name, value) in environment.iter().filter(|(name, _)| !name.starts_with(GENERIC)) {
        let origin = Origin::Variable(name.clone());
        if let Some((_, key)) = SHORT.iter().find(|(short, _)| short == name) {
            settings.extend(known.accept(key, &readings(key, value, known), &origin, mistakes));
        } else if let Some(meant) = variables::misspelt(name) {
            mistakes.add("", &origin, format!("unknown variable; did you mean {meant}?"));
        }
    }
    for (name, value) in environment {
        if let Some(rest) = name.strip_prefix(GENERIC) {
            let key = rest.split("__").map(str::to_ascii_lowercase).collect::<Vec<_>>().join(".");
            settings.extend(known.accept(&key, &readings(&key, value, known), &Origin::Variable(name.clone()), mistakes));
        }
    }
    settings
}

/// Reads `section.key=value` each.
pub fn from_overrides(overrides: &[String], known: &KnownKeys, mistakes: &mut Mistakes) -> Vec<Setting> {
    let mut settings = Vec::new();
    for text in overrides {
        let (key, value) = text.split_once('=').map_or((text.trim(), None), |(key, value)| (key.trim(), Some(value.trim())));
        let origin = Origin::Flag(format!("--set {key}"));
        match value {
            Some(value) => settings.extend(known.accept(key, &readings(key, value, known), &origin, mistakes)),
            None => mistakes.add(key, &origin, "has no value; write key=value"),
        }
    }
    settings
}

/// Reads what flags of their own set.
pub fn from_flags(flags: &[FlagSetting], known: &KnownKeys, mistakes: &mut Mistakes) -> Vec<Setting> {
    let read = |setting: &FlagSetting| {
        let FlagSetting { flag, key, value } = setting;
        known.accept(key, &readings(key, value, known), &Origin::Flag((*flag).to_owned()), mistakes)
    };
    flags.iter().filter_map(read).collect()
}

/// What a text can mean for a key, likeliest first: YAML, then the text itself; for a list, YAML or parts separated by commas.
fn readings(key: &str, text: &str, known: &KnownKeys) -> Vec<Value> {
    let plain = Value::String(text.to_owned());
    if known.is_text(key) {
        return vec![plain];
    }
    let yaml = serde_yaml_ng::from_str::<Value>(text).ok();
    if known.is_list(key) {
        let parts = || text.split(',').map(|part| Value::String(part.trim().to_owned())).collect();
        return vec![yaml.filter(Value::is_array).unwrap_or_else(parts)];
    }
    yaml.into_iter().chain([plain]).collect()
}
