//! A configuration as YAML for people.

use std::{collections::BTreeMap, fmt::Write};

use protocol::config::{Configuration, SecretUrl};
use serde_json::Value;

use super::{Origin, known::KnownKeys};

/// The column at which origins begin, where the value leaves room.
const ORIGIN_COLUMN: usize = 56;

/// Every key, in the order of the reference; passwords, and what handlers are told in their environment, hidden; a comment where a value was set by somebody.
pub fn yaml(configuration: &Configuration, origins: &BTreeMap<String, Origin>) -> String {
    let tree = serde_json::to_value(redacted(configuration)).expect("a configuration is JSON");
    let mut printer = Printer { origins, known: KnownKeys::read(), text: String::new() };
    printer.section(&tree, "", 0);
    printer.text
}

/// The configuration without its passwords, and without what handlers are told in their environment: tokens often are.
pub fn redacted(configuration: &Configuration) -> Configuration {
    let mut shown = configuration.clone();
    for url in [&mut shown.amqp.url, &mut shown.redis.url, &mut shown.redis.store_url, &mut shown.traces.otlp_url].into_iter().flatten() {
        *url = SecretUrl::new(url.redacted());
    }
    for value in shown.handlers.iter_mut().flat_map(|handler| handler.environment.values_mut()) {
        "***".clone_into(value);
    }
    shown
}

struct Printer<'printing> {
    origins: &'printing BTreeMap<String, Origin>,
    known: KnownKeys,
    text: String,
}

impl Printer<'_> {
    fn section(&mut self, tree: &Value, key: &str, depth: usize) {
        for (name, value) in tree.as_object().into_iter().flatten() {
            let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let indentation = "  ".repeat(depth);
            if value.is_object() && !self.known.is_mapping(&path) {
                self.text.push_str(&format!("{indentation}{name}:\n"));
                self.section(value, &path, depth + 1);
                continue;
            }
            // A JSON value on one line is YAML too.
            let line = format!("{indentation}{name}: {value}");
            let written = match self.origins.get(&path) {
                Some(origin) => writeln!(self.text, "{line:<ORIGIN_COLUMN$} # {origin}"),
                None => writeln!(self.text, "{line}"),
            };
            written.expect("writing to a string does not fail");
        }
    }
}
