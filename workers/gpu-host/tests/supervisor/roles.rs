//! Other processes that the tests need: this same binary, started again to run one of the functions below. Without the variable they do nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use gpu_host::{ChildPlan, GpuLock, LogSink, SUPERVISED, Stop, supervise, supervised, supervisor_gone};
use protocol::gpu::PastTrouble;

use crate::harness::{environment, gpu, quick};

/// Names the folder in which a role leaves its marks.
const FOLDER: &str = "GPUFLEET_TEST_ROLE_FOLDER";

/// A process in a role. Its input is a pipe from here, and it ends with that: so with the test.
pub struct Role(Child);

impl Role {
    /// Starts it. Its marks will be in `folder`.
    pub fn start(name: &str, folder: &Path) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments(name)).env(FOLDER, folder).env_remove(SUPERVISED);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("this binary can be started"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn binary() -> PathBuf {
    env::current_exe().expect("a running binary")
}

fn arguments(role: &str) -> [String; 3] {
    ["--exact".to_owned(), format!("roles::{role}"), "--nocapture".to_owned()]
}

fn folder() -> Option<PathBuf> {
    env::var_os(FOLDER).map(PathBuf::from)
}

/// Leaves this process's id in a file, whole or not at all.
fn mark(folder: &Path, name: &str) {
    let written = folder.join(format!("{name}.part"));
    fs::write(&written, format!("{}\n", std::process::id())).expect("written");
    fs::rename(written, folder.join(name)).expect("renamed");
}

/// Supervises a process in the role `child`.
#[tokio::test]
async fn supervisor() {
    if folder().is_none() {
        return;
    }
    let arguments = arguments("child").map(Into::into).into();
    let plan = ChildPlan { gpu_id: gpu(0), program: binary(), arguments, variables: Vec::new() };
    tokio::select! {
        result = supervise(vec![plan], Stop::default(), quick(), LogSink::stderr(), environment()) => result.expect("the child lives"),
        () = supervisor_gone() => {}
    }
}

/// Lives until its supervisor ends.
#[tokio::test]
async fn child() {
    let Some(folder) = folder() else { return };
    assert!(supervised());
    mark(&folder, "child");
    supervisor_gone().await;
    mark(&folder, "gone");
}

/// Holds the lock of GPU-0.
#[tokio::test]
async fn holder() {
    let Some(folder) = folder() else { return };
    let lock = GpuLock::take(&folder.join("locks"), &gpu(0)).expect("free");
    lock.leave_trouble(&PastTrouble { reason: "Xid 79".to_owned(), xid: Some(79) }).expect("written");
    mark(&folder, "held");
    supervisor_gone().await;
    drop(lock);
}
