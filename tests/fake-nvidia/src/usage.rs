//! How much of each device the fake CUDA processes of this machine hold: one small file per process and device, beside the script.
//!
//! `<script>.used.<pid>.<uuid>` holds a number of bytes. The file of a process that is gone counts as nothing: the kernel of a real machine would
//! have taken its memory back.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process,
};

use crate::state::{Part, Script};

/// What one living process holds of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) pid: u32,
    pub(crate) bytes: u64,
}

/// A device's memory, as CUDA and NVML both show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) free: u64,
}

/// The memory of a GPU or MIG instance. What the instances of a GPU hold, the GPU holds.
pub(crate) fn memory(script: &Script, part: &Part<'_>) -> Memory {
    let total = part.memory_bytes();
    let held: u64 = held(script, part).iter().map(|held| held.bytes).sum();
    let free = total.saturating_sub(part.used_by_others_bytes()).saturating_sub(held);
    Memory { total, free: free.min(part.free_at_most_bytes()) }
}

/// What living processes hold of a GPU or MIG instance.
pub(crate) fn held(script: &Script, part: &Part<'_>) -> Vec<Held> {
    let Some((folder, prefix)) = place(&script.path) else { return Vec::new() };
    let counts = |uuid: &str| uuid == part.uuid() || part.instance.is_none() && part.gpu.mig.iter().any(|mig| mig.uuid == uuid);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| entry(folder, &name, &prefix, counts)).collect()
}

fn entry(folder: &Path, name: &str, prefix: &str, counts: impl Fn(&str) -> bool) -> Option<Held> {
    let (pid, uuid) = name.strip_prefix(prefix)?.split_once('.')?;
    let pid: u32 = pid.parse().ok()?;
    let bytes = fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()?;
    (counts(uuid) && is_alive(pid)).then_some(Held { pid, bytes })
}

/// Takes more of the device for this process, which holds `held` bytes of it, unless so much is not free. Processes that reserve take turns.
pub(crate) fn reserve(script: &Script, part: &Part<'_>, held: u64, more: u64) -> bool {
    let turn = place(&script.path).and_then(|(folder, prefix)| File::create(folder.join(format!("{prefix}lock"))).ok());
    // Without the turn two processes may together take more than there is: nothing worse.
    let _held = turn.as_ref().map(File::lock);
    let fits = more <= memory(script, part).free;
    if fits {
        record(script, part.uuid(), Some(held + more));
    }
    fits
}

/// Says that this process now holds so many bytes of the device; `None` says that it no longer uses it.
pub(crate) fn record(script: &Script, uuid: &str, bytes: Option<u64>) {
    let Some((folder, prefix)) = place(&script.path) else { return };
    let pid = process::id();
    let file = folder.join(format!("{prefix}{pid}.{uuid}"));
    match bytes {
        Some(bytes) => replace(&file, &folder.join(format!(".{prefix}{pid}.{uuid}")), bytes),
        // Nothing to remove is as good.
        None => drop(fs::remove_file(&file)),
    }
}

/// A reader sees the old number or the new one. A folder that cannot be written loses the number, which is all that can be done here.
fn replace(file: &Path, draft: &Path, bytes: u64) {
    let written = fs::write(draft, bytes.to_string());
    let _ = written.and_then(|()| fs::rename(draft, file));
}

fn place(script: &Path) -> Option<(&Path, String)> {
    Some((script.parent()?, format!("{}.used.", script.file_name()?.to_str()?)))
}

/// A process that ended and waits for its parent is dead: it holds no memory.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
