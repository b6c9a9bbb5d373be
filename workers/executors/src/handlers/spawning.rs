//! Starting a handler's process, and waiting for its end.
//!
//! The worker starts the launcher (`gpufleet handler exec`), which asks for its own death when the worker is gone and then becomes the handler: so nothing of ours runs between fork and
//! exec, and no unsafe code is needed.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdUnixStream, process::CommandExt, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
};

use protocol::config::{HandlerProtocol, HandlerSection};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::{
    net::{UnixStream, unix::pipe},
    sync::oneshot,
};

use super::{HandlerPlace, environment::environment, group::Group};

/// The stack of a thread that only waits, in bytes.
const STACK_BYTES: usize = 256 << 10;

/// What to start.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    launcher: PathBuf,
    command: Vec<String>,
    protocol: HandlerProtocol,
    directory: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Spawned {
    /// It and what it starts.
    pub(super) group: Arc<Group>,
    /// The way to it.
    pub(super) link: Link,
    /// What it prints for people.
    pub(super) stderr: pipe::Receiver,
    /// How it ended, once it has, and once its group is gone with it.
    pub(super) exit: oneshot::Receiver<Exit>,
}

/// How messages go to and fro.
#[derive(Debug)]
pub(super) enum Link {
    /// Over a socket; standard output is for people too.
    Frames { socket: UnixStream, stdout: pipe::Receiver },
    /// Over standard input and output.
    Lines { stdin: pipe::Sender, stdout: pipe::Receiver },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
    Unknown,
}

impl Exit {
    /// It as the end of a sentence.
    pub(super) fn words(self) -> String {
        match self {
            Self::Code(code) => format!("ended with exit code {code}"),
            Self::Signal(signal) => match name_of_signal(signal) {
                Some(name) => format!("was ended by signal {signal} ({name})"),
                None => format!("was ended by signal {signal}"),
            },
            Self::Unknown => "ended, nobody knows how".to_owned(),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        status.code().map(Self::Code).or_else(|| status.signal().map(Self::Signal)).unwrap_or(Self::Unknown)
    }
}

const fn name_of_signal(signal: i32) -> Option<&'static str> {
    Some(match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL: by the kernel, where memory ran out, or by somebody",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        _ => return None,
    })
}

impl Plan {
    pub(super) fn of(section: &HandlerSection, place: &HandlerPlace) -> Self {
        Self {
            launcher: place.launcher.clone(),
            command: section.command_line(),
            protocol: section.protocol,
            directory: section.directory.clone(),
            variables: environment(section, place, std::env::vars_os()).into_iter().collect(),
        }
    }

    /// The launcher's command line, and our end of the socket where there is one.
    fn command(&self) -> io::Result<(Command, Option<StdUnixStream>)> {
        let mut command = Command::new(&self.launcher);
        command.args(["handler", "exec", "--parent"]).arg(std::process::id().to_string());
        let ours = match self.protocol {
            HandlerProtocol::Frames => {
                let (ours, theirs) = StdUnixStream::pair()?;
                ours.set_nonblocking(true)?;
                command.arg("--socket").stdin(Stdio::from(OwnedFd::from(theirs)));
                Some(ours)
            }
            HandlerProtocol::Lines => {
                command.stdin(Stdio::piped());
                None
            }
        };
        command.arg("--").args(&self.command).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        Ok((command, ours))
    }

    /// Starts it.
    ///
    /// # Errors
    /// The launcher cannot be started. What the launcher cannot start ends with exit code 127 and says why on standard error.
    pub(super) async fn spawn(&self) -> io::Result<Spawned> {
        let (command, ours) = self.command()?;
        let (started, starting) = oneshot::channel();
        let (exited, exit) = oneshot::channel();
        // The parent-death signal is bound to the thread that forked, not to the process: when that thread ends the handler is killed. So the thread is one of the handler's own and lives as
        // long as it does; a thread of the runtime's pools would end when it has been idle.
        thread::Builder::new().name("handler".to_owned()).stack_size(STACK_BYTES).spawn(move || see_through(command, started, exited))?;
        let child = starting.await.map_err(|_| io::Error::other("the thread that starts it broke"))??;
        let group = Arc::clone(&child.group);
        let spawned = child.linked(ours, exit);
        if spawned.is_err() {
            group.kill();
        }
        spawned
    }
}

/// What the thread of a process tells of its start. Dropped without a look, the process is killed.
struct Started {
    group: Arc<Group>,
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Started {
    fn linked(self, ours: Option<StdUnixStream>, exit: oneshot::Receiver<Exit>) -> io::Result<Spawned> {
        let Self { group, stdin, stdout, stderr } = self;
        let stdout = pipe::Receiver::from_owned_fd(stdout)?;
        let link = match (ours, stdin) {
            (Some(socket), _) => Link::Frames { socket: UnixStream::from_std(socket)?, stdout },
            (None, Some(stdin)) => Link::Lines { stdin: pipe::Sender::from_owned_fd(stdin)?, stdout },
            (None, None) => return Err(io::Error::other("it has neither a socket nor standard input")),
        };
        Ok(Spawned { group, link, stderr: pipe::Receiver::from_owned_fd(stderr)?, exit })
    }
}

/// Starts the process, and waits until it has ended. It is first seen to have ended, then its group is killed, and only then it is reaped: no signal goes to a number that is not its own any more.
fn see_through(mut command: Command, started: oneshot::Sender<io::Result<Started>>, exited: oneshot::Sender<Exit>) {
    let spawned = command.spawn();
    // It holds the handler's end of the socket, whose close by the handler would never show.
    drop(command);
    let (mut child, parts) = match spawned.and_then(parts) {
        Ok(both) => both,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let group = Arc::clone(&parts.group);
    if started.send(Ok(parts)).is_err() {
        group.kill();
    }
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        while matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT), Err(rustix::io::Errno::INTR)) {}
    }
    group.end();
    let exit = child.wait().map_or(Exit::Unknown, Exit::from);
    // Nobody waits for it where the worker gave it up.
    let _ = exited.send(exit);
}

fn parts(mut child: Child) -> io::Result<(Child, Started)> {
    let group = Group::started(child.id());
    let stdin = child.stdin.take().map(OwnedFd::from);
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        group.kill();
        return Err(io::Error::other("its output cannot be read"));
    };
    Ok((child, Started { group, stdin, stdout: stdout.into(), stderr: stderr.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(Exit::from(ExitStatus::from_raw(3 << 8)).words(), "ended with exit code 3");
        assert_eq!(Exit::from(ExitStatus::from_raw(11)).words(), "was ended by signal 11 (SIGSEGV)");
        assert_eq!(Exit::from(ExitStatus::from_raw(12)).words(), "was ended by signal 12");
    }

    #[tokio::test]
    async fn a_launcher_that_is_not_there_is_an_error() {
        let plan = Plan::of(&HandlerSection::default(), &super::super::fixture::place());
        assert_eq!(plan.spawn().await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
