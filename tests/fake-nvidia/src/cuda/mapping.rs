//! Pages of the host, behind device memory and pinned memory.

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd},
    ptr,
};

/// Pages of the host; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) address: usize,
    pub(super) bytes: usize,
    /// What other processes map too.
    pub(super) file: Option<File>,
}

impl Mapping {
    /// Zeros that take no memory until they are used.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
    }

    /// As `new`, and other processes can map them too.
    pub(super) fn shareable(bytes: usize) -> Option<Self> {
        // SAFETY: the name ends with a zero; the descriptor is a new one, or -1.
        let descriptor = unsafe { libc::memfd_create(c"fake-nvidia".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: nobody else has the descriptor.
        let file = (descriptor >= 0).then(|| unsafe { File::from_raw_fd(descriptor) })?;
        file.set_len(u64::try_from(bytes).ok()?).ok()?;
        Self::map(bytes, libc::MAP_SHARED, Some(file))
    }

    /// The pages of another process.
    pub(super) fn of_file(file: File) -> Option<Self> {
        let bytes = usize::try_from(file.metadata().ok()?.len()).ok()?;
        Self::map(bytes, libc::MAP_SHARED, Some(file))
    }

    fn map(bytes: usize, flags: libc::c_int, file: Option<File>) -> Option<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_NORESERVE);
        let descriptor = file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let pointer = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, descriptor, 0) };
        (pointer != libc::MAP_FAILED).then(|| Self { address: pointer.expose_provenance(), bytes, file })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and unmapped once. Nothing unmaps only a part.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.address), self.bytes) };
    }
}
