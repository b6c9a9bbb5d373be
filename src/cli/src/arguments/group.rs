//! `gpufleet group`.

use clap::Subcommand;
use protocol::{GroupName, TaskState};

use super::parsers;

/// `gpufleet group`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Lists the groups, those that were made last first
    Ls {
        /// At most this many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Shows how many tasks of a group are in which state
    Show {
        /// The group's name
        #[arg(value_parser = parsers::group)]
        group: GroupName,
    },
    /// Shows that whenever it changes, until all its tasks have ended
    Watch {
        /// The group's name
        #[arg(value_parser = parsers::group)]
        group: GroupName,
    },
    /// Waits until all its tasks have ended; exit code 1 if one did not succeed. Submit all of them first. A batch counts as one task, and succeeds also where some of its items failed: `gpufleet results` shows those
    Wait {
        /// The group's name
        #[arg(value_parser = parsers::group)]
        group: GroupName,
        /// How long to wait, in seconds
        #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=2_592_000))]
        timeout: u64,
    },
    /// Asks for the end of all its tasks, also of those that no worker has seen yet; those that are submitted later are not cancelled
    Cancel {
        /// The group's name
        #[arg(value_parser = parsers::group)]
        group: GroupName,
    },
    /// Lists its tasks, by id
    Tasks {
        /// The group's name
        #[arg(value_parser = parsers::group)]
        group: GroupName,
        /// Only those in this state
        #[arg(long, value_parser = parsers::state())]
        state: Option<TaskState>,
        /// At most this many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
}
