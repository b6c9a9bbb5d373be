//! The lock between processes.

use gpu_host::{GpuLock, LockError};

use crate::{
    harness::{gpu, number_in, until},
    roles::Role,
};

#[tokio::test]
async fn a_lock_is_refused_to_a_second_process_and_freed_by_the_death_of_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let (locks, held) = (folder.path().join("locks"), folder.path().join("held"));
    let mut first = Role::start("holder", folder.path());
    until("the first holds it", || number_in(&held).is_some()).await;
    let refused = GpuLock::take(&locks, &gpu(0)).expect_err("held");
    assert!(matches!(refused, LockError::Held { holder, .. } if holder.pid == Some(first.pid())), "{refused}");
    assert_eq!(GpuLock::holder(&locks, &gpu(0)).and_then(|holder| holder.pid), Some(first.pid()));

    first.kill();
    assert_eq!(GpuLock::holder(&locks, &gpu(0)), None);
    let lock = GpuLock::take(&locks, &gpu(0)).expect("free again");
    assert_eq!(lock.trouble().map(|trouble| trouble.reason.as_str()), Some("Xid 79"));
}
