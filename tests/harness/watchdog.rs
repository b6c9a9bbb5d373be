//! A server that cannot outlive its test process.
//!
//! A small `sh` starts it and waits on a pipe from the test process. A line on the pipe names the signal to end the server with; the end of the pipe
//! (a panic, a `kill -9`, or a plain drop) kills exactly the process that was started and removes its folder.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

const SCRIPT: &str = r#"
folder=$1; shift
cd "$folder" || exit 1
"$@" >>server.log 2>&1 &
pid=$!
echo "$pid"
exec 2>/dev/null
read -r signal
if [ -z "$signal" ]; then
    kill -KILL "$pid" 2>/dev/null; wait "$pid"
    cd /; rm -rf "$folder"
else
    kill -"$signal" "$pid" 2>/dev/null; wait "$pid"
fi
exit 0
"#;

/// A running server and the process that watches over it.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    server_pid: u32,
}

impl Watchdog {
    /// Starts `command` (a program and its arguments) in `folder`, which goes with it. What it prints is appended to `server.log` there.
    ///
    /// # Panics
    /// If `sh` cannot be started.
    #[must_use]
    pub fn start(folder: &Path, command: &[&str]) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "watchdog"])
            .arg(folder)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Its own group: a Ctrl-C at the terminal must not end the watchdog before the server.
            .process_group(0)
            .spawn()
            .expect("sh can be started");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("a pipe")).read_line(&mut line).expect("sh answers");
        let server_pid = line.trim().parse().unwrap_or_else(|_| panic!("no process id from sh: {line:?}; is {} there?", folder.display()));
        Self { shell, server_pid }
    }

    /// The server's process id.
    #[must_use]
    pub fn server_pid(&self) -> u32 {
        self.server_pid
    }

    /// Sends the server a signal (`STOP`, `CONT`, …) and leaves it to it.
    ///
    /// # Panics
    /// If the server is gone.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.server_pid.to_string()).status().expect("kill can be started");
        assert!(sent.success(), "the server {} is gone", self.server_pid);
    }

    /// Ends the server with a signal and waits until it is gone; its folder stays.
    ///
    /// # Panics
    /// If the watchdog itself was killed.
    pub fn end(mut self, signal: &str) {
        writeln!(self.shell.stdin.take().expect("a pipe"), "{signal}").expect("the watchdog listens");
        self.shell.wait().expect("the watchdog ends");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // A second wait after `end` returns at once.
        let _ = self.shell.wait();
    }
}
