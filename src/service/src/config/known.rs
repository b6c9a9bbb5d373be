//! The keys that exist, their defaults, types and ranges: read from the types of [`protocol::config`], so that nothing is said twice.

use std::collections::BTreeMap;

use protocol::config::Configuration;
use serde_json::{Map, Value};

use super::{Mistakes, Origin, Setting};

/// Below this likeness (0 to 1) a known key is not offered for an unknown one.
const LIKENESS_MIN: f64 = 0.6;

/// Every key of a configuration.
#[derive(Debug)]
pub struct KnownKeys {
    defaults: Value,
    keys: BTreeMap<String, KnownKey>,
}

/// A key that holds a value.
#[derive(Debug)]
struct KnownKey {
    default: Value,
    /// What to give, for people.
    wanted: String,
    minimum: Option<f64>,
    maximum: Option<f64>,
}

/// Why a key does not take a value.
struct Unfit {
    /// The key, or the place within its list or mapping: `handlers[0].memory_mb`.
    place: String,
    problem: String,
}

impl Unfit {
    fn of(key: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        let (path, problem) = (error.path().to_string(), error.inner().to_string());
        // An entry that should be a mapping is wrong as a whole, and so is its list, most often: `handlers=a.py`.
        let is_within = path.strip_prefix(key).is_some_and(|within| !within.is_empty()) && !problem.contains("expected struct");
        Self { place: if is_within { path } else { key.to_owned() }, problem }
    }
}

impl KnownKeys {
    pub fn read() -> Self {
        let defaults = serde_json::to_value(Configuration::default()).expect("a configuration is JSON");
        let schema = schemars::schema_for!(Configuration).to_value();
        let mut keys = BTreeMap::new();
        collect(&defaults, &schema, &schema, "", &mut keys);
        Self { defaults, keys }
    }

    /// A whole configuration of defaults, as a tree.
    pub fn defaults(&self) -> Value {
        self.defaults.clone()
    }

    pub fn names(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// Whether the key holds keys instead of a value. The empty key is the root.
    pub fn is_section(&self, key: &str) -> bool {
        key.is_empty() || self.keys.keys().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Whether the key's value is a list.
    pub fn is_list(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|known| known.default.is_array())
    }

    /// Whether the key's value is a mapping, whose names are no keys.
    pub fn is_mapping(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|known| known.default.is_object())
    }

