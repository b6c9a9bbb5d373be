//! Between planes that take each other for other processes: over real sockets, so on a running clock.

use bytes::Bytes;
use proptest::prelude::*;
use protocol::{DataPort, TensorRecord, TransferWay};
use tokio_util::sync::CancellationToken;

use crate::{
    DataError,
    doubles::{Fault, Silent, TestFleet, TestPlane, content, record, until},
};

/// The bytes are more than a ring has, and end within a word.
const BYTES: usize = (17 << 20) + 13;

async fn two(bytes: &Bytes) -> (TestFleet, TestPlane, TestPlane, protocol::TensorRef) {
    let fleet = TestFleet::listening();
    let (from, to) = (fleet.apart("from").await, fleet.apart("to").await);
    let reference = from.keep("x", bytes).await;
    (fleet, from, to, reference)
}

/// Fetches, and says by which ways it came.
async fn comes_by(fleet: &TestFleet, to: &TestPlane, reference: &protocol::TensorRef, bytes: &Bytes) -> Vec<TransferWay> {
    let tensor = to.fetch(reference).await.unwrap();
    assert!(to.bytes(&tensor).await == *bytes, "other bytes came");
    let carried = |way: &TransferWay| fleet.counted("gpufleet_transfer_bytes_total", &[way.name()]) > 0;
    TransferWay::ALL.into_iter().filter(carried).collect()
}

#[tokio::test]
async fn from_gpu_to_gpu() {
    let bytes = content(BYTES);
    let (fleet, _from, to, reference) = two(&bytes).await;
    assert_eq!(comes_by(&fleet, &to, &reference, &bytes).await, [TransferWay::Peer]);
    assert!(to.plane.state().ways.iter().any(|view| view.way == TransferWay::Peer && view.gb_s.is_some()));
}

#[tokio::test]
async fn through_shared_memory_where_the_pair_cannot_reach_each_other() {
    let bytes = content(BYTES);
    let (fleet, from, to, reference) = two(&bytes).await;
    from.gpu.inject("export", 1, Fault::Unsupported);
    assert_eq!(comes_by(&fleet, &to, &reference, &bytes).await, [TransferWay::Staged]);
    let ways = to.plane.state().ways;
    assert!(ways.iter().any(|view| view.way == TransferWay::Peer && view.reason.contains("as injected")), "{ways:?}");
}

#[tokio::test]
async fn two_chunks_at_once_are_filled_and_two_are_taken() {
    let bytes = content(BYTES);
    let (fleet, from, to, reference) = two(&bytes).await;
    to.gpu.inject("open", 1, Fault::Unsupported);
    from.gpu.inject("read_to", usize::MAX, Fault::Waits);
    let (ways, ()) = tokio::join!(comes_by(&fleet, &to, &reference, &bytes), async {
        from.gpu.until_called("read_to", 2).await;
        to.gpu.inject("write", usize::MAX, Fault::Waits);
        from.gpu.go_on();
        to.gpu.until_called("write", 2).await;
        to.gpu.go_on();
    });
    assert_eq!(ways, [TransferWay::Staged]);
}

#[tokio::test]
async fn a_chunk_in_the_middle_that_came_corrupted_comes_again_with_those_after_it() {
    let bytes = content(BYTES);
    let (fleet, _from, to, reference) = two(&bytes).await;
    to.gpu.inject("open", 1, Fault::Unsupported);
    to.gpu.inject("write", usize::MAX, Fault::Waits);
    let (ways, ()) = tokio::join!(comes_by(&fleet, &to, &reference, &bytes), async {
        to.gpu.until_called("write", 2).await;
        to.gpu.go_on();
        to.gpu.inject("write", 1, Fault::Corrupts);
    });
    assert_eq!(ways, [TransferWay::Staged]);
    assert_eq!(fleet.counted("gpufleet_transfer_failures_total", &["corrupted", "staged"]), 0, "it was the same try");
    assert!(to.gpu.calls("write") > 5);
}

