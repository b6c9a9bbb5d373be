//! Opening a lock's file in a folder that all users of the host share.
//!
//! `/run/lock` and the like are sticky and writable for everybody. There the kernel refuses `O_CREAT` on another user's file
//! (`fs.protected_regular`), so a file that exists is opened without it, and one that does not is made with `O_EXCL`. And anybody may have put a link or a
//! pipe where the file belongs: neither is followed or waited for.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// How often two processes may get into each other's way while they make the same file.
const TRIES: u32 = 4;
/// For every user of the host, each of whom can delete only what is his.
const FOLDER_MODE: u32 = 0o1777;
const FILE_MODE: u32 = 0o666;
/// What cleans old files out of temporary folders leaves those with the sticky bit alone. A lock's file must not go while its lock is held.
const KEPT_FILE_MODE: u32 = 0o1666;

/// Opens the file, made if it is missing, for reading and writing if this user may, else for reading: that is enough to lock it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for _ in 0..TRIES {
        match existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match create(path) {
            // Another process was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            created => return created,
        }
    }
    Err(last)
}

/// Opens the file if it is there.
pub(super) fn existing(path: &Path) -> io::Result<File> {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let file = match options().write(true).open(path) {
        Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => options().open(path)?,
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Whether the path still leads to this open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(opened), Ok(found)) => identity(opened) == identity(found),
        _ => false,
    }
}

fn options() -> OpenOptions {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.cast_signed());
    options
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    // Not by the mode at creation: the umask would take the others' right to write.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    if let Err(error) = file.set_permissions(Permissions::from_mode(KEPT_FILE_MODE)) {
        tracing::debug!(path = %path.display(), %error, "the lock's file has no sticky bit");
    }
    Ok(file)
}

fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
