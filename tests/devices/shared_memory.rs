//! Memory that processes share, when these are killed.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    process::{Child, Stdio},
};

use devices::SharedMemory;
use fake_nvidia::process;

/// Set in the processes that hold memory: where to find it, or nothing for one that makes it.
const FROM: &str = "SHARED_MEMORY_FROM";
const BYTES: usize = 16 << 20;
/// What the kernel shows instead of a path.
const SHOWN_AS: &str = "/memfd:gpufleet";

/// A process that holds shared memory until it is killed, or until this one is gone.
struct Holder {
    child: Child,
    /// Where other processes find the memory.
    path: String,
}

impl Holder {
    fn start(test: &str, from: &str) -> Self {
        let mut command = process::of_test(test);
        let mut child = command.env(FROM, from).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let descriptor = lines.find_map(|line| line.split_once("holds descriptor ").map(|(_, number)| number.to_owned()));
        let descriptor = descriptor.expect("the process says what it holds");
        Self { path: format!("/proc/{}/fd/{descriptor}", child.id()), child }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory as the kernel numbers it.
    fn inode(&self) -> u64 {
        fs::metadata(&self.path).unwrap().ino()
    }

    /// Kills it, with no chance to tidy up.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process that holds memory does.
fn hold(from: &str) -> ! {
    let memory = if from.is_empty() {
        let memory = SharedMemory::allocate(BYTES).unwrap();
        memory.write_at(0, &vec![7; BYTES]);
        memory
    } else {
        let file = OpenOptions::new().read(true).write(true).open(from).unwrap();
        SharedMemory::attach(file.into(), BYTES).unwrap()
    };
    let mut last = [0; 3];
    memory.read_at(BYTES - 3, &mut last);
    assert_eq!(last, [7; 3]);
    let held = format!("holds descriptor {}\n", memory.as_fd().as_raw_fd());
    io::stdout().write_all(held.as_bytes()).unwrap();
    // It ends when the test does, however that ends.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0)
}

/// The processes that have this memory, by a descriptor or in their address space.
fn holders(inode: u64) -> BTreeSet<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has_descriptor(*pid, inode) || has_mapping(*pid, inode)).collect()
}

fn has_descriptor(pid: u32, inode: u64) -> bool {
    // A process that ends meanwhile, or is another user's, has none that could be ours.
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|entry| {
        let is_shared = fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with(SHOWN_AS));
        is_shared && fs::metadata(entry.path()).is_ok_and(|metadata| metadata.ino() == inode)
    })
}

fn has_mapping(pid: u32, inode: u64) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    // Addresses, rights, offset, device, inode, path.
    maps.lines().any(|line| line.contains(SHOWN_AS) && line.split_whitespace().nth(4) == Some(inode.to_string().as_str()))
}

/// What a process has of the file system of shared memory: by descriptors and in its address space.
fn named(pid: u32) -> Vec<String> {
    const FOLDER: &str = "/dev/shm/";
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let opened = descriptors.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()));
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mapped = maps.lines().map(str::to_owned);
    opened.chain(mapped).filter(|shown| shown.contains(FOLDER)).collect()
}

/// What lies in `/dev/shm` under our name. A host may have no such folder.
fn entries_of_ours() -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.contains("gpufleet")).collect()
}

#[test]
fn the_shared_memory_of_killed_processes_is_gone_and_leaves_no_entry_behind() {
    const NAME: &str = "shared_memory::the_shared_memory_of_killed_processes_is_gone_and_leaves_no_entry_behind";
    if let Ok(from) = env::var(FROM) {
        hold(&from);
    }
    let mut maker = Holder::start(NAME, "");
    let mut other = Holder::start(NAME, &maker.path);
    let inode = maker.inode();
    assert_eq!(other.inode(), inode, "it is one memory");
    assert_eq!(holders(inode), BTreeSet::from([maker.pid(), other.pid()]));
    for holder in [&maker, &other] {
        assert_eq!(named(holder.pid()), Vec::<String>::new(), "nothing has a name that could be left");
    }
    maker.kill();
    assert_eq!(holders(inode), BTreeSet::from([other.pid()]), "it lives as long as anybody has it");
    let mut third = Holder::start(NAME, &other.path);
    other.kill();
    third.kill();
    assert_eq!(holders(inode), BTreeSet::new(), "the kernel has it no more");
    assert_eq!(entries_of_ours(), Vec::<String>::new());
}
