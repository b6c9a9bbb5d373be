//! Pages of the host, behind device memory and pinned memory.

use std::ptr;

/// Pages of the host; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) address: usize,
    pub(super) bytes: usize,
}

impl Mapping {
    /// Zeros that take no memory until they are used.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let pointer = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        (pointer != libc::MAP_FAILED).then(|| Self { address: pointer.expose_provenance(), bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and unmapped once. Nothing unmaps only a part.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.address), self.bytes) };
    }
}
