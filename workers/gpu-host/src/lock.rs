//! One worker per GPU on a host: a lock on a file that is named after the GPU.
//!
//! The lock is the kernel's (`flock`): it goes with the process that holds it, however that ends. What stands in the file is a note for people and
//! for the next holder; it decides nothing. Nobody deletes the file: two who lock "the" file, one of them deleted, would both hold it.

use std::{
    fs::{File, TryLockError},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{GpuId, gpu::PastTrouble};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

mod opening;
#[cfg(test)]
mod tests;

/// How often a lock is tried before it counts as held, and the pause between two tries: who only looks ([`GpuLock::holder`]) holds it for a moment.
const TRIES: u32 = 4;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// The longest note that is read, in bytes. Anybody on the host may write to the file.
const NOTE_MAX: u64 = 64 * 1024;
/// The longest trouble that is left, in characters.
const TROUBLE_MAX: usize = 1_000;

/// Why a GPU could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("GPU {gpu_id} already has a worker on this host ({holder}); stop it first, or choose another GPU")]
    Held {
        /// The GPU.
        gpu_id: GpuId,
        /// Who has it.
        holder: Holder,
    },
    /// The file cannot be opened, made or locked.
    #[error("lock {}: {source}; set gpu.lock_folder to a folder that this user may write to", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing can be written for the next holder.
    #[error("leave a note in {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who holds a lock, as far as its note tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its process id. `None` if it could leave no note, or if this process cannot see it (it runs in another container).
    pub pid: Option<u32>,
    /// When it took the lock, in Unix milliseconds. `None` as above.
    pub since_ms: Option<u64>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pid, self.since_ms.map(date)) {
            (Some(pid), Some(since)) => write!(formatter, "process {pid}, since {since}"),
            (Some(pid), None) => write!(formatter, "process {pid}"),
            (None, _) => formatter.write_str("its process is not known here"),
        }
    }
}

/// What stands in the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Note {
    pid: Option<u32>,
    since_ms: Option<u64>,
    trouble: Option<String>,
    #[serde(default)]
    xid: Option<u64>,
}

impl Note {
    /// Whatever the file says; anything that is no note counts as an empty one.
    fn read(file: &File) -> Self {
        let mut bytes = Vec::new();
        let mut file = file;
        if io::Seek::rewind(&mut file).and_then(|()| file.take(NOTE_MAX).read_to_end(&mut bytes)).is_err() {
            return Self::default();
        }
        // Only the first value: whoever looks while a shorter note is being written sees the end of the longer one behind it.
        let mut values = serde_json::Deserializer::from_slice(&bytes).into_iter();
        values.next().and_then(Result::ok).unwrap_or_default()
    }

    fn write(&self, file: &File) -> io::Result<()> {
        let text = serde_json::to_string(self)? + "\n";
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    }
}

/// The right to be the worker of one GPU of this host. Dropping it, or the end of the process, gives it back.
#[derive(Debug)]
pub struct GpuLock {
    file: File,
    path: PathBuf,
    note: Note,
    trouble: Option<PastTrouble>,
}

impl GpuLock {
    /// Takes the lock of a GPU. `folder` is made if it is missing, for all users of the host; so is the file in it.
    ///
    /// A user who may only read the file can hold the lock too, but nobody learns the process id, and the trouble stays for the next holder.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has it, after about 60 ms; [`LockError::Open`] if the file cannot be used.
    pub fn take(folder: &Path, gpu_id: &GpuId) -> Result<Self, LockError> {
        let path = path(folder, gpu_id);
        let file = match lock(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(LockError::Held { gpu_id: gpu_id.clone(), holder: Self::noted_holder(&path) }),
            Err(source) => return Err(LockError::Open { path, source }),
        };
        let Note { trouble, xid, .. } = Note::read(&file);
        let trouble = trouble.map(|reason| PastTrouble { reason, xid });
        let note = Note { pid: Some(std::process::id()), since_ms: now_ms(), ..Note::default() };
        if let Err(error) = note.write(&file) {
            tracing::debug!(path = %path.display(), %error, "the lock is held without a note");
        }
        Ok(Self { file, path, note, trouble })
    }

    /// What the previous holder left by [`Self::leave_trouble`]: a reason to look at the GPU before it is used. Taking the lock took it out of the file.
    #[must_use]
    pub const fn trouble(&self) -> Option<&PastTrouble> {
        self.trouble.as_ref()
    }

    /// Leaves word for the next holder of what is wrong with the GPU (a poisoned CUDA context, an Xid). The last word stays; its reason is cut to 1000 characters.
    ///
    /// # Errors
    /// [`LockError::Write`] if the file cannot be written; the lock is held all the same.
    pub fn leave_trouble(&self, trouble: &PastTrouble) -> Result<(), LockError> {
        let reason = trouble.reason.chars().take(TROUBLE_MAX).collect();
        let note = Note { trouble: Some(reason), xid: trouble.xid, ..self.note.clone() };
        note.write(&self.file).map_err(|source| LockError::Write { path: self.path.clone(), source })
    }

    /// Who holds the lock of a GPU; `None` if nobody does, or if the file cannot be read. Looks, and takes nothing.
    #[must_use]
    pub fn holder(folder: &Path, gpu_id: &GpuId) -> Option<Holder> {
        let path = path(folder, gpu_id);
        let file = opening::existing(&path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(Self::noted_holder(&path)),
            Ok(()) => {
                release(&file);
                None
            }
            Err(TryLockError::Error(_)) => None,
        }
    }

    /// The holder by the note of a held lock. The note may be that of an earlier process, if the holder could leave none.
    fn noted_holder(path: &Path) -> Holder {
        let note = opening::existing(path).map(|file| Note::read(&file)).unwrap_or_default();
        match note.pid.filter(|pid| lives(*pid)) {
            Some(pid) => Holder { pid: Some(pid), since_ms: note.since_ms },
            None => Holder { pid: None, since_ms: None },
        }
    }
}

impl Drop for GpuLock {
    fn drop(&mut self) {
        release(&self.file);
    }
}

/// Gives the lock back at once. Closing the file alone would not, while another thread is just starting a process: that has the file open for a moment.
fn release(file: &File) {
    if let Err(error) = file.unlock() {
        tracing::debug!(%error, "a lock goes with its file");
    }
}

fn path(folder: &Path, gpu_id: &GpuId) -> PathBuf {
    folder.join(format!("{gpu_id}.lock"))
}

/// Opens and locks the file. `None`: another process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..TRIES {
        let file = opening::open(path)?;
        match file.try_lock() {
            Ok(()) if opening::is_at(&file, path) => return Ok(Some(file)),
            // Somebody deleted it between the two calls: this lock is on a file that nobody else will find.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_TRIES),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether a process of this id is there, whosever it is.
fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

fn now_ms() -> Option<u64> {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).ok()
}

/// RFC 3339 in UTC, to the second; what no calendar knows stays a number of milliseconds.
fn date(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).ok();
    let date = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok());
    date.unwrap_or_else(|| format!("{unix_ms} ms"))
}
