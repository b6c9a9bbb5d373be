//! The other process of the comparison of ways between processes: it has a tensor, and the same bytes for a plain copy through shared memory. It is this program, started again.

use std::{convert::Infallible, ffi::OsStr, fs::File, time::Duration};

use devices::{SharedMemory, simulated::LinkSpeed};
use protocol::TensorRecord;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tests::program::Program;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{
    MB,
    planes::{Planes, PlanesPlan, content},
};
use crate::Fault;

/// The first argument of that process.
pub(crate) const ROLE: &str = "tensor-source";
/// What goes from process to process.
pub(super) const BYTES: usize = 128 * MB;
/// Faster than any memory: what is measured is the processes' part.
pub(super) const NO_LIMIT: LinkSpeed = LinkSpeed { bytes_per_second: 1e12, latency: Duration::ZERO };
/// The planes of either process.
pub(super) const PLAN: PlanesPlan =
    PlanesPlan { name: "source", gpus: 1, host_link: NO_LIMIT, peer_link: None, listen: Some("127.0.0.1:0") };
/// Longest wait for the process, and for its answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Asked {
    /// Take part in memory that a process has by this descriptor.
    Attach { process: u32, descriptor: i32 },
    /// Copy the bytes there.
    Fill,
}

/// The process, as the bench talks to it. It ends when this is dropped.
pub(super) struct Source {
    /// Its tensor.
    pub(super) record: TensorRecord,
    asked: OwnedWriteHalf,
    answers: Lines<BufReader<OwnedReadHalf>>,
    _program: Program,
    _folder: TempDir,
}

impl Source {
    pub(super) async fn start() -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("source");
        let listener = UnixListener::bind(&path)?;
        let program = Program::start_at(&std::env::current_exe()?, [OsStr::new(ROLE), path.as_os_str()], &[]);
        let (stream, _) =
            timeout(PATIENCE, listener.accept()).await.map_err(|_| format!("the source did not start: {}", program.log()))??;
        let (answers, asked) = stream.into_split();
        let mut answers = BufReader::new(answers).lines();
        let record = serde_json::from_str(&answer(&mut answers).await?)?;
        Ok(Self { record, asked, answers, _program: program, _folder: folder })
    }

    /// Returns once it is done.
    pub(super) async fn ask(&mut self, asked: &Asked) -> Result<(), Fault> {
        self.asked.write_all(line(asked)?.as_bytes()).await?;
        let _done = answer(&mut self.answers).await?;
        Ok(())
    }
}

async fn answer(answers: &mut Lines<BufReader<OwnedReadHalf>>) -> Result<String, Fault> {
    let line = timeout(PATIENCE, answers.next_line()).await.map_err(|_| format!("the source did not answer for {PATIENCE:?}"))??;
    line.ok_or_else(|| "the source ended".into())
}

fn line(value: &impl Serialize) -> Result<String, Fault> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// Is that process. `arguments`: those after [`ROLE`]. It says the record of its tensor first, and then a line for each that it is asked.
pub(crate) async fn serve(mut arguments: impl Iterator<Item = String>) -> Result<Infallible, Fault> {
    let path = arguments.next().ok_or("the path of the socket is missing")?;
    let (asked, mut answers) = UnixStream::connect(path).await?.into_split();
    let mut asked = BufReader::new(asked).lines();
    let (planes, bytes) = (Planes::start(PLAN).await?, content(BYTES));
    let reference = planes.keep("carried", bytes.clone()).await?;
    let found = planes.plane(0).find(&[reference]).await?;
    answers.write_all(line(found.first().ok_or("the tensor is not in the table")?)?.as_bytes()).await?;
    let mut memory: Option<SharedMemory> = None;
    loop {
        let asking = asked.next_line().await?.ok_or("the bench has ended")?;
        match serde_json::from_str(&asking)? {
            Asked::Attach { process, descriptor } => {
                let file = File::options().read(true).write(true).open(format!("/proc/{process}/fd/{descriptor}"))?;
                memory = Some(SharedMemory::attach(file.into(), BYTES)?);
            }
            Asked::Fill => memory.as_ref().ok_or("there is no shared memory to fill")?.write_at(0, &bytes),
        }
        answers.write_all(b"done\n").await?;
    }
}
