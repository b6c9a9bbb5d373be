//! A supervisor in this process, with scripts as its children, and what it wrote.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gpu_host::{ChildPlan, LogSink, Stop, SupervisorError, SupervisorOptions, supervise};
use protocol::{
    Environment, GpuId,
    environment::{Clock, Job, Random, Spawn},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tracing::subscriber::DefaultGuard;

/// Longest wait. Generous: it bounds a hang, it does not measure speed.
const LONGEST: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(BETWEEN).await;
        }
    };
    assert!(tokio::time::timeout(LONGEST, holds).await.is_ok(), "waited {LONGEST:?} in vain until {what}");
}

/// Whether a process is no more, or only waits to be reaped by whoever took it over.
pub fn is_gone(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let state = state.as_deref().and_then(|stat| stat.rsplit_once(") "));
    state.is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// The number in a file, once it is written with its end of line.
pub fn number_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()
}

/// Keeps what is written.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No chance: every pause is half of the full one.
struct Least;

impl Random for Least {
    fn next_u64(&self) -> u64 {
        0
    }
}

impl Clock for Least {
    fn now_us(&self) -> u64 {
        0
    }
}

impl Spawn for Least {
    fn spawn(&self, _: &'static str, _: Job) {}
}

/// An environment without chance.
pub fn environment() -> Environment {
    Environment { clock: Arc::new(Least), random: Arc::new(Least), spawner: Arc::new(Least), traces: None }
}

/// Options whose pauses are short.
pub fn quick() -> SupervisorOptions {
    SupervisorOptions { first_pause: Duration::from_millis(20), longest_pause: Duration::from_millis(80), ..SupervisorOptions::default() }
}

/// A supervisor and its children. They end with it, and it ends with the test.
pub struct Supervised {
    pub stop: Stop,
    pub log: Kept,
    folder: TempDir,
    events: Kept,
    running: JoinSet<Result<(), SupervisorError>>,
    _subscriber: DefaultGuard,
}

impl Supervised {
    /// Supervises one `sh` per script, in a folder of their own: GPUs `GPU-0`, `GPU-1`, …
    pub fn start(options: SupervisorOptions, scripts: &[&str]) -> Self {
        let log = Kept::default();
        Self::with_sink(options, scripts, LogSink::new(log.clone()), log)
    }

    pub fn with_sink(options: SupervisorOptions, scripts: &[&str], sink: LogSink, log: Kept) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let plans = scripts.iter().enumerate().map(|(number, script)| plan(number, folder.path(), script)).collect();
        Self::with_plans(options, plans, sink, log, folder)
    }

    fn with_plans(options: SupervisorOptions, plans: Vec<ChildPlan>, sink: LogSink, log: Kept, folder: TempDir) -> Self {
        let events = Kept::default();
        let writer = Mutex::new(events.clone());
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(writer).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let stop = Stop::default();
        let mut running = JoinSet::new();
        let stopped = stop.clone();
        running.spawn(supervise(plans, stopped, options, sink, environment()));
        Self { stop, log, folder, events, running, _subscriber: guard }
    }

    /// A file in the scripts' folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How many lines a file in the scripts' folder has.
    pub fn lines_in(&self, name: &str) -> usize {
        fs::read_to_string(self.file(name)).unwrap_or_default().lines().count()
    }

    /// Waits for a process id in a file.
    pub async fn pid_in(&self, name: &str) -> u32 {
        let path = self.file(name);
        until(&format!("{name} has a process id"), || number_in(&path).is_some()).await;
        number_in(&path).expect("just read")
    }

    /// The supervisor's events about the end of a child.
    pub fn ends(&self) -> Vec<Value> {
        self.events().into_iter().filter(|event| event.get("lived_ms").is_some()).collect()
    }

    /// All of the supervisor's events.
    pub fn events(&self) -> Vec<Value> {
        let text = self.events.text();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the supervisor ends.
    pub async fn ended(&mut self) -> Result<(), SupervisorError> {
        let ended = tokio::time::timeout(LONGEST, self.running.join_next()).await.expect("the supervisor ends");
        ended.expect("it was started").expect("it does not panic")
    }

    /// Drops the supervisor without a word.
    pub async fn abort(&mut self) {
        self.running.shutdown().await;
    }
}

/// Runs a script with `sh`, in `folder`.
fn plan(number: usize, folder: &Path, script: &str) -> ChildPlan {
    ChildPlan {
        gpu_id: gpu(number),
        program: "/bin/sh".into(),
        arguments: ["-c".into(), format!("cd \"$FOLDER\" || exit 1\n{script}").into()].into(),
        variables: vec![("FOLDER".into(), folder.into())],
    }
}

pub fn gpu(number: usize) -> GpuId {
    GpuId::new(format!("GPU-{number}")).expect("an id")
}
