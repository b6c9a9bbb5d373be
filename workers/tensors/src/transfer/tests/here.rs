//! Within one process, on a paused clock.

use std::time::Duration;

use bytes::Bytes;
use protocol::{TensorRef, TransferWay, WayView};
use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;

use crate::{
    DataError, KeepError,
    doubles::{Fault, TestFleet, TestPlane, content, until},
};

/// What `to` knows of a way from `from`.
fn way(from: &TestPlane, to: &TestPlane, way: TransferWay) -> Option<WayView> {
    to.plane.state().ways.into_iter().find(|view| view.from == from.gpu_id() && view.way == way)
}

/// A fleet of two, of which one has a tensor.
async fn two() -> (TestFleet, TestPlane, TestPlane, TensorRef, Bytes) {
    let fleet = TestFleet::new();
    let (from, to) = (fleet.plane("from").await, fleet.plane("to").await);
    let bytes = content((9 << 20) + 13);
    let reference = from.keep("x", &bytes).await;
    (fleet, from, to, reference, bytes)
}

/// Nothing of a tensor is there.
async fn has_nothing(to: &TestPlane) {
    until("nothing of it remains", || to.plane.store().bytes() == (0, 0) && to.plane.store().list().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_copies_from_the_other_and_the_copy_is_found_by_everybody() {
    let (fleet, from, to, reference, bytes) = two().await;
    let tensor = to.fetch(&reference).await.unwrap();
    assert_eq!(to.bytes(&tensor).await, bytes);
    assert_eq!(way(&from, &to, TransferWay::Local).unwrap().demoted_for_ms, None);
    assert_eq!(fleet.counted("gpufleet_transfer_bytes_total", &["local"]), bytes.len() as u64);
    until("it is announced", || fleet.directory.records().iter().any(|record| record.gpu_id == to.gpu_id())).await;
    let copies = to.gpu.calls("copy");
    to.fetch(&reference).await.unwrap();
    assert_eq!(to.gpu.calls("copy"), copies, "it is there");
}

#[tokio::test(start_paused = true)]
async fn where_the_pair_has_no_way_of_its_own_it_goes_through_the_host() {
    let (_fleet, from, to, reference, bytes) = two().await;
    to.gpu.inject("copy", 1, Fault::Unsupported);
    let tensor = to.fetch(&reference).await.unwrap();
    assert_eq!(to.bytes(&tensor).await, bytes);
    let local = way(&from, &to, TransferWay::Local).unwrap();
    assert_eq!(local.demoted_for_ms, Some(300_000), "as long as any");
    assert!(local.reason.contains("as injected"), "{}", local.reason);
    assert_eq!(way(&from, &to, TransferWay::Staged).unwrap().demoted_for_ms, None);
}

#[tokio::test(start_paused = true)]
async fn what_fails_once_is_tried_again_and_what_fails_twice_is_left_out_for_a_while() {
    let (fleet, from, to, reference, _) = two().await;
    to.gpu.inject("copy", 1, Fault::Fails);
    to.fetch(&reference).await.unwrap();
    assert_eq!(way(&from, &to, TransferWay::Local).unwrap().demoted_for_ms, None);
    let bytes = content(1_000);
    let again = from.keep("y", &bytes).await;
    to.gpu.inject("copy", 2, Fault::Fails);
    let tensor = to.fetch(&again).await.unwrap();
    assert_eq!(to.bytes(&tensor).await, bytes);
    assert!(way(&from, &to, TransferWay::Local).unwrap().demoted_for_ms.is_some());
    assert_eq!(fleet.counted("gpufleet_transfer_failures_total", &["failed", "local"]), 3);
    let copies = to.gpu.calls("copy");
    let third = from.keep("z", &bytes).await;
    to.fetch(&third).await.unwrap();
    assert_eq!(to.gpu.calls("copy"), copies, "left out");
    advance(Duration::from_secs(31)).await;
    let fourth = from.keep("u", &bytes).await;
    to.fetch(&fourth).await.unwrap();
    assert_eq!(to.gpu.calls("copy"), copies + 1, "and tried again when its time is over");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_changed_on_the_way_are_found_and_come_again() {
    let (_fleet, _from, to, reference, bytes) = two().await;
    to.gpu.inject("copy", 1, Fault::Corrupts);
    let tensor = to.fetch(&reference).await.unwrap();
    assert_eq!(to.bytes(&tensor).await, bytes);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_change_whatever_is_done_are_never_handed_out() {
    let (fleet, _from, to, reference, _) = two().await;
    to.gpu.inject("copy", usize::MAX, Fault::Corrupts);
    to.gpu.inject("write", usize::MAX, Fault::Corrupts);
    let error = to.fetch(&reference).await.unwrap_err();
    let DataError::Transfer { reason, .. } = &error else { panic!("{error}") };
    assert_eq!(reason.lines().count(), 4, "each way was tried twice: {reason}");
    assert!(reason.contains("from from (local)") && reason.contains("checksums differ"), "{reason}");
    assert_eq!(fleet.counted("gpufleet_transfer_failures_total", &["corrupted", "staged"]), 2);
    has_nothing(&to).await;
    to.gpu.go_on();
    to.fetch(&reference).await.expect("a way that is left out is better than none");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_gone_is_passed_over_and_one_that_is_gone_everywhere_is_missing() {
    let (fleet, from, to, reference, bytes) = two().await;
    let other = fleet.plane("other").await;
    other.fetch(&reference).await.unwrap();
    until("both are announced", || fleet.directory.records().len() == 2).await;
    let copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    assert_eq!(copies.len(), 2);
    from.plane.store().free(&reference.tensor, None);
    let cancel = CancellationToken::new();
    let tensor = to.plane.fetch(&reference, &copies, &cancel).await.unwrap();
    assert_eq!(to.bytes(&tensor).await, bytes);
    drop(tensor);
    other.plane.store().free(&reference.tensor, None);
    to.plane.store().free(&reference.tensor, None);
    let error = to.plane.fetch(&reference, &copies, &cancel).await.unwrap_err();
    assert_eq!(error, DataError::Missing { name: reference.tensor.clone(), version: reference.version });
    has_nothing(&to).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_target_says_so_and_tries_no_other_way() {
    let (fleet, _from, to, reference, _) = two().await;
    to.gpu.set_capacity(1_000);
    let error = to.fetch(&reference).await.unwrap_err();
    assert!(matches!(error, DataError::Keep(KeepError::Full { .. } | KeepError::Memory(_))), "{error:?}");
    assert_eq!(fleet.counted("gpufleet_transfer_failures_total", &["failed", "local"]), 0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_the_pool_has_no_room_for_is_not_begun() {
    let mut fleet = TestFleet::new();
    fleet.options.pool_mb = Some(10);
    let (from, to) = (fleet.plane("from").await, fleet.plane("to").await);
    let reference = from.keep("x", &content(1_000_001)).await;
    fleet.directory.pool_mb.store(9, std::sync::atomic::Ordering::SeqCst);
    let error = to.fetch(&reference).await.unwrap_err();
    assert_eq!(error.code(), protocol::ErrorCode::TensorsFull);
    assert!(error.to_string().contains("data.pool_mb"), "{error}");
    assert_eq!(to.gpu.calls("allocate"), 0);
}

#[tokio::test(start_paused = true)]
async fn each_copy_is_brought_as_its_own_record_says_it_is() {
    let fleet = TestFleet::new();
    let (gone, there, to) = (fleet.plane("gone").await, fleet.plane("there").await, fleet.plane("to").await);
    let reference = there.keep("x", &content(1_000)).await;
    let copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    // It says another shape of itself, and has nothing.
    let other = protocol::TensorRecord {
        gpu_id: gone.gpu_id(),
        incarnation: gone.plane.shared.incarnation.clone(),
        shape: protocol::TensorShape::of_bytes(10),
        bytes: 10,
        ..copies[0].clone()
    };
    for copies in [[other.clone(), copies[0].clone()], [copies[0].clone(), other]] {
        let tensor = to.plane.fetch(&reference, &copies, &CancellationToken::new()).await.unwrap();
        assert_eq!(to.bytes(&tensor).await, content(1_000));
        to.plane.store().free(&reference.tensor, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_copy_gives_way_to_the_next_way() {
    let (_fleet, from, to, reference, bytes) = two().await;
    to.gpu.inject("copy", 1, Fault::Hangs);
    let started = Instant::now();
    let tensor = to.fetch(&reference).await.unwrap();
    assert_eq!(to.bytes(&tensor).await, bytes);
    assert_eq!(started.elapsed().as_secs(), 5, "the time for which nothing may come");
    assert_eq!(to.gpu.calls("allocate"), 2, "the stalled copy may still write to the memory that it was to fill");
    assert_eq!(way(&from, &to, TransferWay::Local).unwrap().reason, "nothing came for 5000 ms");
}

#[tokio::test(start_paused = true)]
async fn who_cancels_waits_no_longer_and_leaves_nothing() {
    let (_fleet, _from, to, reference, _) = two().await;
    to.gpu.inject("copy", usize::MAX, Fault::Waits);
    let copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    let cancel = CancellationToken::new();
    let (fetched, ()) = tokio::join!(to.plane.fetch(&reference, &copies, &cancel), async {
        to.gpu.until_called("copy", 1).await;
        cancel.cancel();
    });
    assert_eq!(fetched.unwrap_err(), DataError::Cancelled);
    has_nothing(&to).await;
}

#[tokio::test(start_paused = true)]
async fn those_who_want_the_same_share_one_transfer_that_outlives_its_starter() {
    let (_fleet, _from, to, reference, bytes) = two().await;
    to.gpu.inject("copy", 1, Fault::Waits);
    let copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    let (starter, other) = (CancellationToken::new(), CancellationToken::new());
    let (first, second, ()) =
        tokio::join!(to.plane.fetch(&reference, &copies, &starter), to.plane.fetch(&reference, &copies, &other), async {
            to.gpu.until_called("copy", 1).await;
            starter.cancel();
            tokio::task::yield_now().await;
            to.gpu.go_on();
        });
    assert_eq!(first.unwrap_err(), DataError::Cancelled);
    assert_eq!(to.bytes(&second.unwrap()).await, bytes);
    assert_eq!(to.gpu.calls("copy"), 3, "each of its three pieces once");
}

#[tokio::test(start_paused = true)]
async fn what_is_freed_while_it_is_on_its_way_is_given_to_who_waits_for_it_and_found_by_nobody() {
    for version_named in [true, false] {
        let (fleet, from, to, reference, bytes) = two().await;
        to.gpu.inject("copy", 1, Fault::Waits);
        let copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
        let cancel = CancellationToken::new();
        let freed = TensorRef { version: reference.version.filter(|_| version_named), ..reference.clone() };
        let (fetched, ()) = tokio::join!(to.plane.fetch(&reference, &copies, &cancel), async {
            to.gpu.until_called("copy", 1).await;
            assert_eq!(to.plane.free(&freed).await.unwrap(), [from.gpu_id(), to.gpu_id()]);
            to.gpu.go_on();
        });
        let tensor = fetched.unwrap();
        assert_eq!(to.bytes(&tensor).await, bytes);
        assert!(to.plane.store().list().is_empty(), "it is found no more");
        drop(tensor);
        has_nothing(&to).await;
        // Longer than it takes to announce a copy.
        advance(Duration::from_secs(5)).await;
        assert!(fleet.directory.records().is_empty(), "{:?}", fleet.directory.records());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_freed_from_elsewhere_while_it_is_on_its_way_is_found_by_nobody_either() {
    let (fleet, from, to, reference, bytes) = two().await;
    let third = fleet.plane("third").await;
    to.gpu.inject("copy", 1, Fault::Waits);
    let copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    let cancel = CancellationToken::new();
    let (fetched, ()) = tokio::join!(to.plane.fetch(&reference, &copies, &cancel), async {
        to.gpu.until_called("copy", 1).await;
        assert_eq!(third.plane.free(&reference).await.unwrap(), [from.gpu_id()]);
        to.gpu.go_on();
    });
    let tensor = fetched.unwrap();
    assert_eq!(to.bytes(&tensor).await, bytes);
    drop(tensor);
    has_nothing(&to).await;
    until("the table knows of none", || fleet.directory.records().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_transfer_whose_job_panics_may_be_tried_again() {
    let (_fleet, _from, to, reference, bytes) = two().await;
    to.gpu.inject("copy", 1, Fault::Panics);
    let error = to.fetch(&reference).await.unwrap_err();
    assert!(error.is_transient() && matches!(error, DataError::Transfer { .. }), "{error:?}");
    let tensor = to.fetch(&reference).await.unwrap();
    assert_eq!(to.bytes(&tensor).await, bytes);
}

#[tokio::test(start_paused = true)]
async fn a_plane_that_ends_ends_its_transfers() {
    let (_fleet, from, to, reference, _) = two().await;
    to.gpu.inject("copy", usize::MAX, Fault::Waits);
    let (fetched, ()) = tokio::join!(to.fetch(&reference), async {
        to.gpu.until_called("copy", 1).await;
        to.plane.stop().await;
    });
    assert_eq!(fetched.unwrap_err(), DataError::Cancelled);
    from.plane.stop().await;
    let fleet = TestFleet::new();
    let late = fleet.plane("late").await;
    let copies = from.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    let error = late.plane.fetch(&reference, &copies, &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("data.listen"), "nobody reaches it any more: {error}");
}

#[tokio::test(start_paused = true)]
async fn a_tensor_without_bytes_moves_too() {
    let fleet = TestFleet::new();
    let (from, to) = (fleet.plane("from").await, fleet.plane("to").await);
    let reference = from.keep("x", &Bytes::new()).await;
    assert_eq!(to.fetch(&reference).await.unwrap().about().bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_gives_no_memory_is_not_waited_for_for_ever() {
    let (_fleet, _from, to, reference, _) = two().await;
    to.gpu.inject("allocate", usize::MAX, Fault::Hangs);
    let error = to.fetch(&reference).await.unwrap_err();
    assert!(matches!(error, DataError::Keep(KeepError::Memory(_))), "{error:?}");
    assert!(error.is_transient());
}
