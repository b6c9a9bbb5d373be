//! The processes of the fleet: workers and a gateway, as their users run them, from the release build.
//!
//! Each place has one process at a time. What is measured of a process is told apart by its life: the number of processes that its place has had, this one included.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fake_nvidia::FakeMachine;
use gpu_table::GpuTable;
use protocol::PoolName;
use tempfile::TempDir;
use tests::{
    ports::ReservedPort,
    program::{Program, beside_this, is_running},
};
use tokio::time::{Instant, sleep};

use crate::{Fault, options::Options, servers::Servers};

/// The place of the gateway.
pub(crate) const GATEWAY: &str = "gateway";
/// Worker processes with simulated GPUs. The first of them is never stopped: a leak shows in a process that lives long.
pub(crate) const WORKERS: usize = 3;
/// GPUs of each.
pub(crate) const GPUS_OF_EACH: usize = 2;
/// The place of the worker with the fake NVIDIA GPU.
const NVIDIA: &str = "nvidia";
/// Its pool: what it is sent is for it alone.
pub(crate) const NVIDIA_POOL: &str = "nvidia";
/// How long a process may take until it serves. Python starts with it, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// Lines of its log that are kept of a process that has ended.
const LOG_LINES: usize = 200;

/// How a process is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As an orderly restart does it.
    Term,
    /// As the kernel does it when memory is short.
    Kill,
}

impl End {
    const fn signal(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
        }
    }
}

/// What a place's processes are started with.
struct Place {
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    /// Where they listen; `None`: they show nothing.
    port: Option<ReservedPort>,
    lives: u32,
    /// `None` while it is restarted.
    running: Option<Program>,
}

/// One running process.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Its place, and which life it is: `worker-1.3`.
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// Where it shows its metrics.
    pub(crate) metrics: Option<String>,
}

/// All of them. They end with the soak.
pub(crate) struct Programs {
    servers: Arc<Servers>,
    program: PathBuf,
    http: reqwest::Client,
    logs: PathBuf,
    places: Mutex<BTreeMap<String, Place>>,
    /// What ended though nobody had ended it, or ended otherwise than it should.
    complaints: Mutex<Vec<String>>,
    _nvidia: Option<Nvidia>,
}

/// A machine of its own for the worker with the fake GPU.
struct Nvidia {
    machine: FakeMachine,
    _locks: TempDir,
}

impl Programs {
    /// Starts all, and waits until every GPU can be claimed.
    pub(crate) async fn start(servers: Arc<Servers>, options: &Options) -> Result<Arc<Self>, Fault> {
        let logs = options.folder.join("logs");
        fs::create_dir_all(&logs)?;
        let common = servers.arguments()?;
        let mut places: BTreeMap<String, Place> = (0..WORKERS).map(|number| (worker(number), worker_place(number, &common))).collect();
        places.insert(GATEWAY.to_owned(), gateway_place(&common));
        let nvidia = options.matmul.then(nvidia_machine).transpose()?;
        if let Some((nvidia, place)) = &nvidia {
            let arguments = [&place[..], &common[..]].concat();
            let variables = nvidia.machine.environment();
            places.insert(NVIDIA.to_owned(), Place { arguments, variables, port: None, lives: 0, running: None });
        }
        let names: Vec<String> = places.keys().cloned().collect();
        let programs = Arc::new(Self {
            servers,
            program: beside_this()?,
            http: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?,
            logs,
            places: Mutex::new(places),
            complaints: Mutex::default(),
            _nvidia: nvidia.map(|(nvidia, _)| nvidia),
        });
        for name in &names {
            programs.start_one(name);
        }
        for name in &names {
            programs.until_it_serves(name).await?;
        }
        programs.until_eligible(&PoolName::default(), WORKERS * GPUS_OF_EACH).await?;
        if options.matmul {
            programs.until_eligible(&PoolName::new(NVIDIA_POOL)?, 1).await?;
        }
        Ok(programs)
    }

