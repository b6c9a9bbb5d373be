//! The allowed edges between crates. The table *is* the test: an edge that is not in it fails, and so does an entry that is not needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// crate → the crates of ours it may depend on. Programs → libraries → devices and ports → words; nothing sideways or upwards.
const EDGES: [(&str, &[&str]); 19] = [
    ("protocol", &[]),
    ("task-queue", &["protocol"]),
    ("redis-link", &["protocol"]),
    ("gpu-table", &["protocol", "redis-link"]),
    ("task-store", &["protocol", "redis-link"]),
    ("data-link", &["protocol"]),
    ("devices", &["protocol"]),
    ("tensors", &["data-link", "devices", "protocol"]),
    ("executors", &["devices", "protocol", "tensors"]),
    ("insight", &["gpu-table", "protocol"]),
    ("producer", &["protocol", "task-queue", "task-store"]),
    ("service", &["gpu-table", "protocol", "task-queue", "task-store"]),
    ("gateway", &["data-link", "gpu-table", "insight", "producer", "protocol", "task-queue", "task-store"]),
    ("gpu-host", &["protocol"]),
    ("gpu-worker", &["devices", "executors", "gpu-table", "protocol", "task-queue", "task-store", "tensors"]),
    (
        "cli",
        &[
            "data-link",
            "devices",
            "executors",
            "gateway",
            "gpu-host",
            "gpu-table",
            "gpu-worker",
            "producer",
            "protocol",
            "service",
            "task-queue",
            "task-store",
        ],
    ),
    ("fake-nvidia", &[]),
    ("gpu-check", &["devices", "executors", "gpu-host", "gpu-worker", "producer", "protocol", "service", "tensors"]),
    (
        "tests",
        &[
            "data-link",
            "devices",
            "executors",
            "fake-nvidia",
            "gateway",
            "gpu-table",
            "gpu-worker",
            "producer",
            "protocol",
            "service",
            "task-queue",
            "task-store",
            "tensors",
        ],
    ),
];

/// library → the crates that may name it. The tests may name everything.
const ONLY_IN: [(&str, &[&str]); 17] = [
    ("redis", &["gpu-table", "redis-link", "task-store"]),
    ("deadpool-redis", &["redis-link"]),
    ("lapin", &["task-queue"]),
    ("async-rs", &["task-queue"]),
    ("axum", &["gateway"]),
    ("hyper", &["cli", "gateway", "service"]),
    ("hyper-util", &["cli", "gateway", "service"]),
    ("opentelemetry", &["service"]),
    ("opentelemetry-http", &["service"]),
    ("opentelemetry-otlp", &["service"]),
    ("opentelemetry_sdk", &["service"]),
    ("cudarc", &["devices", "fake-nvidia", "gpu-check"]),
    ("nvml-wrapper", &["devices", "fake-nvidia"]),
    ("candle-core", &["executors"]),
    ("ort", &["executors"]),
    ("clap", &["cli"]),
    ("ratatui", &["cli"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// crate → its direct dependencies (all sections), read from the manifests of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let manifests = ["src", "workers"].iter().flat_map(|folder| fs::read_dir(root().join(folder)).expect("a folder").flatten());
    // `workers/python` is no crate.
    let mut folders: Vec<PathBuf> = manifests.map(|entry| entry.path()).filter(|folder| folder.join("Cargo.toml").exists()).collect();
    folders.extend(["tests", "tests/fake-nvidia", "tests/gpu-check"].map(|folder| root().join(folder)));
    folders.iter().map(|folder| (name_of(folder), dependencies_of(folder))).collect()
}

fn name_of(folder: &Path) -> String {
    folder.file_name().expect("a name").to_string_lossy().into_owned()
}

fn dependencies_of(folder: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("valid TOML");
    let package = manifest["package"]["name"].as_str().expect("a name");
    assert_eq!(package, name_of(folder), "a crate is named as its folder");
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    sections.iter().filter_map(|section| manifest.get(*section)?.as_table()).flat_map(|table| table.keys().cloned()).collect()
}

/// What is wrong with these dependencies, against the tables above.
fn violations(dependencies: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = EDGES.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    let mut found = Vec::new();
    for (name, uses) in dependencies {
        let Some(edges) = allowed.get(name.as_str()) else {
            found.push(format!("{name} is not in the table of edges"));
            continue;
        };
        let ours: BTreeSet<&str> = uses.iter().map(String::as_str).filter(|used| allowed.contains_key(used)).collect();
        found.extend(ours.difference(edges).map(|used| format!("{name} may not depend on {used}")));
        if name != "tests" {
            found.extend(edges.difference(&ours).map(|unused| format!("{name} no longer needs {unused}: take the edge out of the table")));
        }
        for (library, places) in ONLY_IN {
            if uses.contains(library) && name != "tests" && !places.contains(&name.as_str()) {
                found.push(format!("{name} may not name {library}; only {} may", places.join(" and ")));
            }
        }
    }
    found
}

#[test]
fn every_edge_between_crates_is_an_allowed_one() {
    let found = violations(&dependencies());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_broken_edge_is_found() {
    let mut broken = dependencies();
    for (name, used) in [("protocol", "task-queue"), ("gpu-worker", "gateway"), ("producer", "redis"), ("gpu-table", "task-store")] {
        broken.get_mut(name).expect("a crate").insert(used.to_owned());
        let found = violations(&broken);
        assert!(found.iter().any(|line| line.contains(name) && line.contains(used)), "{name} → {used} was not found in {found:?}");
    }
}

/// The inner layers of the worker, a folder each → the layers that it may name. What decides about a delivery never reaches for what carries it out, and no duty knows of a life.
const LAYERS: [(&str, &[&str]); 8] = [
    ("data", &[]),
    ("delivery", &[]),
    ("claim", &["data", "delivery"]),
    ("batch", &["claim", "delivery"]),
    ("attempt", &["claim", "data", "delivery"]),
    ("settle", &["claim", "data", "delivery"]),
    ("gpu", &["claim"]),
    ("fleet", &["delivery"]),
];

/// Every Rust file below a folder, as text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a text");
            found.push((path, text));
        }
    }
    found
}

