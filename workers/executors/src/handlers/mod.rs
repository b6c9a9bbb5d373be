//! Handlers: programs of the user's that run kinds, in processes of their own. `schemas/handler.md` is the contract with them.
//!
//! [`start`] starts one beside a GPU and gives an executor for each of its kinds; [`check`] runs one against the contract. What a kind does is the handler's; that it crashes, hangs, prints, leaks or
//! answers too late is held here, and reaches nobody else.
//!
//! ```text
//!  executor ──▶ line ──▶ place in a process ──▶ run ──▶ answer
//!                ▲                │ the keeper's: starts, pings, interrupts, kills, starts anew
//!                └── in order     └─ life: one process, from its start to its end
//! ```

mod check;
mod connection;
mod environment;
mod error;
mod executor;
#[cfg(test)]
mod fixture;
mod frames;
mod group;
mod handing;
mod handler;
mod keeper;
mod kinds;
mod life;
mod line;
mod lines;
pub mod message;
mod output;
mod pauses;
mod pinging;
mod runs;
mod spawning;
mod upkeep;
mod writing;

use std::{path::PathBuf, sync::Arc, time::Duration};

use protocol::{
    GpuDescription,
    config::{HandlerProtocol, HandlerSection},
};

pub use self::{
    check::{Checked, Wanted, check},
    error::HandlerError,
    group::kill_all,
};
use self::{executor::HandlerExecutor, handler::Handler};
use crate::Executor;

/// Beside which GPU a handler runs.
#[derive(Debug, Clone)]
pub struct HandlerPlace {
    /// The GPU.
    pub gpu: GpuDescription,
    /// Whether it is a simulated one: the handler then sees none.
    pub is_simulated: bool,
    /// How many tasks it holds at once.
    pub slots: u16,
    /// The `gpufleet` binary, which becomes the handler.
    pub launcher: PathBuf,
}

/// Starts a handler's processes beside one GPU, and gives an executor for each of its kinds. Where the configuration names kinds it returns at once, and they are down until the handler is ready;
/// otherwise it waits for the first `hello`. The processes end with [`Executor::stop`], or when the last of the executors is dropped.
///
/// # Errors
/// The handler named no kinds: it ended before it did, or took longer than `start_timeout_ms`.
pub async fn start(section: &HandlerSection, place: HandlerPlace) -> Result<Vec<Arc<dyn Executor>>, HandlerError> {
    if section.protocol == HandlerProtocol::Lines && section.kinds.is_empty() {
        return Err(HandlerError::LinesWithoutKinds { name: section.name() });
    }
    let handler = Handler::start(section, place);
    // Whoever gives up this wait, or gets an error, leaves no process behind.
    let guard = handler.stop_now.clone().drop_guard();
    if section.kinds.is_empty() {
        let said = handler.first_hello(Duration::from_millis(section.start_timeout_ms)).await;
        if let Err(why) = said {
            handler.give_up().await;
            return Err(HandlerError::NotStarted { name: handler.name.clone(), why });
        }
    }
    let executors = HandlerExecutor::of_all(&handler);
    if executors.is_empty() {
        handler.give_up().await;
        return Err(HandlerError::NoKinds { name: handler.name.clone() });
    }
    drop(guard.disarm());
    Ok(executors)
}
