//! The child's side: whether it has a supervisor, and whether that still lives.

use std::{future::pending, io, os::fd::AsFd};

use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

/// The variable that a supervisor sets to `1` for its children.
pub const SUPERVISED: &str = "GPUFLEET_SUPERVISED";

/// Whether a supervisor started this process.
#[must_use]
pub fn supervised() -> bool {
    std::env::var_os(SUPERVISED).is_some_and(|value| value == "1")
}

/// Completes when the supervisor has ended, also by SIGKILL: standard input, which it holds open and never writes to, is then at its end. Only for a process
/// that is [`supervised`]; it should stop gently then, since a new supervisor will want its GPU. What it prints after that reaches nobody and must
/// not end it (writing gives an error, `println!` panics).
///
/// Never completes where standard input is no pipe: the variable was set by somebody else. Cancel safe.
pub async fn supervisor_gone() {
    if let Err(error) = input_ends().await {
        tracing::warn!(%error, "{SUPERVISED} is set and standard input cannot be watched: the end of a supervisor would not be seen");
        pending::<()>().await;
    }
}

async fn input_ends() -> io::Result<()> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let mut pipe = Receiver::from_owned_fd(input)?;
    let mut ignored = [0; 64];
    while pipe.read(&mut ignored).await? > 0 {}
    Ok(())
}