#[tokio::test]
async fn a_chunk_that_came_corrupted_comes_again() {
    let bytes = content(BYTES);
    let (fleet, from, to, reference) = two(&bytes).await;
    to.gpu.inject("open", 1, Fault::Unsupported);
    from.gpu.inject("read_to", 1, Fault::Corrupts);
    to.gpu.inject("write", 1, Fault::Corrupts);
    assert_eq!(comes_by(&fleet, &to, &reference, &bytes).await, [TransferWay::Staged]);
    assert_eq!(fleet.counted("gpufleet_transfer_failures_total", &["corrupted", "staged"]), 0, "it was the same try");
    assert!(from.gpu.calls("read_to") > 5);
}

#[tokio::test]
async fn by_the_data_port_where_the_host_has_no_way() {
    let bytes = content(BYTES);
    let (fleet, from, to, reference) = two(&bytes).await;
    to.gpu.inject("open", 1, Fault::Unsupported);
    from.gpu.inject("read_to", usize::MAX, Fault::Fails);
    assert_eq!(comes_by(&fleet, &to, &reference, &bytes).await, [TransferWay::Stream]);
    assert_eq!(fleet.counted("gpufleet_transfer_failures_total", &["failed", "staged"]), 2);
}

#[tokio::test]
async fn what_changes_on_every_way_is_never_handed_out() {
    let (fleet, _from, to, reference) = two(&content(100_000)).await;
    to.gpu.inject("copy", usize::MAX, Fault::Corrupts);
    to.gpu.inject("write", usize::MAX, Fault::Corrupts);
    let error = to.fetch(&reference).await.unwrap_err();
    assert!(matches!(error, DataError::Transfer { .. }), "{error}");
    for way in ["peer", "staged", "stream"] {
        assert_eq!(fleet.counted("gpufleet_transfer_failures_total", &["corrupted", way]), 2, "{way}");
    }
    until("nothing of it remains", || to.plane.store().bytes() == (0, 0)).await;
}

#[tokio::test]
async fn a_source_that_dies_half_way_gives_way_to_another_copy() {
    let bytes = content(BYTES);
    let (_fleet, from, to, reference) = two(&bytes).await;
    let copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    to.gpu.inject("open", usize::MAX, Fault::Unsupported);
    from.gpu.inject("read_to", usize::MAX, Fault::Waits);
    let other = TestFleet::listening();
    let second = other.apart("second").await;
    let cancel = CancellationToken::new();
    let held = second.plane.fetch(&reference, &copies, &cancel).await.unwrap();
    let both = [copies[0].clone(), second.plane.shared.record_of(&held)];
    // Each may be chosen first; the one that dies is asked alone, then with the other.
    let (fetched, ()) = tokio::join!(to.plane.fetch(&reference, &both[..1], &cancel), async {
        from.gpu.until_called("read_to", 1).await;
        from.plane.stop().await;
    });
    assert!(matches!(fetched.unwrap_err(), DataError::Transfer { .. }));
    let tensor = to.plane.fetch(&reference, &both, &cancel).await.unwrap();
    assert!(to.bytes(&tensor).await == bytes);
}

#[tokio::test]
async fn a_copy_that_is_gone_is_missing_also_where_a_way_is_left_out() {
    let (_fleet, from, to, reference) = two(&content(1_000)).await;
    let copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    to.gpu.inject("open", 1, Fault::Unsupported);
    let cancel = CancellationToken::new();
    drop(to.plane.fetch(&reference, &copies, &cancel).await.unwrap());
    to.plane.store().free(&reference.tensor, None);
    from.plane.store().free(&reference.tensor, None);
    let error = to.plane.fetch(&reference, &copies, &cancel).await.unwrap_err();
    assert!(matches!(error, DataError::Missing { .. }), "{error}");
}

