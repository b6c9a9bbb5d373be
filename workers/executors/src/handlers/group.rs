//! A process and all that it started: its group, the signals to it, and the memory that it takes.

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// The groups of the handlers that this process has started. As many as there are processes of handlers: each start lets go of those that are gone.
static STARTED: Mutex<Vec<Weak<Group>>> = Mutex::new(Vec::new());

/// Kills all handlers that this process has started, with what they started. For the end of a process that drops nothing: the kernel ends the handlers with it, and not their children.
pub fn kill_all() {
    // Not under the lock: a group takes one of its own, and the last of it may go here.
    let groups: Vec<Arc<Group>> = STARTED.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
    groups.iter().for_each(|group| group.kill());
}

/// The group that a handler's process leads. Its number is used only until the process is reaped: after that it could be a stranger's.
#[derive(Debug)]
pub(super) struct Group {
    pid: u32,
    leader: Mutex<Option<Pid>>,
}

impl Group {
    /// That of a child of this process which leads a group of its own and was not reaped yet.
    pub(super) fn led_by(pid: u32) -> Self {
        let leader = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Self { pid, leader: Mutex::new(leader) }
    }

    /// As [`led_by`](Self::led_by), of a handler's process: [`kill_all`] kills it too.
    pub(super) fn started(pid: u32) -> Arc<Self> {
        let group = Arc::new(Self::led_by(pid));
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        started.retain(|group| group.strong_count() > 0);
        started.push(Arc::downgrade(&group));
        group
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process's number.
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills the process and all of its group.
    pub(super) fn kill(&self) {
        if let Some(leader) = *self.lock() {
            kill(leader);
        }
    }

    /// Kills what is left of the group of a process that has ended and is about to be reaped, and sends no signal from then on.
    pub(super) fn end(&self) {
        let mut leader = self.lock();
        if let Some(leader) = leader.take() {
            kill(leader);
        }
    }

    /// What the processes of the group have in memory together, in MB (10^6 bytes). Reads files of `/proc`: not for the runtime's threads.
    pub(super) fn memory_mb(&self) -> u64 {
        let Ok(processes) = fs::read_dir("/proc") else { return 0 };
        let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let kilobytes: u64 = numbers.filter(|number| group_of(*number) == Some(self.pid)).map(resident_kib).sum();
        kilobytes * 1024 / 1_000_000
    }
}

fn kill(leader: Pid) {
    if let Err(error) = kill_process_group(leader, Signal::KILL) {
        tracing::debug!(group = leader.as_raw_nonzero().get(), %error, "a signal was not sent");
    }
}

/// The group of a process: the third field after its name, which may have any character but ends with the last `)`.
fn group_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split_ascii_whitespace().nth(2)?.parse().ok()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of_line = |line: &str| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok();
    status.lines().find_map(of_line).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read},
        os::unix::process::{CommandExt, ExitStatusExt},
        process::{Child, ChildStdout, Command, Stdio},
    };

    use super::*;

    /// A shell that leads a group, once it has started another process, which holds its output too.
    fn shell() -> (Child, BufReader<ChildStdout>) {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo; wait"]).process_group(0).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        (child, output)
    }

    #[test]
    fn the_end_of_a_worker_kills_what_its_handlers_started_too() {
        let (mut child, mut output) = shell();
        let group = Group::started(child.id());
        kill_all();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(output.read(&mut [0; 1]).unwrap(), 0, "its `sleep` is gone too");
        drop(group);
    }

    #[test]
    fn a_group_is_measured_and_killed_with_all_that_it_started() {
        let (mut child, mut output) = shell();
        let group = Group::led_by(child.id());
        assert!(group_of(child.id()) == Some(child.id()) && resident_kib(child.id()) > 0);
        group.kill();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        // Its `sleep` holds the pipe too: it is closed once that one is gone.
        assert_eq!(output.read(&mut [0; 1]).unwrap(), 0);
    }
}
