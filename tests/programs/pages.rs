//! The pages of `docs/` that show how a fleet is used: their commands, as they stand there, on a real fleet; and that what they name is there.
//!
//! A page's commands run one after the other, in a folder that has the page's files. One that ends with `&` is a fleet that goes on. The comment `# → TEXT` behind a command says what it shows.

use std::{fs, path::Path, process::Stdio, time::Duration};

use fake_nvidia::FakeMachine;
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    pages::{Typed, blocks, commands, page, root},
    program::{Program, path, typed},
    until::until,
};

use crate::{
    clients::Client,
    onnx,
    python_package::{package, python},
    servers::Servers,
};

/// Pages, and how many lines each may have.
const PAGES: [(&str, usize); 8] = [
    ("docs/data.md", 120),
    ("docs/handlers.md", 100),
    ("docs/models.md", 60),
    ("docs/kernels.md", 60),
    ("docs/executors.md", 60),
    ("docs/strategies.md", 60),
    ("docs/terminal.md", 60),
    ("docs/observing.md", 100),
];
/// Longest run of a page's program. Generous: it bounds a hang.
const LONGEST: Duration = Duration::from_secs(120);
/// What `scripts/install-test-needs` has done already; other tests hold that it did.
const DONE_ALREADY: [&str; 2] = ["pip install ", "make "];
/// The page's port is anybody's; here the fleet takes a free one.
const NAMES_THE_FLEET: &str = "export GPUFLEET_URL=";
/// Folders of the repository whose files pages name.
const FOLDERS: [&str; 8] = ["src/", "workers/", "tests/", "docs/", "schemas/", "deploy/", "examples/", "scripts/"];

/// Somebody who does as a page says.
struct Reader {
    fleets: Vec<Program>,
    variables: Vec<(String, String)>,
    folder: TempDir,
    /// How many commands showed what the page says.
    shown: usize,
}

impl Reader {
    fn new() -> Self {
        let bin = python().parent().expect("a folder").display().to_string();
        let folder = tempfile::tempdir().expect("a folder");
        let mut this = Self { fleets: Vec::new(), variables: Vec::new(), folder, shown: 0 };
        this.sets("PATH", format!("{bin}:{}", path()));
        this.sets("PYTHONPATH", package().display().to_string());
        this.sets("GPUFLEET__GATEWAY__LISTEN", "127.0.0.1:0".to_owned());
        this
    }

    fn sets(&mut self, name: &str, value: String) {
        self.variables.push((name.to_owned(), value));
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn writes(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// Types every command of a page. How many of them showed what it says.
    async fn follows(mut self, name: &str) -> usize {
        for block in blocks(&page(name), "sh") {
            for command in commands(&block) {
                self.types(&command).await;
            }
        }
        self.shown
    }

    async fn types(&mut self, command: &Typed) {
        let Typed { line, shows } = command;
        if DONE_ALREADY.iter().any(|done| line.starts_with(done)) || line.starts_with(NAMES_THE_FLEET) {
            return;
        }
        if let Some(fleet) = line.strip_suffix('&') {
            return self.starts(fleet).await;
        }
        let ended = typed(self.folder.path(), line, &self.variables()).await;
        assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
        if let Some(shows) = shows {
            let output = ended.output.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(output.contains(shows.as_str()), "{line} should show {shows}: {ended:?}");
            self.shown += 1;
        }
    }

    /// The rows of a listing.
    async fn lists(&self, line: &str) -> Vec<Value> {
        serde_json::from_str(&typed(self.folder.path(), line, &self.variables()).await.output).unwrap_or_default()
    }

    /// Starts a fleet, and waits until all of its GPUs can be claimed and have described their kinds.
    async fn starts(&mut self, line: &str) {
        let within = format!("cd '{}' && exec {line}", self.folder.path().display());
        let fleet = Program::start_at(Path::new("sh"), ["-c", within.as_str()], &self.variables());
        if line.starts_with("gpufleet up") {
            self.sets("GPUFLEET_URL", fleet.url().await);
        }
        self.fleets.push(fleet);
        until("its GPUs are eligible, and their kinds described", async || {
            let rows = self.lists("gpufleet gpus --json").await;
            let kinds = self.lists("gpufleet kinds --json").await;
            let is_described = |kind: &Value| kind["kind"] == "echo" && kind["schema"].is_object();
            !rows.is_empty() && rows.iter().all(|row| row["eligible"] == true) && kinds.iter().any(is_described)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_page_on_handlers_run() {
    let reader = Reader::new();
    reader.writes("shout.py", &blocks(&page("docs/handlers.md"), "python")[0]);
    assert_eq!(reader.follows("docs/handlers.md").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_page_on_models_run() {
    let reader = Reader::new();
    std::os::unix::fs::symlink(onnx::fetched(), reader.folder.path().join("models")).expect("a link");
    assert_eq!(reader.follows("docs/models.md").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_page_on_data_run() {
    assert_eq!(Reader::new().follows("docs/data.md").await, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_of_the_page_on_data_keeps_and_gets_tensors_over_amqp() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    let mut program = tokio::process::Command::from(Client::Pika.runs(&blocks(&page("docs/data.md"), "python")[0]));
    program.env("AMQP_URL", servers.amqp().reveal()).env("QUEUE", servers.pool_queue());
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = tokio::time::timeout(LONGEST, program.output()).await.expect("it ends").expect("it starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(String::from_utf8_lossy(&ended.stdout).trim(), "3.5 5.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_page_on_strategies_run() {
    assert_eq!(Reader::new().follows("docs/strategies.md").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_page_on_kernels_run_on_a_host_whose_libraries_are_fakes() {
    let (machine, servers, mut reader) = (FakeMachine::new(1), Servers::fresh().await, Reader::new());
    for (name, value) in machine.environment().into_iter().chain(servers.variables()) {
        reader.sets(name, value);
    }
    let locks = reader.folder.path().join("locks").display().to_string();
    reader.sets("GPUFLEET__GPU__LOCK_FOLDER", locks);
    reader.writes("modules/saxpy.cu", &blocks(&page("docs/kernels.md"), "cuda")[0]);
    assert_eq!(reader.follows("docs/kernels.md").await, 3);
}

#[test]
fn each_page_is_short_and_every_file_that_it_names_is_there() {
    for (name, lines_max) in PAGES {
        let text = page(name);
        assert!(text.lines().count() <= lines_max, "{name} has {} lines, of {lines_max}", text.lines().count());
        for quoted in text.split('`') {
            let is_path = FOLDERS.iter().any(|folder| quoted.starts_with(folder)) && !quoted.contains(char::is_whitespace);
            assert!(!is_path || root().join(quoted).exists(), "{name} names {quoted}, which is not there");
        }
    }
}