#[tokio::test]
async fn who_does_not_have_the_key_gets_nothing() {
    let (_fleet, _from, to, reference) = two(&content(1_000)).await;
    let mut copies = to.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    copies[0].port.as_mut().unwrap().key = "another".to_owned();
    let error = to.plane.fetch(&reference, &copies, &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("the key is wrong"), "{error}");
}

#[tokio::test]
async fn a_source_that_says_nothing_is_not_waited_for() {
    let mut fleet = TestFleet::listening();
    fleet.options.limits.stall = std::time::Duration::from_millis(50);
    let to = fleet.apart("to").await;
    let (address, _serving) = Silent::serve("key").await;
    let port = DataPort { address: Some(address), socket: None, system: "another".to_owned(), key: "key".to_owned() };
    let copy = TensorRecord { port: Some(port), ..record("x", 1, "silent", 1_000) };
    let reference = protocol::TensorRef::latest(copy.name.clone());
    let error = to.plane.fetch(&reference, &[copy], &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("from silent (stream)"), "{error}");
    assert_eq!(fleet.counted("gpufleet_transfer_bytes_total", &["stream"]), 0);
}

#[tokio::test]
async fn a_tensor_without_bytes_comes_by_every_way() {
    let bytes = Bytes::new();
    let (_fleet, from, to, reference) = two(&bytes).await;
    to.fetch(&reference).await.unwrap();
    to.plane.store().free(&reference.tensor, None);
    from.gpu.inject("export", usize::MAX, Fault::Unsupported);
    to.fetch(&reference).await.unwrap();
    assert!(to.plane.state().ways.iter().any(|view| view.way == TransferWay::Staged && view.reason.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_transfers_in_both_directions_do_not_get_mixed_up() {
    let fleet = TestFleet::listening();
    let (one, other) = (fleet.apart("one").await, fleet.apart("other").await);
    // Half of them by either way that processes of a host have.
    other.gpu.inject("open", usize::MAX, Fault::Unsupported);
    let mut kept = Vec::new();
    for number in 0..8 {
        let bytes = content((5 << 20) + number * 1_001);
        let from = if number % 2 == 0 { &one } else { &other };
        kept.push((number, from.keep(&format!("t{number}"), &bytes).await, bytes));
    }
    let all = kept.iter().map(async |(number, reference, bytes)| {
        let to = if number % 2 == 0 { &other } else { &one };
        let tensor = to.fetch(reference).await.unwrap();
        assert!(to.bytes(&tensor).await == *bytes, "other bytes came of {number}");
    });
    futures::future::join_all(all).await;
    for way in ["peer", "staged"] {
        assert!(fleet.counted("gpufleet_transfer_bytes_total", &[way]) > 4 * (5 << 20), "{way}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn whatever_goes_wrong_the_bytes_are_right_or_there_are_none(
        bytes in 0_usize..70_000,
        faults in prop::collection::vec((any::<bool>(), 0_usize..OPERATIONS.len(), 1_usize..5, 0_usize..FAULTS.len()), 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bytes = content(bytes);
            let (_fleet, from, to, reference) = two(&bytes).await;
            for (is_source, operation, count, fault) in faults {
                let side = if is_source { &from } else { &to };
                side.gpu.inject(OPERATIONS[operation], count, FAULTS[fault]);
            }
            match to.fetch(&reference).await {
                Ok(tensor) => {
                    to.gpu.go_on();
                    assert!(to.bytes(&tensor).await == bytes, "other bytes came");
                }
                Err(_) => until("nothing of it remains", || to.plane.store().bytes() == (0, 0)).await,
            }
        });
    }
}

const OPERATIONS: [&str; 8] = ["copy", "write", "read", "read_to", "open", "export", "checksum", "allocate"];
const FAULTS: [Fault; 3] = [Fault::Fails, Fault::Unsupported, Fault::Corrupts];
