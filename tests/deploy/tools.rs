//! The tools, and how they are run.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;
use serde_json::Value;
use tests::pages::root;

/// Longest run of a tool, in seconds. Generous: it bounds a hang.
const LONGEST_S: &str = "300";

/// What a tool said.
#[derive(Debug)]
pub struct Said {
    /// Whether it ended with exit code 0.
    pub is_content: bool,
    /// Its standard output.
    pub output: String,
    /// Its standard output and error.
    pub text: String,
}

/// A tool of the distribution's.
///
/// # Panics
/// If it is missing.
pub fn of_the_system(name: &str) -> PathBuf {
    let folders = std::env::var("PATH").unwrap_or_default();
    let found = folders.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: run scripts/install-test-needs"))
}

/// A tool, or what belongs to one, that `scripts/install-deploy-tools` brings. `None`, and a line in the output, where that could not be had.
///
/// # Panics
/// If it is missing and the script does not say so.
pub fn brought(name: &str) -> Option<PathBuf> {
    let tools = root().join("target/tools");
    let places = [tools.join("python/bin").join(name), tools.join(name), tools.join(format!("node_modules/@{name}"))];
    if let Some(path) = places.into_iter().find(|path| path.exists()) {
        return Some(path);
    }
    let unavailable = fs::read_to_string(tools.join("unavailable")).unwrap_or_default();
    assert!(unavailable.lines().any(|line| line == name), "{name} is missing: run scripts/install-test-needs");
    not_run(&format!("{name}, which could not be installed"));
    None
}

/// Says what was not run and why, past the harness, which keeps to itself what tests print.
pub fn not_run(what: &str) {
    let said = writeln!(std::io::stderr().lock(), "NOT RUN: {what}");
    said.expect("standard error takes a line");
}

/// Runs a tool to its end, in the repository's folder.
///
/// # Panics
/// If it cannot be started.
pub fn run(tool: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LONGEST_S]).arg(tool).args(arguments).current_dir(root()).stdin(Stdio::null());
    let ended = command.output().unwrap_or_else(|error| panic!("{}: {error}", tool.display()));
    let output = String::from_utf8_lossy(&ended.stdout).into_owned();
    let text = format!("{output}{}", String::from_utf8_lossy(&ended.stderr));
    Said { is_content: ended.status.success(), output, text }
}

/// A path as an argument.
///
/// # Panics
/// If it is no text.
pub fn text_of(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

/// A file of `deploy/`.
///
/// # Panics
/// If it cannot be read.
pub fn file(name: &str) -> String {
    let path = root().join("deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a YAML file.
///
/// # Panics
/// If it is none.
pub fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(|document| Value::deserialize(document).expect("YAML"));
    documents.filter(|document| !document.is_null()).collect()
}

/// The one document of a YAML file.
///
/// # Panics
/// If there is another number of them.
pub fn document(text: &str) -> Value {
    let mut all = documents(text);
    assert_eq!(all.len(), 1, "one document");
    all.remove(0)
}
