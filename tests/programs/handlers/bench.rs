//! A handler in Python, run as a worker runs it, beside a simulated GPU.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use devices::Device;
use executors::{
    Executor, Failure, Listening, Report, Reports, Run,
    handlers::{self, HandlerError},
};
use protocol::{Framed, Segments, Task, config::HandlerSection};
use serde_json::{Value, json};
pub(super) use tests::executing::task;
use tests::{
    executing::{place, run_of, simulated_gpu},
    program::{self, is_running},
    until::until,
};
use tokio_util::sync::CancellationToken;

const PROGRAM: &str = include_str!("handler.py");

/// What a payload came to.
pub(super) type Answer = Result<Framed, Failure>;

/// The command line of the handler in Python, which is written into `folder`.
pub(super) fn command(folder: &Path, mode: &str) -> Vec<String> {
    let file = folder.join("handler.py");
    fs::write(&file, PROGRAM).expect("written");
    vec!["python3".to_owned(), file.display().to_string(), mode.to_owned()]
}

/// A handler that runs.
pub(super) struct Bench {
    pub(super) executors: BTreeMap<String, Arc<dyn Executor>>,
    pub(super) device: Arc<dyn Device>,
    pub(super) folder: tempfile::TempDir,
}

/// A section for the handler in Python; `with` changes it.
pub(super) async fn try_start(mode: &str, with: impl FnOnce(&mut HandlerSection)) -> Result<Bench, HandlerError> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut section = HandlerSection { command: command(folder.path(), mode), ..HandlerSection::default() };
    section.name = Some("told".to_owned());
    section.environment.insert("FOLDER".to_owned(), folder.path().display().to_string());
    with(&mut section);
    let executors = handlers::start(&section, place(program::binary())).await?;
    let executors = executors.into_iter().map(|executor| (executor.kind().as_str().to_owned(), executor)).collect();
    Ok(Bench { executors, device: simulated_gpu(), folder })
}

/// As [`try_start`], once its kinds are up.
pub(super) async fn start(mode: &str, with: impl FnOnce(&mut HandlerSection)) -> Bench {
    let bench = try_start(mode, with).await.expect("it starts");
    bench.up("do").await;
    bench
}

/// A task that was begun elsewhere.
pub(super) struct Begun {
    pub(super) cancel: CancellationToken,
    pub(super) reports: Reports,
    pub(super) running: tokio::task::JoinHandle<Answer>,
}

impl Bench {
    pub(super) fn kind(&self, kind: &str) -> &Arc<dyn Executor> {
        self.executors.get(kind).unwrap_or_else(|| panic!("no kind {kind}"))
    }

    /// Waits until a kind is up.
    pub(super) async fn up(&self, kind: &str) {
        until("the kind is up", async || self.kind(kind).is_up().is_ok()).await;
    }

    /// Runs a task of the kind `do`.
    pub(super) async fn run(&self, payload: Value) -> Answer {
        self.run_kind("do", payload, Segments::none()).await
    }

    pub(super) async fn run_kind(&self, kind: &str, payload: Value, segments: Segments) -> Answer {
        let task = task(kind, payload, segments);
        run(Arc::clone(self.kind(kind)), Arc::clone(&self.device), task, Report::to_nobody(), CancellationToken::new()).await
    }

    /// The number of the process that runs tasks.
    pub(super) async fn pid(&self) -> u32 {
        self.run(json!({"do": "pid"})).await.expect("a number").json.to().expect("a number")
    }

    /// Begins a task, and waits until it says something of itself.
    pub(super) async fn begin(&self, payload: Value) -> Begun {
        let (cancel, (report, mut reports)) = (CancellationToken::new(), Report::new(Listening::ToPartialsToo));
        let task = task("do", payload, Segments::none());
        let running = run(Arc::clone(self.kind("do")), Arc::clone(&self.device), task, report, cancel.clone());
        let running = tokio::spawn(running);
        reports.progress.changed().await.expect("it says that it has begun");
        Begun { cancel, reports, running }
    }
}

async fn run(executor: Arc<dyn Executor>, device: Arc<dyn Device>, task: Task, report: Report, cancel: CancellationToken) -> Answer {
    executor.run(Run { report, cancel, ..run_of(&task, &device) }).await
}

/// Waits until a process is gone.
pub(super) async fn gone(pid: u32) {
    until("the process is gone", async || !is_running(pid)).await;
}
