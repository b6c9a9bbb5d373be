//! Memory between processes: a handle says which file of which process is behind an allocation.
//!
//! As with a real driver, only memory of `cuMemAlloc` has a handle, the process that made one cannot open it, and there must be a way between the two GPUs. Memory that was opened stays what it is after its process
//! has ended; a real one's would be gone.

use std::{
    ffi::c_uint,
    fs::OpenOptions,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process,
};

use super::{Handle, Sees, codes, in_context, mapping::Mapping, memory, process as cuda, put, with_part};
use crate::c_interface::Code;
use codes::{INVALID_CONTEXT, INVALID_VALUE, MAP_FAILED, PEER_ACCESS_UNSUPPORTED};

/// The bytes of a UUID as text.
const UUID: usize = 40;

/// As C has it: 64 bytes, which are passed by value.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MemoryHandle {
    bytes: [u8; 64],
}

/// What is in a handle.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Meant {
    pid: u32,
    descriptor: i32,
    /// Of the file: a descriptor may stand for another one by now.
    inode: u64,
    length: u64,
    uuid: String,
}

impl Meant {
    fn written(&self) -> Option<MemoryHandle> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.pid.to_ne_bytes());
        bytes.extend(self.descriptor.to_ne_bytes());
        bytes.extend(self.inode.to_ne_bytes());
        bytes.extend(self.length.to_ne_bytes());
        bytes.extend(self.uuid.as_bytes());
        Some(MemoryHandle { bytes: bytes.try_into().ok()? })
    }

    fn read(handle: &MemoryHandle) -> Option<Self> {
        let number = |at: usize| handle.bytes[at..at + 8].try_into().map(u64::from_ne_bytes).ok();
        let half = |at: usize| handle.bytes[at..at + 4].try_into().map(u32::from_ne_bytes).ok();
        Some(Self {
            pid: half(0)?,
            descriptor: half(4)?.cast_signed(),
            inode: number(8)?,
            length: number(16)?,
            uuid: String::from_utf8(handle.bytes[64 - UUID..].to_vec()).ok()?,
        })
    }

    /// The memory, mapped into this process.
    fn mapped(&self) -> Result<Mapping, Code> {
        let path = format!("/proc/{}/fd/{}", self.pid, self.descriptor);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|_| MAP_FAILED)?;
        let about = file.metadata().map_err(|_| MAP_FAILED)?;
        if (about.ino(), about.len()) != (self.inode, self.length) {
            return Err(MAP_FAILED);
        }
        Mapping::of_file(file).ok_or(MAP_FAILED)
    }
}

/// The handle of an allocation of `cuMemAlloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcGetMemHandle(handle: *mut MemoryHandle, pointer: u64) -> Code {
    in_context(Sees::OldErrors, |context| {
        with_part(context, |_, part| part.gpu.ipc_export_error)?.map_or(Ok(()), Err)?;
        let uuid = with_part(context, |_, part| part.uuid().to_owned())?;
        let meant = {
            let process = cuda();
            let file = process.memory.file(pointer).ok_or(INVALID_VALUE)?;
            let about = file.metadata().map_err(|_| INVALID_VALUE)?;
            Meant { pid: process::id(), descriptor: file.as_raw_fd(), inode: about.ino(), length: about.len(), uuid }
        };
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(handle, meant.written().ok_or(INVALID_VALUE)?) }
    })
}

/// Maps the memory of another process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcOpenMemHandle_v2(pointer: *mut u64, handle: MemoryHandle, _flags: c_uint) -> Code {
    in_context(Sees::OldErrors, |context| {
        let meant = Meant::read(&handle).ok_or(INVALID_VALUE)?;
        if meant.pid == process::id() {
            return Err(INVALID_CONTEXT);
        }
        let has_a_way = with_part(context, |_, part| {
            part.gpu.ipc_open_error.map_or(Ok(()), Err)?;
            Ok::<bool, Code>(part.uuid() == meant.uuid || part.gpu.peers.contains(&meant.uuid))
        })??;
        if !has_a_way {
            return Err(PEER_ACCESS_UNSUPPORTED);
        }
        let address = memory::opened(context, meant.mapped()?)?;
        // SAFETY: the caller gives a place for the pointer, or null.
        unsafe { put(pointer, address) }
    })
}

/// Unmaps it, once the context's streams are idle.
#[unsafe(no_mangle)]
pub extern "C" fn cuIpcCloseMemHandle(pointer: u64) -> Code {
    in_context(Sees::NewErrors, |context: Handle| memory::close(context, pointer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_says_what_was_meant() {
        let uuid = "GPU-00000000-0000-4000-8000-000000000007".to_owned();
        let meant = Meant { pid: 7, descriptor: 9, inode: 1 << 40, length: 123_456, uuid };
        assert_eq!(Meant::read(&meant.written().unwrap()), Some(meant));
    }
}