    /// The running ones.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let places = self.places();
        let running = places.iter().filter_map(|(name, place)| Some((name, place, place.running.as_ref()?)));
        let seen = running.map(|(name, place, program)| Seen {
            name: format!("{name}.{}", place.lives),
            pid: program.pid(),
            metrics: place.port.as_ref().map(|port| format!("{}/metrics", url_of(port))),
        });
        seen.collect()
    }

    /// `http://127.0.0.1:…` of the gateway, the same in all of its lives.
    pub(crate) fn gateway_url(&self) -> String {
        self.places().get(GATEWAY).and_then(|place| place.port.as_ref()).map_or_else(String::new, url_of)
    }

    /// Ends a place's process and starts the next one.
    pub(crate) async fn restart(&self, name: &str, end: End) -> Result<(), Fault> {
        let ended = self.places().get_mut(name).and_then(|place| place.running.take());
        if let Some(program) = ended {
            self.end_one(name, &program, end).await;
        }
        self.start_one(name);
        self.until_it_serves(name).await
    }

    /// Looks for processes that have ended by themselves. Each is complained about once, and the next one started.
    pub(crate) fn look_for_ended(&self) {
        let mut ended = Vec::new();
        for (name, place) in self.places().iter_mut() {
            if let Some(program) = place.running.take_if(|program| !is_running(program.pid())) {
                self.keep_log(name, &program);
                self.complain(format!("{name}.{} ended though nobody had ended it; the end of its log is kept", place.lives));
                ended.push(name.clone());
            }
        }
        ended.iter().for_each(|name| self.start_one(name));
    }

    /// What was found, in sentences.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all in good order.
    pub(crate) async fn stop(&self) {
        self.look_for_ended();
        let running: Vec<(String, Program)> =
            self.places().iter_mut().filter_map(|(name, place)| Some((name.clone(), place.running.take()?))).collect();
        for (name, program) in &running {
            self.end_one(name, program, End::Term).await;
        }
    }

    async fn end_one(&self, name: &str, program: &Program, end: End) {
        if is_running(program.pid()) {
            program.signal(end.signal());
            let code = program.exit_code().await;
            if end == End::Term && code != 0 {
                self.complain(format!("{name} ended with the exit code {code} after SIGTERM; the end of its log is kept"));
            }
        } else {
            self.complain(format!("{name} ended though nobody had ended it; the end of its log is kept"));
        }
        self.keep_log(name, program);
    }

    fn start_one(&self, name: &str) {
        if let Some(place) = self.places().get_mut(name) {
            let variables: Vec<(&str, &str)> = place.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            place.running = Some(Program::start_at(&self.program, &place.arguments, &variables));
            place.lives += 1;
        }
    }

    /// Until it answers that it is ready, where it listens.
    async fn until_it_serves(&self, name: &str) -> Result<(), Fault> {
        let Some(url) = self.places().get(name).and_then(|place| place.port.as_ref()).map(url_of) else { return Ok(()) };
        let ready = format!("{url}/readyz");
        let is_ready = async || {
            let Ok(answer) = self.http.get(&ready).send().await else { return false };
            // A worker whose GPUs an operator drains says so from its start, and is not ready for as long as they are.
            answer.status().is_success() || answer.text().await.is_ok_and(|text| text.contains("\"draining\""))
        };
        within(START_LIMIT, &format!("{name} is ready"), is_ready).await
    }

    async fn until_eligible(&self, pool: &PoolName, gpus: usize) -> Result<(), Fault> {
        let table = self.servers.table()?;
        let eligible = async || table.rows(pool).await.is_ok_and(|rows| rows.iter().filter(|row| row.eligible).count() == gpus);
        within(START_LIMIT, &format!("{gpus} GPUs of the pool {pool} are eligible"), eligible).await
    }

    /// Its folder goes with it.
    fn keep_log(&self, name: &str, program: &Program) {
        let log = program.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        let file = fs::OpenOptions::new().create(true).append(true).open(self.logs.join(format!("{name}.log")));
        // A log that cannot be kept is no reason to end a run of hours.
        let _kept = file.and_then(|mut file| writeln!(file, "--- the process {} of {name}\n{end}", program.pid()));
    }

    fn complain(&self, sentence: String) {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).push(sentence);
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a worker.
pub(crate) fn worker(number: usize) -> String {
    format!("worker-{number}")
}

/// The GPUs of a worker.
pub(crate) fn gpus_of(number: usize) -> impl Iterator<Item = String> {
    (0..GPUS_OF_EACH).map(move |gpu| format!("w{number}-{gpu}"))
}

fn worker_place(number: usize, common: &[String]) -> Place {
    let port = ReservedPort::take();
    let (gpus, prefix) = (GPUS_OF_EACH.to_string(), format!("w{number}"));
    let listens = format!("worker.metrics_listen=127.0.0.1:{}", port.number());
    let own = ["worker", "--simulated", &gpus, "--id-prefix", &prefix, "--set", &listens].map(str::to_owned);
    Place { arguments: [&own[..], common].concat(), variables: Vec::new(), port: Some(port), lives: 0, running: None }
}

fn gateway_place(common: &[String]) -> Place {
    let port = ReservedPort::take();
    let own = ["gateway", "--listen", &format!("127.0.0.1:{}", port.number())].map(str::to_owned);
    Place { arguments: [&own[..], common].concat(), variables: Vec::new(), port: Some(port), lives: 0, running: None }
}

/// The machine, and what its worker is told beside the rest.
fn nvidia_machine() -> Result<(Nvidia, Vec<String>), Fault> {
    let (machine, locks) = (FakeMachine::new(1), tempfile::tempdir()?);
    let settings = [format!("worker.pool={NVIDIA_POOL}"), format!("gpu.lock_folder={}", locks.path().display())];
    let settings = settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]);
    Ok((Nvidia { machine, _locks: locks }, std::iter::once("worker".to_owned()).chain(settings).collect()))
}

fn url_of(port: &ReservedPort) -> String {
    format!("http://127.0.0.1:{}", port.number())
}

/// Waits until a condition holds, for so long.
///
/// # Errors
/// It did not.
pub(crate) async fn within(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<(), Fault> {
    let deadline = Instant::now() + limit;
    while !condition().await {
        if Instant::now() > deadline {
            return Err(format!("waited {limit:?} in vain until {what}").into());
        }
        sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}
