//! The real `gpufleet` binary, run as its users run it: built once per test process, with the profile of the tests.
//!
//! A [`Program`] that serves cannot outlive its test process: a small shell is its parent and kills exactly it when the pipe from the test
//! process closes. Like [`crate::watchdog`], but the program may end by itself, and its exit code is kept.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use crate::until::until;

/// Longest run of a command that is to end by itself. Generous: it bounds a hang.
const LONGEST: Duration = Duration::from_secs(120);

/// Starts the program, says its process id, and writes its exit code to a file when it ends. The end of the input kills the program; after both,
/// nobody needs the folder any more.
const GUARDIAN: &str = r#"
folder=$1; shift
cd "$folder" || exit 1
"$@" >output 2>log </dev/null &
pid=$!
echo "$pid"
exec 3<&0 >/dev/null 2>&1
( read -r never <&3; kill -KILL "$pid" ) &
watch=$!
wait "$pid"
echo "$?" >ending
kill -KILL "$watch"
mv ending ended
read -r never <&3
cd /; rm -rf "$folder"
"#;

/// The path of the `gpufleet` binary. The first call builds it.
///
/// # Panics
/// If it does not build.
pub fn binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("gpufleet"))
}

/// The path of the `gpu-check` binary. The first call builds it.
///
/// # Panics
/// If it does not build.
pub fn gpu_check() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("gpu-check"))
}

/// The `gpufleet` of the same build as this program, which no test is: it stands beside it.
///
/// # Errors
/// It is not there, or nobody knows where this program is.
pub fn beside_this() -> std::io::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("gpufleet");
    if program.exists() {
        return Ok(program);
    }
    let missing = format!("{} is missing: the make target of this program builds it", program.display());
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, missing))
}

/// Beside this test's own binary: `<target>/<profile>/deps/<test>`. For the whole workspace, as the tests are: for its package alone, what it is built on
/// would be compiled once more, with other features.
fn build(program: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running binary");
    let folder = own.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let target = folder.parent().expect("target/<profile>");
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--workspace", "--bin", program, "--profile", profile]);
    let built = cargo.arg("--target-dir").arg(target).output().expect("cargo can be started");
    assert!(built.status.success(), "{program} does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    folder.join(program)
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed on standard output.
    pub output: String,
    /// What it printed on standard error.
    pub errors: String,
}

/// Runs a command of `gpufleet` to its end, in `folder`, with these variables and none other of ours.
///
/// # Panics
/// If it does not end within two minutes.
pub async fn gpufleet(folder: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, variables: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).stdout(Stdio::piped());
    only_these(&mut command, variables);
    ended(command).await
}

/// Runs a line as an operator types it, in a shell that finds `gpufleet`, in `folder`, with these variables and none other of ours.
///
/// # Panics
/// If it does not end within two minutes.
pub async fn typed(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(folder).env("PATH", path()).stdout(Stdio::piped());
    only_these(&mut command, variables);
    ended(command).await
}

/// The folders in which a shell finds programs, that of `gpufleet` first.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn path() -> String {
    let folder = binary().parent().expect("<target>/<profile>").display();
    format!("{folder}:{}", std::env::var("PATH").unwrap_or_default())
}

/// Runs a command of `gpufleet` to its end, with its standard output somewhere else.
///
/// # Panics
/// If it does not end within two minutes.
pub async fn gpufleet_into(output: impl Into<Stdio>, arguments: &[&str]) -> Ended {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir("/").stdout(output);
    only_these(&mut command, &[]);
    ended(command).await
}

async fn ended(mut command: Command) -> Ended {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let running = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("gpufleet can be started").wait_with_output();
    let ended = tokio::time::timeout(LONGEST, running).await.expect("the command ends").expect("its output is read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ended { code: ended.status.code(), output: text(ended.stdout), errors: text(ended.stderr) }
}

/// A developer's own settings must not reach the program.
fn only_these(command: &mut Command, variables: &[(&str, &str)]) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GPUFLEET")) {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
}

