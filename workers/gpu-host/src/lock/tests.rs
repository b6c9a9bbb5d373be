//! Locks of one process; those of several are in the integration tests.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::Barrier,
};

use proptest::prelude::*;

use super::*;

fn gpu() -> GpuId {
    GpuId::new("GPU-1a2b3c4d").expect("an id")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_lock_that_is_held_names_its_holder_and_what_to_do() {
    let folder = folder();
    let _held = GpuLock::take(folder.path(), &gpu()).expect("free");
    let error = GpuLock::take(folder.path(), &gpu()).expect_err("held").to_string();
    let begin = format!("GPU GPU-1a2b3c4d already has a worker on this host (process {}, since 20", std::process::id());
    assert!(error.starts_with(&begin), "{error}");
    assert!(error.ends_with("Z); stop it first, or choose another GPU"), "{error}");
}

#[test]
fn the_time_is_rfc_3339_in_utc() {
    assert_eq!(date(1_790_000_000_999), "2026-09-21T14:13:20Z");
}

#[test]
fn a_dropped_lock_is_free_and_other_gpus_never_were_locked() {
    let folder = folder();
    let other = GpuId::new("GPU-2").expect("an id");
    let held = GpuLock::take(folder.path(), &gpu()).expect("free");
    assert!(GpuLock::take(folder.path(), &other).is_ok());
    drop(held);
    assert!(GpuLock::take(folder.path(), &gpu()).is_ok());
}

#[test]
fn looking_finds_the_holder_and_takes_nothing() {
    let folder = folder();
    assert_eq!(GpuLock::holder(folder.path(), &gpu()), None, "no file");
    let held = GpuLock::take(folder.path(), &gpu()).expect("free");
    let holder = GpuLock::holder(folder.path(), &gpu()).expect("held");
    assert_eq!(holder.pid, Some(std::process::id()));
    assert_eq!(holder.since_ms, held.note.since_ms);
    drop(held);
    assert_eq!(GpuLock::holder(folder.path(), &gpu()), None, "released");
    assert!(GpuLock::take(folder.path(), &gpu()).is_ok());
}

proptest! {
    #[test]
    fn whatever_stands_in_the_file_the_lock_is_taken_and_its_holder_named(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "\\{\"(pid|since_ms|trouble|xid)\": ?(-?[0-9]{1,25}|null|\"[a-z]{0,5}\"|\\[*|\\{)[,}]?".prop_map(String::into_bytes),
        ],
    ) {
        let folder = folder();
        fs::write(path(folder.path(), &gpu()), bytes).expect("a file");
        prop_assert_eq!(GpuLock::holder(folder.path(), &gpu()), None);
        let _held = GpuLock::take(folder.path(), &gpu()).expect("free");
        prop_assert_eq!(GpuLock::holder(folder.path(), &gpu()).expect("held").pid, Some(std::process::id()));
    }
}

fn past(reason: &str, xid: u64) -> PastTrouble {
    PastTrouble { reason: reason.to_owned(), xid: Some(xid) }
}

#[test]
fn trouble_reaches_the_next_holder_once() {
    let folder = folder();
    let first = GpuLock::take(folder.path(), &gpu()).expect("free");
    assert_eq!(first.trouble(), None);
    first.leave_trouble(&past("a long word that is replaced: Xid 31", 31)).expect("written");
    first.leave_trouble(&past("off the bus", 79)).expect("written");
    drop(first);
    let second = GpuLock::take(folder.path(), &gpu()).expect("free");
    assert_eq!(second.trouble(), Some(&past("off the bus", 79)));
    drop(second);
    assert_eq!(GpuLock::take(folder.path(), &gpu()).expect("free").trouble(), None);
}

#[test]
fn the_folder_and_the_file_are_for_every_user_whatever_the_umask() {
    let folder = folder();
    let shared = folder.path().join("run/gpufleet");
    drop(GpuLock::take(&shared, &gpu()).expect("free"));
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o7777;
    assert_eq!(mode(&shared), 0o1777);
    assert_eq!(mode(&path(&shared, &gpu())), 0o1666);
    assert_ne!(mode(&folder.path().join("run")) & 0o1000, 0o1000, "only the last folder is shared");
}

