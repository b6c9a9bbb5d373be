//! Programs in Python: what is run beside the fleet, and handlers that the fleet runs.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use devices::{Device, NvidiaGpu};
use executors::{
    Executor,
    handlers::{self, HandlerPlace},
};
use protocol::config::HandlerSection;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::Instant,
};

use crate::{
    Fault,
    arguments::Scale,
    bench::Bench,
    fleet::{Fleet, Plan},
    processes::is_shared,
};

/// Longest from a handler's start until its kinds are up: it imports PyTorch.
const UP: Duration = Duration::from_secs(60);
const PROGRAM: &str = "python3";

/// What there is to run a check of handlers with.
pub struct Place {
    pub folder: TempDir,
    package: PathBuf,
    launcher: PathBuf,
}

impl Place {
    /// Why there is none comes as a text, for the report.
    pub async fn look(bench: &Bench) -> Result<Result<Self, String>, Fault> {
        if bench.scale == Scale::Quick {
            return Ok(Err("a quick run does without: PyTorch knows no fake libraries".to_owned()));
        }
        if !is_shared().await {
            return Ok(Err("one process at a time may use this GPU".to_owned()));
        }
        let launcher = std::env::current_exe()?.with_file_name("gpufleet");
        let package = std::env::current_dir()?.join("workers/python");
        if let Some(missing) = [&launcher, &package].into_iter().find(|path| !path.exists()) {
            return Ok(Err(format!("{} is not there", missing.display())));
        }
        Ok(Ok(Self { folder: tempfile::tempdir()?, package, launcher }))
    }

    /// One of the package's ready handlers, with its model in the folder.
    pub fn ready(&self, file: &str) -> HandlerSection {
        let model = ("MODEL".to_owned(), self.folder.path().display().to_string());
        self.section(self.package.join("handlers").join(file), [model].into())
    }

    /// A handler with this text.
    pub fn written(&self, file: &str, text: &str, environment: BTreeMap<String, String>) -> Result<HandlerSection, Fault> {
        let path = self.folder.path().join(file);
        fs::write(&path, text)?;
        Ok(self.section(path, environment))
    }

    fn section(&self, file: PathBuf, mut environment: BTreeMap<String, String>) -> HandlerSection {
        environment.insert("PYTHONPATH".to_owned(), self.package.display().to_string());
        HandlerSection { file: Some(file), python: PathBuf::from(PROGRAM), environment, ..HandlerSection::default() }
    }

    /// A fleet on this GPU with these handlers, once their kinds are up.
    pub async fn fleet(&self, gpu: &Arc<NvidiaGpu>, modules: &Path, sections: &[HandlerSection]) -> Result<Fleet, Fault> {
        let mut plan = Plan::of(Arc::clone(gpu) as Arc<dyn Device>, modules);
        // Each conviction costs starts of PyTorch.
        plan.configuration.worker.crashes_max = 2;
        for section in sections {
            let place = HandlerPlace { gpu: gpu.description().clone(), is_simulated: false, slots: 8, launcher: self.launcher.clone() };
            let started = handlers::start(section, place).await?;
            for executor in &started {
                up(executor).await?;
            }
            plan.executors = started.into_iter().fold(plan.executors, executors::Executors::with);
        }
        Fleet::of(plan).await
    }
}

/// Waits until its kind is up. A set-up that fails is tried again meanwhile.
async fn up(executor: &Arc<dyn Executor>) -> Result<(), Fault> {
    let deadline = Instant::now() + UP;
    loop {
        let Err(why) = executor.is_up() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(format!("{} was not up within {} s: {why}", executor.kind(), UP.as_secs()).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A program that answers a line of JSON with a line of JSON.
pub struct Program {
    /// What it said first.
    pub said: Value,
    asked: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// It ends when this is dropped.
    _child: Child,
}

impl Program {
    /// Starts it. Where it ends with one of these codes before it says anything, that is the reason why there is none.
    pub async fn start(text: &str, folder: &Path, codes: &[(i32, &str)]) -> Result<Result<Self, String>, Fault> {
        let mut python = Command::new(PROGRAM);
        python.arg("-c").arg(text).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = match python.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err(format!("there is no `{PROGRAM}` here"))),
            Err(error) => return Err(error.into()),
        };
        let asked = child.stdin.take().ok_or("no standard input")?;
        let mut answers = BufReader::new(child.stdout.take().ok_or("no standard output")?).lines();
        let Some(line) = answers.next_line().await? else {
            let code = child.wait().await?.code();
            let why = codes.iter().find(|(known, _)| Some(*known) == code);
            let (_, why) = why.ok_or_else(|| format!("the program in Python ended with {code:?} before it began"))?;
            return Ok(Err((*why).to_owned()));
        };
        Ok(Ok(Self { said: serde_json::from_str(&line)?, asked, answers, _child: child }))
    }

    /// Its answer.
    pub async fn ask(&mut self, question: &Value) -> Result<Value, Fault> {
        self.asked.write_all(format!("{question}\n").as_bytes()).await?;
        let line = self.answers.next_line().await?.ok_or("the program in Python ended")?;
        Ok(serde_json::from_str(&line)?)
    }
}
