//! The soak: a fleet of real processes on real servers works for hours while workers, gateway and servers are killed, restarted and drained.
//!
//! Every task is in a ledger and must have its one reply; memory, descriptors, connections, keys, queues and latencies are sampled and must not grow; in the end nothing may be left. All
//! servers are private to the run and end with it.

mod faults;
mod history;
mod judge;
mod keys;
mod ledger;
mod load;
mod options;
mod pace;
mod programs;
mod quiesce;
mod replies;
mod report;
mod sampler;
mod servers;
mod streams;
mod upsets;

use std::{fs, process::ExitCode, sync::Arc, time::Duration};

use tests::{facts::Facts, output};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    history::History,
    ledger::Ledger,
    load::Load,
    options::Options,
    pace::Pace,
    programs::Programs,
    quiesce::Quiesce,
    report::Run,
    sampler::{EVERY, Sampler},
    servers::Servers,
    streams::Watch,
    upsets::Upsets,
};

/// Whatever keeps the soak from running.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The part of the run in which the rate is looked for, and its bounds.
const SEARCH: f64 = 0.15;
const SEARCH_RANGE: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(180)];

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1), rand::random_range(0..1_000_000)) {
        Ok(options) => options,
        Err(usage) => {
            output::line(&usage);
            return ExitCode::from(2);
        }
    };
    match soak(options).await {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(fault) => {
            output::note(&format!("soak: {fault}"));
            ExitCode::FAILURE
        }
    }
}

/// The parts of a run that others look at.
struct Parts {
    servers: Arc<Servers>,
    programs: Arc<Programs>,
    ledger: Arc<Ledger>,
    load: Arc<Load>,
    pace: Arc<Pace>,
    watch: Arc<Watch>,
}

async fn soak(options: Options) -> Result<Vec<String>, Fault> {
    fs::create_dir_all(&options.folder)?;
    let minutes = options.lasting.as_secs_f64() / 60.0;
    output::line(&format!("soak: {minutes:.1} minutes, seed {}; starts its servers", options.seed));
    let servers = Arc::new(Servers::start().await?);
    let facts = Facts::gather(servers.redis_version().await);
    output::line(&facts.line());
    replies::declare(&servers.amqp()).await?;
    let programs = Programs::start(servers.clone(), &options).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::connect(&servers, ledger.clone(), (options.seed, options.matmul)).await?;
    let (pace, watch) = (Arc::new(Pace::new(options.rate)), Arc::new(Watch::default()));
    let parts = Parts { servers, programs, ledger, load, pace, watch };
    let run = parts.run(facts, options).await?;
    let (report, failures) = (run.options.folder.join("report.md"), run.failures());
    run.write(&report)?;
    for failure in &failures {
        output::line(&format!("FAILED: {failure}"));
    }
    let verdict = if failures.is_empty() { "nothing was lost, nothing grew, nothing was left" } else { "it fails" };
    output::line(&format!("soak: {verdict}; the report is {}, the samples lie beside it", report.display()));
    Ok(failures)
}

impl Parts {
    async fn run(self, facts: Facts, options: Options) -> Result<Run, Fault> {
        let (arrivals, all) = (CancellationToken::new(), CancellationToken::new());
        let consumer = tokio::spawn(replies::consume(self.servers.amqp(), self.ledger.clone(), all.clone()));
        let arriving = tokio::spawn(self.load.clone().run(self.pace.clone(), arrivals.clone()));
        let streaming =
            tokio::spawn(streams::keep_open(self.programs.gateway_url(), self.load.clone(), self.watch.clone(), arrivals.clone()));
        let started = Instant::now();
        let plan = faults::planned(options.seed, options.lasting);
        output::line(&format!("{} faults are planned; tasks arrive", plan.len()));
        let upsets = Upsets::new(self.servers.clone(), self.programs.clone())?;
        let sampler = self.sampler(&options).await?;
        let (history, done, (), ()) = tokio::join!(
            sampler.run(arrivals.clone()),
            upsets.run(plan, arrivals.clone()),
            self.pace.search(searched(options.lasting), &arrivals),
            self.until_the_end(options.lasting, &arrivals),
        );
        let lasted = started.elapsed();
        let mut complaints = broken(arriving, "the load").await;
        complaints.extend(broken(streaming, "the streams").await);
        let (leftovers, watched) = (self.leftovers().await?, self.watch.now());
        all.cancel();
        complaints.extend(broken(consumer, "the consumer of replies").await);
        self.programs.stop().await;
        complaints.extend(self.programs.complaints());
        let balance = self.ledger.balance();
        Ok(Run { facts, options, lasted, history: history?, balance, done, watched, leftovers, complaints })
    }

    async fn sampler(&self, options: &Options) -> Result<Sampler, Fault> {
        Ok(Sampler {
            servers: self.servers.clone(),
            programs: self.programs.clone(),
            ledger: self.ledger.clone(),
            watch: self.watch.clone(),
            pace: self.pace.clone(),
            queue: self.servers.queue().await?,
            http: reqwest::Client::builder().no_proxy().timeout(EVERY / 2).build()?,
            history: History::create(&options.folder.join("samples.jsonl"))?,
        })
    }

    /// Ends the arrivals when it is time, or when somebody interrupts the run; says from time to time how far it is.
    async fn until_the_end(&self, lasting: Duration, arrivals: &CancellationToken) {
        let (started, every) = (Instant::now(), (lasting / 20).max(EVERY));
        let telling = async {
            while started.elapsed() < lasting {
                sleep(every.min(lasting - started.elapsed().min(lasting))).await;
                let (answers, open) = (self.ledger.answers(), self.ledger.open_tasks());
                let (minutes, rate) = (started.elapsed().as_secs_f64() / 60.0, self.pace.per_second());
                output::line(&format!("{minutes:6.1} min: {answers} replies, {open} tasks open, {rate:.1} arrivals a second"));
            }
        };
        tokio::select! {
            () = telling => {}
            _ = tokio::signal::ctrl_c() => output::line("soak: interrupted; it ends what it has begun"),
        }
        arrivals.cancel();
    }

    async fn leftovers(&self) -> Result<Vec<String>, Fault> {
        output::line("no more tasks arrive; what is left is waited for");
        let queue = self.servers.queue().await?;
        let quiesce = Quiesce { servers: &self.servers, queue: &queue, ledger: &self.ledger };
        Ok(quiesce.leftovers().await)
    }
}

/// How long the rate is looked for.
fn searched(lasting: Duration) -> Duration {
    lasting.mul_f64(SEARCH).clamp(SEARCH_RANGE[0], SEARCH_RANGE[1])
}

/// Waits for a job of the soak itself, and says if it broke.
async fn broken(job: JoinHandle<()>, what: &str) -> Vec<String> {
    job.await.err().map(|error| format!("{what} of the soak broke: {error}")).into_iter().collect()
}