#[test]
fn the_file_stays_and_is_used_again() {
    let folder = folder();
    drop(GpuLock::take(folder.path(), &gpu()).expect("free"));
    let before = fs::metadata(path(folder.path(), &gpu())).expect("it stays").ino();
    drop(GpuLock::take(folder.path(), &gpu()).expect("free"));
    assert_eq!(fs::metadata(path(folder.path(), &gpu())).expect("it stays").ino(), before);
}

#[test]
fn a_file_that_is_no_note_is_locked_like_any_other() {
    for content in ["", "{", "null", "{\"pid\":\"me\"}", "\u{0}\u{0}"] {
        let folder = folder();
        fs::write(path(folder.path(), &gpu()), content).expect("written");
        let lock = GpuLock::take(folder.path(), &gpu()).expect("free");
        assert_eq!(lock.trouble(), None, "{content:?}");
        assert_eq!(GpuLock::holder(folder.path(), &gpu()).and_then(|holder| holder.pid), Some(std::process::id()));
    }
}

#[test]
fn a_holder_that_cannot_write_holds_the_lock_and_a_dead_process_is_not_named() {
    let folder = folder();
    let file = path(folder.path(), &gpu());
    fs::write(&file, r#"{"pid":2147483646,"since_ms":1}"#).expect("written");
    let reader = File::open(&file).expect("readable");
    reader.try_lock().expect("free");
    let error = GpuLock::take(folder.path(), &gpu()).expect_err("held").to_string();
    assert!(error.contains("(its process is not known here)"), "{error}");
}

#[test]
fn a_link_or_a_pipe_in_place_of_the_file_is_refused_and_not_followed() {
    let folder = folder();
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    symlink(&victim, path(folder.path(), &gpu())).expect("linked");
    let error = GpuLock::take(folder.path(), &gpu()).expect_err("a link").to_string();
    assert!(
        error.contains("GPU-1a2b3c4d.lock: ") && error.ends_with("set gpu.lock_folder to a folder that this user may write to"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&victim).expect("there"), "precious");

    let other = GpuId::new("GPU-2").expect("an id");
    let made = std::process::Command::new("mkfifo").arg(path(folder.path(), &other)).status().expect("mkfifo runs");
    assert!(made.success());
    assert!(matches!(GpuLock::take(folder.path(), &other), Err(LockError::Open { .. })));
}

#[test]
fn a_folder_that_cannot_be_made_is_named_with_the_way_out() {
    let folder = folder();
    fs::write(folder.path().join("file"), "").expect("written");
    let error = GpuLock::take(&folder.path().join("file/locks"), &gpu()).expect_err("no folder").to_string();
    assert!(error.contains("file/locks/GPU-1a2b3c4d.lock") && error.contains("gpu.lock_folder"), "{error}");
}

#[test]
fn of_many_who_make_the_file_at_once_one_holds_the_lock() {
    for _ in 0..20 {
        let folder = folder();
        let barrier = Barrier::new(4);
        let holders = std::thread::scope(|scope| {
            let tries = std::array::from_fn::<_, 4, _>(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    GpuLock::take(&folder.path().join("locks"), &gpu()).ok()
                })
            });
            tries.map(|thread| thread.join().expect("no panic"))
        });
        assert_eq!(holders.iter().flatten().count(), 1);
    }
}

#[test]
fn a_read_only_file_is_enough() {
    let folder = folder();
    let file = path(folder.path(), &gpu());
    fs::write(&file, r#"{"trouble":"Xid 48"}"#).expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o444)).expect("its owner's");
    let lock = GpuLock::take(folder.path(), &gpu()).expect("free");
    assert_eq!(lock.trouble(), Some(&PastTrouble { reason: "Xid 48".to_owned(), xid: None }));
    assert!(GpuLock::holder(folder.path(), &gpu()).is_some());
}