    /// Whether the key's value is text whatever it looks like.
    pub fn is_text(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|known| known.default.is_string())
    }

    /// The setting with the first of `candidates` that the key accepts. If there is none, a mistake says why.
    pub fn accept(&self, key: &str, candidates: &[Value], origin: &Origin, mistakes: &mut Mistakes) -> Option<Setting> {
        let Some(known) = self.keys.get(key) else {
            mistakes.add(key, origin, self.unknown(key));
            return None;
        };
        match self.first_of_right_type(key, candidates) {
            Ok(value) => match known.out_of_range(&value) {
                None => return Some(Setting { key: key.to_owned(), value, origin: origin.clone() }),
                Some(problem) => mistakes.add(key, origin, problem),
            },
            Err(Unfit { place, problem }) if place != key => mistakes.add(&place, origin, problem),
            Err(Unfit { problem, .. }) => {
                mistakes.add(key, origin, format!("{problem}; give {} (default: {})", known.wanted, known.default));
            }
        }
        None
    }

    fn first_of_right_type(&self, key: &str, candidates: &[Value]) -> Result<Value, Unfit> {
        let mut first_unfit = None;
        for value in candidates {
            let mut tree = self.defaults();
            put(&mut tree, key, value.clone());
            match serde_path_to_error::deserialize::<_, Configuration>(tree) {
                Ok(_) => return Ok(value.clone()),
                Err(error) => _ = first_unfit.get_or_insert(Unfit::of(key, &error)),
            }
        }
        Err(first_unfit.unwrap_or_else(|| Unfit { place: key.to_owned(), problem: "no value".to_owned() }))
    }

    /// What to say about a key that does not exist.
    fn unknown(&self, key: &str) -> String {
        if self.is_section(key) {
            return format!("is a section, not a value; its keys are {}", self.keys_of(key));
        }
        if let Some((mapping, name)) = key.rsplit_once('.').filter(|(outer, _)| self.is_mapping(outer)) {
            return format!("is no key by itself; set the mapping as a whole: {mapping}={{{name}: …}}");
        }
        if let Some(list) = self.list_around(key) {
            return format!("is no key by itself; set the list as a whole: {list}=[…]");
        }
        if let Some(near) = self.nearest(key) {
            return format!("unknown key; did you mean {near}?");
        }
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let section = if self.is_section(section) { section } else { "" };
        format!("unknown key; known here are {}", self.keys_of(section))
    }

    /// The list that a key is meant to be an entry of.
    fn list_around(&self, key: &str) -> Option<&str> {
        let is_around = |list: &&String| key.strip_prefix(list.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']));
        let list = self.keys.keys().filter(|known| self.is_list(known)).find(is_around)?;
        Some(list)
    }

    /// The keys and sections directly under a section.
    fn keys_of(&self, section: &str) -> String {
        let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
        let names = self.keys.keys().filter_map(|known| known.strip_prefix(&prefix)?.split('.').next());
        let mut names: Vec<&str> = names.collect();
        names.dedup();
        names.join(", ")
    }

    fn nearest(&self, key: &str) -> Option<&str> {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let likeness = |known: &str| {
            let whole = strsim::normalized_damerau_levenshtein(known, key);
            // The right name in the wrong section is as good a hint as a slip of the hand.
            if last(known) == last(key) { whole.max(0.9) } else { whole }
        };
        let best = self.keys.keys().map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
        (best.0 >= LIKENESS_MIN).then_some(best.1.as_str())
    }
}

impl KnownKey {
    fn out_of_range(&self, value: &Value) -> Option<String> {
        let number = value.as_f64()?;
        let within = match (self.minimum, self.maximum) {
            (Some(minimum), Some(maximum)) if number < minimum || number > maximum => format!("between {minimum} and {maximum}"),
            (Some(minimum), None) if number < minimum => format!("at least {minimum}"),
            (None, Some(maximum)) if number > maximum => format!("at most {maximum}"),
            _ => return None,
        };
        Some(format!("is {value}, and must be {within} (default: {})", self.default))
    }
}

/// Puts a value at a dotted key.
pub fn put(tree: &mut Value, key: &str, value: Value) {
    let mut place = tree;
    for name in key.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name];
    }
    *place = value;
}

fn collect(default: &Value, schema: &Value, root: &Value, key: &str, keys: &mut BTreeMap<String, KnownKey>) {
    let schema = resolved(schema, root);
    // A mapping with names of any kind is a value; a section names its fields.
    let Some(fields) = default.as_object().filter(|_| schema["properties"].is_object()) else {
        let number = |name: &str| schema[name].as_f64();
        let known = KnownKey { default: default.clone(), wanted: wanted(schema), minimum: number("minimum"), maximum: number("maximum") };
        keys.insert(key.to_owned(), known);
        return;
    };
    for (name, field) in fields {
        let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        collect(field, &schema["properties"][name], root, &path, keys);
    }
}

/// Follows a reference into the schema's definitions.
fn resolved<'schema>(schema: &'schema Value, root: &'schema Value) -> &'schema Value {
    match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(schema),
        None => schema,
    }
}

/// The schema's type in words.
fn wanted(schema: &Value) -> String {
    let is = |name: &str| schema["type"] == name || schema["type"].as_array().is_some_and(|types| types.iter().any(|kind| kind == name));
    let words = [
        ("integer", "a whole number"),
        ("number", "a number"),
        ("boolean", "true or false"),
        ("array", "a list"),
        ("string", "text"),
        ("object", "a mapping of names to values"),
    ];
    words.iter().find(|(name, _)| is(name)).map_or("another value", |(_, words)| words).to_owned()
}
