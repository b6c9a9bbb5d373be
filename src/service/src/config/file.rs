//! Settings from a YAML file.

use std::path::Path;

use serde_json::Value;

use super::{Mistakes, Origin, Setting, known::KnownKeys, lines::Lines};

/// Reads a file; what is wrong with it goes to `mistakes`.
pub fn read(path: &Path, known: &KnownKeys, mistakes: &mut Mistakes) -> Vec<Setting> {
    let origin = Origin::File { path: path.to_owned(), line: None };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(problem) => {
            mistakes.add("", &origin, format!("cannot be read: {problem}"));
            return Vec::new();
        }
    };
    match parse(&text) {
        Ok(Value::Null) => Vec::new(),
        Ok(tree @ Value::Object(_)) => {
            let mut reader = Reader { path, lines: Lines::of(&text), known, mistakes, settings: Vec::new() };
            reader.section("", &tree);
            reader.settings
        }
        Ok(_) => {
            mistakes.add("", &origin, "is not a configuration; write sections such as `worker:` with their keys indented below");
            Vec::new()
        }
        Err(problem) => {
            mistakes.add("", &origin, format!("is not valid YAML: {problem}"));
            Vec::new()
        }
    }
}

/// By way of the YAML library's own tree, which refuses a key that is written twice.
fn parse(text: &str) -> Result<Value, String> {
    let tree: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(|problem| problem.to_string())?;
    serde_json::to_value(tree).map_err(|problem| problem.to_string())
}

struct Reader<'reading> {
    path: &'reading Path,
    lines: Lines,
    known: &'reading KnownKeys,
    mistakes: &'reading mut Mistakes,
    settings: Vec<Setting>,
}

impl Reader<'_> {
    fn section(&mut self, key: &str, value: &Value) {
        match value {
            // A section whose keys are all commented out.
            Value::Null if self.known.is_section(key) => {}
            Value::Object(fields) if !self.known.is_mapping(key) => {
                for (name, field) in fields {
                    let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    self.section(&path, field);
                }
            }
            value => {
                let origin = Origin::File { path: self.path.to_owned(), line: self.lines.of_key(key) };
                self.settings.extend(self.known.accept(key, std::slice::from_ref(value), &origin, self.mistakes));
            }
        }
    }
}
