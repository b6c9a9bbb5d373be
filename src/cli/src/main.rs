//! The `gpufleet` command: every role and every operator's command.
//!
//! Exit codes: 0 done; 1 a task or an item of one did not succeed, or a check found something wrong; 2 wrong usage or configuration; 3 a server is away, blocked or
//! full, or lets nobody in, or a GPU is taken; 4 not found; 5 a time limit passed; 6 a worker's process can use its GPU no more, a new one may; 130 interrupted while it waited for replies; 141 nobody reads the
//! output any more.

mod actions;
mod arguments;
mod bottleneck;
mod cancel;
mod configuration;
mod dead;
mod demo;
mod doctor;
mod drain;
mod executing;
mod fault;
mod fleet;
mod gpus;
mod greeting;
mod group;
mod handler;
mod harmless;
mod kinds;
mod log;
mod models;
mod nvidia;
mod output;
mod results;
mod roles;
mod scaling;
mod segments;
mod servers;
mod simulated;
mod status;
mod strategy;
mod submit;
mod tasks;
mod tensors;
mod thresholds;
mod top;
mod unserved;
mod waiting;
mod why;
mod words;

use std::{num::NonZeroUsize, process::ExitCode, thread};

use clap::{CommandFactory, Parser};
use task_store::Reach;

use crate::{
    arguments::{Arguments, Command, HandlerCommand},
    fault::Fault,
    output::Unprinted,
};

/// Tasks are many small pieces of memory that one thread makes and another lets go.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many simulated GPUs one thread of a worker's runtime serves.
const GPUS_PER_THREAD: usize = 16;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => return told(&answer),
    };
    // Before there are other threads: what the kernel keeps for this one holds for what it executes.
    if let Command::Handler(HandlerCommand::Exec(exec)) = &arguments.command {
        return handler::exec(exec);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads(&arguments.command) {
        builder.worker_threads(threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Fault::Failed(format!("start the runtime: {error}")).report(),
    };
    let done = runtime.block_on(run(arguments));
    // What a blocking thread still computes must not keep the process.
    runtime.shutdown_background();
    // What it did not drop by then it never will.
    executors::handlers::kill_all();
    done.unwrap_or_else(|fault| fault.report())
}

/// Prints help, the version, or what is wrong with the command line. Help is output like any other.
fn told(answer: &clap::Error) -> ExitCode {
    match answer.print() {
        Err(error) if !answer.use_stderr() => Fault::from(Unprinted::from(error)).report(),
        _ => ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(u8::MAX)),
    }
}

/// The threads of the runtime; `None`: one for each core. A worker computes on threads of its own and only coordinates in the runtime, in short steps: waking each other costs
/// its threads more than they help.
fn threads(command: &Command) -> Option<usize> {
    let Command::Worker(worker) = command else { return None };
    let gpus = worker.simulated.map_or(1, |gpus| usize::try_from(gpus).unwrap_or(usize::MAX));
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Some(gpus.div_ceil(GPUS_PER_THREAD).clamp(1, cores))
}

async fn run(arguments: Arguments) -> Result<ExitCode, Fault> {
    let Arguments { common, command } = arguments;
    if common.url.is_some() && !command.asks_a_fleet() {
        let takes = "submit, status, results, cancel, tasks, why, log, top, bottleneck, scaling, actions, group, gpus, kinds, models, tensors, unserved, strategy, thresholds, drain, undrain, dead and doctor";
        return Err(Fault::Usage(format!("--url names the gateway of a fleet to talk to, and this command talks to none; {takes} do")));
    }
    match command {
        Command::Demo(demo) => demo::run(&common, demo).await,
        Command::Up(up) => roles::up(&common, &up).await,
        Command::Worker(worker) => roles::worker(&common, &worker).await,
        Command::Gateway(gateway) => roles::gateway(&common, &gateway).await,
        Command::Submit(submit) => submit::run(&common, &submit).await,
        Command::Status { task_id, save_segments } => status::run(&common, &task_id, save_segments.as_deref()).await,
        Command::Results { task_id, from } => results::run(&common, &task_id, from).await,
        Command::Cancel { task_id, ahead } => cancel::run(&common, &task_id, if ahead { Reach::Ahead } else { Reach::Published }).await,
        Command::Group(command) => group::run(&common, command).await,
        Command::Top => top::run(&common).await,
        Command::Why { task_id } => why::run(&common, &task_id).await,
        Command::Log { task_id } => log::run(&common, &task_id).await,
        Command::Tasks(command) => tasks::run(&common, command).await,
        Command::Bottleneck => bottleneck::run(&common).await,
        Command::Scaling => scaling::run(&common).await,
        Command::Actions { limit } => actions::run(&common, limit).await,
        Command::Drain(drain) => drain::drain(&common, &drain).await,
        Command::Undrain(which) => drain::undrain(&common, &which).await,
        Command::Dead(command) => dead::run(&common, command).await,
        Command::Gpus(gpus) => gpus::run(&common, &gpus).await,
        Command::Kinds { kind } => kinds::run(&common, kind.as_ref()).await,
        Command::Models(command) => models::run(&common, &command).await,
        Command::Tensors(command) => tensors::run(&common, &command).await,
        Command::Unserved => unserved::run(&common).await,
        Command::Strategy(command) => strategy::run(&common, command).await,
        Command::Thresholds(command) => thresholds::run(&common, command).await,
        Command::Config(command) => configuration::run(&common, &command),
        Command::Doctor => doctor::run(&common).await,
        Command::Handler(HandlerCommand::Check(check)) => handler::check(&common, check).await,
        Command::Handler(HandlerCommand::Exec(exec)) => Ok(handler::exec(&exec)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "gpufleet", &mut script);
            output::bytes(&script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