/// The modules at the crate's top that a text of the worker names: `crate::x`, or `x` in a list after `crate::`.
fn named_modules(text: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (place, _) in text.match_indices("crate::") {
        let rest = &text[place + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for letter in list.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ if depth == 0 => word.push(letter),
                    _ => {}
                }
            }
            named.extend(word.split(',').map(|part| part.trim().split("::").next().unwrap_or_default().trim().to_owned()));
        } else {
            named.insert(rest.chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect());
        }
    }
    named
}

fn layer_violations(layers: &BTreeMap<&str, BTreeSet<String>>) -> Vec<String> {
    let above = ["life", "receiving"];
    let mut found = Vec::new();
    for (layer, allowed) in LAYERS {
        for named in &layers[layer] {
            let forbidden = LAYERS.iter().any(|(other, _)| other == named) && named != layer && !allowed.contains(&named.as_str());
            if forbidden || above.contains(&named.as_str()) {
                found.push(format!("{layer}/ may not name {named}"));
            }
        }
    }
    found
}

/// layer → the modules that its files name.
fn layers() -> BTreeMap<&'static str, BTreeSet<String>> {
    let worker = root().join("workers/gpu-worker/src");
    LAYERS
        .iter()
        .map(|(layer, _)| (*layer, sources(&worker.join(layer)).iter().flat_map(|(_, text)| named_modules(text)).collect()))
        .collect()
}

#[test]
fn every_layer_of_the_worker_names_only_those_below_it() {
    let found = layer_violations(&layers());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_broken_layer_is_found() {
    for (layer, named) in [("gpu", "settle"), ("delivery", "claim"), ("attempt", "settle"), ("fleet", "life")] {
        let mut broken = layers();
        broken.get_mut(layer).expect("a layer").insert(named.to_owned());
        assert_eq!(layer_violations(&broken), [format!("{layer}/ may not name {named}")]);
    }
    assert_eq!(named_modules("use crate::{a::B, c::{d, e}, f};\ncrate::g::h()").into_iter().collect::<String>(), "acfg");
}

/// What may not stand in a log line, and why. `field`: one argument of a macro of `tracing`.
fn wrong_in_a_log_line(field: &str) -> Option<&'static str> {
    let field = field.trim();
    let (name, value) = field.split_once('=').map_or((field, ""), |(name, value)| (name.trim(), value.trim()));
    let is_name = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.'));
    if name.starts_with('?') || (is_name && value.starts_with('?')) {
        Some("shows a value as Rust's Debug has it; give it a Display and write %")
    } else if matches!(name.trim_start_matches('%'), "message" | "target" | "level" | "timestamp") {
        Some("is a field by this name in every line of JSON already; call it something else")
    } else {
        None
    }
}

/// The arguments of each macro of `tracing` in a text, and the line that it begins in.
fn log_lines(text: &str) -> Vec<(usize, Vec<String>)> {
    const MACROS: [&str; 7] = ["trace!(", "debug!(", "info!(", "warn!(", "error!(", "event!(", "span!("];
    let mut found = Vec::new();
    for name in MACROS {
        for (place, _) in text.match_indices(name) {
            found.push((text[..place].matches('\n').count() + 1, arguments(&text[place + name.len()..])));
        }
    }
    found.sort();
    found
}

/// What stands between commas up to the bracket that closes a call. Brackets in texts do not count.
fn arguments(call: &str) -> Vec<String> {
    let (mut found, mut depth, mut in_text, mut escaped) = (vec![String::new()], 0, false, false);
    for letter in call.chars() {
        match letter {
            '"' if !escaped => in_text = !in_text,
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' if !in_text && depth == 0 => break,
            ')' | ']' | '}' if !in_text => depth -= 1,
            ',' if !in_text && depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = letter == '\\' && !escaped;
        if let Some(argument) = found.last_mut() {
            argument.push(letter);
        }
    }
    found
}

#[test]
fn log_lines_are_in_words() {
    let files = ["src", "workers"].iter().flat_map(|folder| sources(&root().join(folder)));
    let (mut lines, mut found) = (0, Vec::new());
    for (path, text) in files {
        for (line, fields) in log_lines(&text) {
            lines += 1;
            let wrong = fields.iter().filter_map(|field| Some((field.trim().to_owned(), wrong_in_a_log_line(field)?)));
            found.extend(wrong.map(|(field, why)| format!("{}:{line}: {field:?} {why}", path.display())));
        }
    }
    assert!(lines > 80, "only {lines} log lines are found: the search is broken");
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_log_line_that_is_not_in_words_is_found() {
    let text = r#"
        tracing::warn!(queue = ?self.queue, reason, "lost (a consumer, it says");
        info!(%error, ?failure, after = f(a, "b"), "done");
        let span = tracing::debug_span!("task", task_id = %id, target = %queue);
        error!(
            error = %cause,
            message,
            "what?"
        );
        debug!(task_id, ok = maybe()?, "fine: a = ?b");
    "#;
    let of = |fields: &[String]| fields.iter().filter(|field| wrong_in_a_log_line(field).is_some()).count();
    let found: Vec<(usize, usize)> = log_lines(text).iter().map(|(line, fields)| (*line, of(fields))).collect();
    assert_eq!(found, [(2, 1), (3, 1), (4, 1), (5, 1), (10, 0)]);
}
