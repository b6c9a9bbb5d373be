//! A supervisor that is killed cannot stop its children: they see it by themselves.

use crate::{
    harness::{is_gone, number_in, until},
    roles::Role,
};

#[tokio::test]
async fn a_child_notices_that_its_supervisor_was_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (child, gone) = (folder.path().join("child"), folder.path().join("gone"));
    let mut supervisor = Role::start("supervisor", folder.path());
    until("the child lives", || number_in(&child).is_some()).await;
    let pid = number_in(&child).expect("just read");
    assert!(!is_gone(pid) && !gone.exists());
    supervisor.kill();
    until("the child has noticed", || number_in(&gone) == Some(pid)).await;
    until("it has ended", || is_gone(pid)).await;
}
