//! Memory of the host that processes share: handed from one to another as a file descriptor, and nowhere to be found by name.
//!
//! It has no entry in a file system (`memfd_create`), so nothing of it is left in `/dev/shm`, whatever is killed, and the small size that containers give to `/dev/shm` does not bound it. The kernel gives it
//! back when the last process that has it ends or lets go of it.

use std::{
    any::Any,
    ffi::c_void,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create},
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// It can neither shrink, so that no access meets a page that is gone, nor grow.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Why there is no shared memory.
#[derive(Debug, thiserror::Error)]
pub enum SharedMemoryError {
    /// The kernel refuses.
    #[error("{operation}: {source}")]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// What another process handed over is no memory of this kind, or of another size than was said.
    #[error("not shared memory of {expected_bytes} bytes: {problem}")]
    Foreign {
        /// The size that was said.
        expected_bytes: usize,
        /// What it is instead.
        problem: String,
    },
}

/// Memory that processes share. The processes that have it agree on who may write which part of it when: nothing here holds them to that, and what a process reads while another one writes it may be any mixture.
#[derive(Debug)]
pub struct SharedMemory {
    file: OwnedFd,
    pages: Arc<Pages>,
    /// What a driver holds of the pages so that its GPU reaches them by itself. `None` in it: the driver refused.
    pinned: OnceLock<Option<Box<dyn Any + Send + Sync>>>,
}

/// The mapping of shared memory in this process. It goes when nobody has it any more: the memory, or the driver that was given it.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and stays where it is; its bytes are only reached by copies through raw pointers (see `write_at` and `read_at`).
unsafe impl Send for Pages {}
// SAFETY: as above: there are never references to its bytes.
unsafe impl Sync for Pages {}

impl Pages {
    /// Where they begin.
    pub(crate) const fn start(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }

    /// How many bytes they have.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl SharedMemory {
    /// Takes so many bytes, at least 1. They are zero.
    ///
    /// # Errors
    /// [`SharedMemoryError::Refused`], where the kernel has no memory or no file descriptor.
    pub fn allocate(bytes: usize) -> Result<Self, SharedMemoryError> {
        let file = anonymous_file().map_err(refused("make shared memory"))?;
        ftruncate(&file, bytes as u64).map_err(refused("take shared memory"))?;
        fcntl_add_seals(&file, SEALS).map_err(refused("fix the size of shared memory"))?;
        Self::map(file, bytes)
    }

    /// The memory behind a descriptor that another process handed over. `bytes` is its size, as that process said.
    ///
    /// # Errors
    /// [`SharedMemoryError::Foreign`] where it is none, has another size, or could still change its size.
    pub fn attach(file: OwnedFd, bytes: usize) -> Result<Self, SharedMemoryError> {
        let foreign = |problem: String| SharedMemoryError::Foreign { expected_bytes: bytes, problem };
        let seals = fcntl_get_seals(&file).map_err(|error| foreign(error.to_string()))?;
        if !seals.contains(SEALS) {
            return Err(foreign("its size is not fixed".to_owned()));
        }
        let size = fstat(&file).map_err(|error| foreign(error.to_string()))?.st_size;
        if u64::try_from(size).ok() != Some(bytes as u64) {
            return Err(foreign(format!("it has {size} bytes")));
        }
        Self::map(file, bytes)
    }

