//! `gpufleet handler`.

use clap::{Args, Subcommand};
use protocol::Kind;

use super::parsers;

/// `gpufleet handler`.
#[derive(Debug, Subcommand)]
pub(crate) enum HandlerCommand {
    /// Runs a handler against everything that schemas/handler.md says; exit code 1 if something is wrong
    Check(HandlerCheck),
    /// Becomes a handler, bound to the worker that started this process
    #[command(hide = true)]
    Exec(HandlerExec),
}

/// `gpufleet handler check`.
#[derive(Debug, Args)]
pub(crate) struct HandlerCheck {
    /// The payload of the tasks, as JSON; a task with it has to succeed. Default: one made from the kind's schema, which may be refused but has to be answered
    #[arg(long, value_name = "JSON")]
    pub(crate) payload: Option<String>,
    /// The kind of the tasks. Default: the first that the handler names
    #[arg(long, value_name = "KIND", value_parser = parsers::kind)]
    pub(crate) kind: Option<Kind>,
    /// How long the handler may take from its start to its `hello`, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) start_timeout: u64,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// `gpufleet handler exec`.
#[derive(Debug, Args)]
pub(crate) struct HandlerExec {
    /// The process that must be this one's parent
    #[arg(long)]
    pub(crate) parent: i32,
    /// Standard input is the socket to the worker
    #[arg(long)]
    pub(crate) socket: bool,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}