/// Whether a process runs: one that has ended and was not waited for does not.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Ends a process, whatever it does.
///
/// # Panics
/// If it is gone.
pub fn kill(pid: u32) {
    let sent = Command::new("kill").arg("-KILL").arg(pid.to_string()).status().expect("kill can be started");
    assert!(sent.success(), "the process {pid} is gone");
}

/// A `gpufleet` that serves until it is told to stop. Killed when dropped; its log is shown if the test fails.
#[derive(Debug)]
pub struct Program {
    guardian: Child,
    pid: u32,
    folder: PathBuf,
}

impl Program {
    /// Starts it in an empty folder, with these variables and none other of ours.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, variables: &[(&str, &str)]) -> Self {
        Self::start_at(binary(), arguments, variables)
    }

    /// Starts it as [`Program::start`] does, but with what `env` is told about signals (`--default-signal=HUP`, `--ignore-signal=HUP`): whoever runs the tests may
    /// have other things to be inherited.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with_signals(option: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, variables: &[(&str, &str)]) -> Self {
        let own = [OsStr::new(option).to_owned(), binary().as_os_str().to_owned()];
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        Self::start_at(Path::new("env"), own.into_iter().chain(arguments), variables)
    }

    /// Starts the program of this path, which may be another than `gpufleet`, in the same way.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_at(program: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("gpufleet-program-").tempdir().expect("a temporary folder").keep();
        let mut command = Command::new("sh");
        command.args(["-c", GUARDIAN, "guardian"]).arg(&folder).arg(program).args(arguments);
        only_these(&mut command, variables);
        // Its own group: a Ctrl-C at the terminal must not end the guardian before the program.
        let mut guardian = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().expect("sh can be started");
        let mut line = String::new();
        BufReader::new(guardian.stdout.take().expect("a pipe")).read_line(&mut line).expect("sh answers");
        let pid = line.trim().parse().expect("a process id");
        Self { guardian, pid, folder }
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal (`TERM`, `KILL`, …).
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.pid.to_string()).status().expect("kill can be started");
        assert!(sent.success(), "the program {} is gone", self.pid);
    }

    /// Waits until it ends; its exit code, 128 and the signal's number if a signal ended it.
    pub async fn exit_code(&self) -> i32 {
        until("the program ends", async || self.folder.join("ended").exists()).await;
        self.read("ended").trim().parse().expect("a number")
    }

    /// Waits until its log contains `text`, and gives the rest of that line.
    ///
    /// # Panics
    /// If it ends before.
    pub async fn logged(&self, text: &str) -> String {
        let rest = || Some(self.log().split_once(text)?.1.split_once('\n')?.0.to_owned());
        until(&format!("the program logs {text:?}"), async || rest().is_some() || self.folder.join("ended").exists()).await;
        rest().unwrap_or_else(|| panic!("the program ended and never logged {text:?}:\n{}", self.log()))
    }

    /// Waits until it listens; its `http://host:port`. `up` says it on standard output, others on standard error.
    ///
    /// # Panics
    /// If it ends before.
    pub async fn url(&self) -> String {
        let said = |text: String| Some(text.split_once("gpufleet listens on ")?.1.split_once([' ', '\n'])?.0.to_owned());
        let url = || said(self.output()).or_else(|| said(self.log()));
        until("the program listens", async || url().is_some() || self.folder.join("ended").exists()).await;
        url().unwrap_or_else(|| panic!("the program ended and never listened:\n{}", self.log()))
    }

    /// What it printed on standard output so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.read("output")
    }

    /// What it printed on standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.read("log")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show(self.pid, &self.log());
        }
        drop(self.guardian.stdin.take());
        let _ended = self.guardian.wait();
    }
}

#[expect(clippy::print_stderr, reason = "a failing test prints the log of its programs")]
fn show(pid: u32, log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    eprintln!("--- the end of the log of gpufleet {pid}\n{}\n---", lines[lines.len().saturating_sub(200)..].join("\n"));
}
