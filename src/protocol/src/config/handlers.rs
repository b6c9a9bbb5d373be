//! Programs of the user's that run kinds.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Kind;

/// One of `handlers:`. A worker runs it in processes of its own, beside each of its GPUs (`schemas/handler.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HandlerSection {
    /// What the log, `gpufleet gpus` and `doctor` call it. Default: the stem of `file`, or the last part of the command's first word.
    pub name: Option<String>,
    /// A Python file, or the name of a module, with functions that are decorated with `@task`. It is run as `<python> -m gpufleet <file>`. Either this or `command` is given.
    pub file: Option<PathBuf>,
    /// The Python that runs `file`. Default: `python3`.
    pub python: PathBuf,
    /// The program and its arguments, of a handler in another language.
    pub command: Vec<String>,
    /// How it speaks with its worker. Default: `frames`.
    pub protocol: HandlerProtocol,
    /// The kinds that it runs. Default: those that it names itself; then a worker waits for its first `hello` before it takes tasks. Required with `lines`.
    pub kinds: Vec<Kind>,
    /// How many processes of it run beside each GPU. Default: 1.
    #[schemars(range(min = 1, max = 64))]
    pub processes: u32,
    /// How many tasks a process runs at once where the handler does not say that itself. Default: 1.
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,
    /// Variables of its environment, beside those that it always has. It has none of its worker's, but for `PATH`, `HOME`, `LANG`, `TZ`, `TMPDIR`, `LD_LIBRARY_PATH`, `PYTHONPATH`, `VIRTUAL_ENV` and what begins with
    /// `CUDA_`, `NVIDIA_`, `HF_`, `TORCH_`, `OMP_` and `MKL_`. A number is written out as YAML reads it: quote one whose spelling matters (`"1.10"`).
    #[serde(deserialize_with = "texts")]
    pub environment: BTreeMap<String, String>,
    /// Its working directory. Default: the worker's.
    pub directory: Option<PathBuf>,
    /// How long it may take from its start to `ready`, in ms: imports, models, warm-up. Default: 300,000.
    #[schemars(range(min = 100, max = 3_600_000))]
    pub start_timeout_ms: u64,
    /// A process that does not answer a ping for so long hangs, and is ended, in ms. Default: 30,000.
    #[schemars(range(min = 100, max = 3_600_000))]
    pub hang_timeout_ms: u64,
    /// How long a run may take to end after it was asked to, and again after it was interrupted, before its process is ended; and how long a process may take to end when it is drained, in ms. Default: 2,000.
    #[schemars(range(min = 10, max = 600_000))]
    pub stop_timeout_ms: u64,
    /// A process without work for so long is ended, and started again for the next task, in ms. Default: none, it stays.
    #[schemars(range(min = 1_000))]
    pub idle_timeout_ms: Option<u64>,
    /// Most that the memory of a process and of those that it started may come to together on the host, in MB (10^6 bytes); one that has more is ended. Default: none.
    #[schemars(range(min = 1))]
    pub memory_mb: Option<u64>,
    /// A process is started anew, between tasks, after so many of them. Default: none.
    #[schemars(range(min = 1))]
    pub restart_after_tasks: Option<u64>,
    /// A process is started anew, between tasks, once its memory has grown by so much since it was ready, in MB (10^6 bytes). Default: none.
    #[schemars(range(min = 1))]
    pub restart_after_growth_mb: Option<u64>,
}

/// A value that stands for its text.
#[derive(Deserialize)]
#[serde(untagged, expecting = "must be text, a number, true or false")]
enum Plain {
    Text(String),
    Truth(bool),
    Natural(u64),
    Integer(i64),
    Number(f64),
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let given = BTreeMap::<String, Plain>::deserialize(deserializer)?;
    let text = |plain| match plain {
        Plain::Text(text) => text,
        Plain::Truth(truth) => truth.to_string(),
        Plain::Natural(number) => number.to_string(),
        Plain::Integer(number) => number.to_string(),
        Plain::Number(number) => number.to_string(),
    };
    Ok(given.into_iter().map(|(name, plain)| (name, text(plain))).collect())
}

impl Default for HandlerSection {
    fn default() -> Self {
        Self {
            name: None,
            file: None,
            python: PathBuf::from("python3"),
            command: Vec::new(),
            protocol: HandlerProtocol::Frames,
            kinds: Vec::new(),
            processes: 1,
            concurrency: 1,
            environment: BTreeMap::new(),
            directory: None,
            start_timeout_ms: 300_000,
            hang_timeout_ms: 30_000,
            stop_timeout_ms: 2_000,
            idle_timeout_ms: None,
            memory_mb: None,
            restart_after_tasks: None,
            restart_after_growth_mb: None,
        }
    }
}

impl HandlerSection {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> String {
        let of = |path: &std::path::Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let from_command = || self.command.first().and_then(|program| of(program.as_ref()));
        self.name.clone().or_else(|| self.file.as_deref().and_then(of)).or_else(from_command).unwrap_or_else(|| "handler".to_owned())
    }

    /// The program and its arguments.
    #[must_use]
    pub fn command_line(&self) -> Vec<String> {
        match &self.file {
            Some(file) => {
                let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
                vec![text(&self.python), "-m".to_owned(), "gpufleet".to_owned(), text(file)]
            }
            None => self.command.clone(),
        }
    }
}

/// How a handler and its worker speak with each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HandlerProtocol {
    /// Frames over a socket that the process inherits: everything that the protocol has.
    #[default]
    Frames,
    /// JSON lines over standard input and output, one task at a time: for shell scripts.
    Lines,
}
