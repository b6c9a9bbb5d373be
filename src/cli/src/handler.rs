//! `gpufleet handler`: a handler against its contract; and, hidden, the step between a worker and a handler's process.

use std::{
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use executors::handlers::{self, Checked, Wanted};
use protocol::Json;
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Signal, getppid, set_parent_process_death_signal},
};
use serde_json::json;

use crate::{
    arguments::{Common, HandlerCheck, HandlerExec},
    fault::Fault,
    output,
};

/// The variable that tells a handler the number of its socket.
const SOCKET: &str = "GPUFLEET_HANDLER_FD";
/// What a shell answers for a program that cannot be started.
const NOT_STARTED: u8 = 127;
/// The worker is gone already, or this process cannot be bound to it.
const NOT_BOUND: u8 = 126;

/// Runs a handler against everything that `schemas/handler.md` says. Exit code 1 if something is wrong.
pub(crate) async fn check(common: &Common, check: HandlerCheck) -> Result<ExitCode, Fault> {
    let launcher = std::env::current_exe().map_err(|error| Fault::Failed(format!("find this program: {error}")))?;
    let payload = check.payload.map(Json::parse).transpose();
    let payload = payload.map_err(|error| Fault::Usage(format!("--payload is no JSON: {error}")))?;
    let wanted = Wanted { kind: check.kind, payload, hello_within: Some(Duration::from_secs(check.start_timeout)) };
    let mut printed = Ok(());
    let mut told = |one: &Checked| {
        if printed.is_ok() {
            printed = print(common, one);
        }
    };
    let checked = handlers::check(check.command, launcher, wanted, &mut told).await;
    printed?;
    let is_right = checked.iter().all(|one| one.outcome.is_ok());
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(common: &Common, one: &Checked) -> Result<(), Fault> {
    if common.json {
        output::json(&json!({"name": one.name, "ok": one.outcome.is_ok(), "wrong": one.outcome.as_ref().err()}))?;
    } else {
        output::line(&shown(one))?;
    }
    Ok(())
}

fn shown(checked: &Checked) -> String {
    match &checked.outcome {
        Ok(()) => format!("ok    {}", checked.name),
        Err(wrong) => format!("BAD   {}: {wrong}", checked.name),
    }
}

/// Becomes a handler: binds this process to its worker, puts the socket that came as standard input where the handler finds it, and executes the command. Returns only if that cannot be done.
pub(crate) fn exec(exec: &HandlerExec) -> ExitCode {
    // The kernel kills this process when the thread that started it ends. It holds for what is executed too.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        output::error_line(&format!("bind the handler to its worker: {error}"));
        return ExitCode::from(NOT_BOUND);
    }
    // A worker that was gone before sends no signal any more.
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(exec.parent) {
        return ExitCode::from(NOT_BOUND);
    }
    let Some((program, arguments)) = exec.command.split_first() else { return ExitCode::from(NOT_STARTED) };
    let mut command = Command::new(program);
    command.args(arguments);
    if !exec.socket {
        return not_started(program, &command.exec());
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    match socket.and_then(|socket| Ok(fcntl_setfd(&socket, FdFlags::empty()).map(|()| socket)?)) {
        Ok(socket) => not_started(program, &command.env(SOCKET, socket.as_raw_fd().to_string()).stdin(Stdio::null()).exec()),
        Err(error) => not_started(program, &error),
    }
}

fn not_started(program: &str, error: &std::io::Error) -> ExitCode {
    output::error_line(&format!("the program {program} cannot be started: {error}"));
    ExitCode::from(NOT_STARTED)
}
