//! Settings that come as text: environment variables and flags.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{FILE_VARIABLE, Mistakes, Origin, Setting, known::KnownKeys};

/// Before the name of every variable that sets a key: `GPUFLEET__WORKER__LEASE_MS`.
const GENERIC: &str = "GPUFLEET__";
/// The variables that people set most, and the key of each.
const SHORT: [(&str, &str); 2] = [("GPUFLEET_AMQP_URL", "amqp.url"), ("GPUFLEET_REDIS_URL", "redis.url")];
/// A variable that differs from a known one by at most this many slips of the hand is taken for a mistake. Others are ignored: container
/// platforms set `GPUFLEET_…_PORT` and the like by themselves.
const SLIPS_MAX: usize = 2;

/// Reads the variables; the generic form wins over the short one.
pub fn from_environment(environment: &BTreeMap<String, String>, known: &KnownKeys, mistakes: &mut Mistakes) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (name, value) in environment.iter().filter(|(name, _)| !name.starts_with(GENERIC)) {
        let origin = Origin::Variable(name.clone());
        if let Some((_, key)) = SHORT.iter().find(|(short, _)| short == name) {
            settings.extend(known.accept(key, &readings(key, value, known), &origin, mistakes));
        } else if let Some(meant) = misspelt(name) {
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
        let origin = Origin::Flag(key.to_owned());
        match value {
            Some(value) => settings.extend(known.accept(key, &readings(key, value, known), &origin, mistakes)),
            None => mistakes.add(key, &origin, "has no value; write key=value"),
        }
    }
    settings
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

fn misspelt(name: &str) -> Option<&'static str> {
    let names = SHORT.iter().map(|(short, _)| *short).chain([FILE_VARIABLE]);
    let is_near = |known: &&str| *known != name && strsim::damerau_levenshtein(known, name) <= SLIPS_MAX;
    (name != FILE_VARIABLE).then(|| names.into_iter().find(is_near)).flatten()
}