    fn map(file: OwnedFd, bytes: usize) -> Result<Self, SharedMemoryError> {
        // SAFETY: a new mapping, at a place that the kernel chooses; the file's size is fixed, and is that of the mapping.
        let start = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
                .map_err(refused("map shared memory"))?
        };
        let start = NonNull::new(start.cast())
            .ok_or_else(|| SharedMemoryError::Foreign { expected_bytes: bytes, problem: "mapped at zero".to_owned() })?;
        Ok(Self { file, pages: Arc::new(Pages { start, bytes }), pinned: OnceLock::new() })
    }

    /// Whether a driver holds its pages for its GPU. It is asked to at the first call, by `pin`, and never again; what that gives lives as long as the memory, and may keep the pages for longer.
    pub(crate) fn is_pinned(&self, pin: impl FnOnce(&Arc<Pages>) -> Option<Box<dyn Any + Send + Sync>>) -> bool {
        self.pinned.get_or_init(|| pin(&self.pages)).is_some()
    }

    /// Its size.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.bytes
    }

    /// Whether it has no bytes. It always has some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes to a place.
    ///
    /// # Panics
    /// If they do not fit there.
    pub fn write_at(&self, at: usize, bytes: &[u8]) {
        self.check(at, bytes.len());
        // SAFETY: checked to lie within the mapping, which lives as long as `self`; no reference to its bytes exists, and `bytes` cannot be part of it for the same reason.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pages.start.as_ptr().add(at), bytes.len()) };
    }

    /// Reads bytes from a place.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read_at(&self, at: usize, into: &mut [u8]) {
        self.check(at, into.len());
        // SAFETY: as in `write_at`.
        unsafe { std::ptr::copy_nonoverlapping(self.pages.start.as_ptr().add(at), into.as_mut_ptr(), into.len()) };
    }

    /// A copy of so many bytes from a place.
    ///
    /// # Panics
    /// If there are not so many.
    #[must_use]
    pub fn copy_of(&self, at: usize, bytes: usize) -> Vec<u8> {
        self.check(at, bytes);
        let mut copy = Vec::with_capacity(bytes);
        // SAFETY: the source is checked as in `write_at`; the target is memory of its own with room for as many bytes, and all of them are written before its length says so.
        unsafe {
            std::ptr::copy_nonoverlapping(self.pages.start.as_ptr().add(at), copy.as_mut_ptr(), bytes);
            copy.set_len(bytes);
        }
        copy
    }

    /// Where a part of it is in this process, for a driver that copies to or from it. It is valid as long as `self` is.
    ///
    /// # Panics
    /// If there are not so many bytes.
    #[must_use]
    pub fn pointer(&self, at: usize, bytes: usize) -> *mut c_void {
        self.check(at, bytes);
        // SAFETY: checked to lie within the mapping.
        unsafe { self.pages.start.as_ptr().add(at).cast() }
    }

    fn check(&self, at: usize, bytes: usize) {
        let end = at.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.len()), "{bytes} bytes at {at} of shared memory of {}", self.len());
    }
}

impl AsFd for SharedMemory {
    /// To hand it to another process.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and nobody has a pointer into it any more: `SharedMemory::pointer` says for how long one is valid.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.bytes, "shared memory stays mapped");
        }
    }
}

/// A file without a name. Some hosts refuse one that could be run (`vm.memfd_noexec`), and kernels before 6.3 cannot be told that this one is not to be.
fn anonymous_file() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("gpufleet", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("gpufleet", flags),
        file => file,
    }
}

fn refused(operation: &'static str) -> impl FnOnce(Errno) -> SharedMemoryError {
    move |error| SharedMemoryError::Refused { operation, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_writes_the_other_reads() {
        let one = SharedMemory::allocate(10_000).unwrap();
        let other = SharedMemory::attach(one.as_fd().try_clone_to_owned().unwrap(), 10_000).unwrap();
        one.write_at(9_990, b"0123456789");
        let mut read = [0; 10];
        other.read_at(9_990, &mut read);
        assert_eq!(&read, b"0123456789");
        assert_eq!(other.copy_of(9_990, 10), b"0123456789");
        drop(one);
        other.read_at(9_990, &mut read);
        assert_eq!(&read, b"0123456789", "it lives as long as anybody has it");
    }

    #[test]
    fn what_is_no_shared_memory_of_that_size_is_refused() {
        let memory = SharedMemory::allocate(4_096).unwrap();
        let clone = || memory.as_fd().try_clone_to_owned().unwrap();
        let other_size = SharedMemory::attach(clone(), 8_192).unwrap_err().to_string();
        assert!(other_size.contains("8192") && other_size.contains("4096"), "{other_size}");
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(SharedMemory::attach(file.into(), 4_096).is_err(), "a file");
        let unsealed = memfd_create("unsealed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4_096).unwrap();
        let error = SharedMemory::attach(unsealed, 4_096).unwrap_err().to_string();
        assert!(error.contains("not fixed"), "{error}");
        assert!(ftruncate(memory.as_fd(), 1).is_err(), "nobody makes it smaller under another one's hands");
    }

    #[test]
    fn a_driver_is_asked_once_and_its_pin_goes_with_the_memory() {
        let asked = std::cell::Cell::new(0);
        let refused = |_: &Arc<Pages>| {
            asked.set(asked.get() + 1);
            None
        };
        let memory = SharedMemory::allocate(4_096).unwrap();
        assert!(!memory.is_pinned(refused) && !memory.is_pinned(refused));
        assert_eq!(asked.get(), 1, "what it refused it is not asked for again");
        let (memory, pin) = (SharedMemory::allocate(4_096).unwrap(), Arc::new(()));
        assert!(memory.is_pinned(|_| Some(Box::new(Arc::clone(&pin)))));
        assert_eq!(Arc::strong_count(&pin), 2);
        drop(memory);
        assert_eq!(Arc::strong_count(&pin), 1);
    }

    #[test]
    #[should_panic(expected = "of shared memory of 4096")]
    fn nothing_outside_of_it_is_reached() {
        SharedMemory::allocate(4_096).unwrap().write_at(4_090, &[0; 7]);
    }
}
