//! Keeping, finding, freeing, gathering, and the duties.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use protocol::{DType, IfExists, TensorPlace, TensorRef, TensorShape};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;

use crate::{
    Content, DataError, Keep, KeepError,
    doubles::{TestFleet, content, keep, name, until},
};

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_found_at_once_also_where_the_table_was_away_for_a_moment() {
    let fleet = TestFleet::new();
    let plane = fleet.plane("a").await;
    fleet.directory.fail_announcements(2);
    let reference = plane.keep("x", &content(100)).await;
    let records = fleet.directory.records();
    assert_eq!((&records[0].name, Some(records[0].version), records[0].bytes), (&reference.tensor, reference.version, 100));
    assert_eq!(plane.plane.state().tensors, 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_would_find_is_not_kept() {
    let fleet = TestFleet::new();
    let plane = fleet.plane("a").await;
    fleet.directory.fail_announcements(100);
    let error = plane.plane.keep(keep("x", 3), Content::Host(Bytes::from_static(b"abc"))).await.unwrap_err();
    assert!(matches!(error, DataError::Directory(_)), "{error}");
    assert!(plane.plane.store().list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_do_not_fit_their_shape_are_refused() {
    let fleet = TestFleet::new();
    let plane = fleet.plane("a").await;
    let error = plane.plane.keep(keep("x", 4), Content::Host(Bytes::from_static(b"abc"))).await.unwrap_err();
    assert!(error.to_string().contains("has 3 bytes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_pool_has_a_bound_of_its_own() {
    let mut fleet = TestFleet::new();
    fleet.options.pool_mb = Some(10);
    let plane = fleet.plane("a").await;
    fleet.directory.pool_mb.store(9, Ordering::SeqCst);
    plane.keep("x", &content(1_000_000)).await;
    let error = plane.plane.keep(keep("y", 1_000_001), Content::Host(content(1_000_001))).await.unwrap_err();
    assert!(error.to_string().contains("data.pool_mb"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_on_another_gpu_is_taken() {
    let fleet = TestFleet::new();
    let (a, b) = (fleet.plane("a").await, fleet.plane("b").await);
    let first = a.keep("x", &content(10)).await;
    let by = |owner: &str| Keep { owner: owner.to_owned(), if_exists: IfExists::Fail, ..keep("x", 3) };
    let content = || Content::Host(Bytes::from_static(b"abc"));
    let error = b.plane.keep(by("another"), content()).await.unwrap_err();
    assert_eq!(error, DataError::Keep(KeepError::Exists { name: name("x"), version: first.version.unwrap() }));
    b.plane.keep(by("test"), content()).await.expect("another attempt of the same task");
}

#[tokio::test(start_paused = true)]
async fn without_a_version_the_latest_is_meant_wherever_it_is() {
    let fleet = TestFleet::new();
    let (a, b) = (fleet.plane("a").await, fleet.plane("b").await);
    a.keep("x", &content(10)).await;
    advance(Duration::from_millis(1)).await;
    b.keep("x", &content(20)).await;
    let tensor = a.fetch(&TensorRef::latest(name("x"))).await.unwrap();
    assert_eq!(a.bytes(&tensor).await, content(20));
    let missing = a.plane.find(&[TensorRef::latest(name("y"))]).await.unwrap_err();
    assert_eq!(missing, DataError::Missing { name: name("y"), version: None });
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_when_its_name_was_written_again_elsewhere() {
    let fleet = TestFleet::new();
    let (a, b) = (fleet.plane("a").await, fleet.plane("b").await);
    a.keep("x", &content(10)).await;
    advance(Duration::from_millis(1)).await;
    let newer = b.keep("x", &content(20)).await;
    until("the older one is gone", || a.plane.store().list().is_empty()).await;
    until("the table knows it", || fleet.directory.records().len() == 1).await;
    assert_eq!(Some(fleet.directory.records()[0].version), newer.version);
}

#[tokio::test(start_paused = true)]
async fn the_table_hears_of_evictions_and_of_uses() {
    let fleet = TestFleet::new();
    let plane = fleet.plane("a").await;
    let reference = plane.keep("x", &content(1_000)).await;
    let made = fleet.directory.records()[0].clone();
    assert!(plane.plane.make_room(1_000).await);
    until("it lies in the host's memory", || fleet.directory.records()[0].place == TensorPlace::Host).await;
    advance(Duration::from_secs(60)).await;
    drop(plane.fetch(&reference).await.unwrap());
    until("it is back", || fleet.directory.records()[0].place == TensorPlace::Gpu).await;
    assert!(fleet.directory.records()[0].last_used_ms >= made.last_used_ms + 60_000);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_used_for_its_time_is_gone_here_and_in_the_table() {
    let fleet = TestFleet::new();
    let plane = fleet.plane("a").await;
    let short = Keep { ttl: Some(Duration::from_secs(10)), ..keep("x", 3) };
    plane.plane.keep(short, Content::Host(Bytes::from_static(b"abc"))).await.unwrap();
    until("the table knows it", || fleet.directory.records().is_empty()).await;
    assert!(plane.plane.store().list().is_empty());
    until("it is counted", || fleet.counted("gpufleet_tensor_evictions_total", &["a", "expired"]) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn freeing_frees_every_copy_and_of_something_that_is_nowhere_says_so() {
    let fleet = TestFleet::new();
    let (a, b, c) = (fleet.plane("a").await, fleet.plane("b").await, fleet.plane("c").await);
    let reference = a.keep("x", &content(10)).await;
    drop(b.fetch(&reference).await.unwrap());
    until("both are announced", || fleet.directory.records().len() == 2).await;
    assert_eq!(c.plane.free(&TensorRef::latest(name("x"))).await.unwrap(), [a.gpu_id(), b.gpu_id()]);
    assert!(fleet.directory.records().is_empty());
    assert_eq!((a.gpu.calls("allocate"), a.plane.store().bytes()), (1, (0, 0)));
    assert!(matches!(c.plane.free(&reference).await.unwrap_err(), DataError::Missing { .. }));
}

#[tokio::test(start_paused = true)]
async fn tensors_are_gathered_in_order_from_wherever_they_are() {
    let fleet = TestFleet::new();
    let (a, b) = (fleet.plane("a").await, fleet.plane("b").await);
    let kept = |rows: usize| Keep { shape: TensorShape { dtype: DType::F32, shape: vec![rows, 3] }, ..keep(&format!("rows-{rows}"), 0) };
    let mut parts = Vec::new();
    for (plane, rows) in [(&a, 2_usize), (&b, 5), (&a, 1)] {
        let made = plane.plane.keep(kept(rows), Content::Host(content(rows * 12))).await.unwrap();
        parts.push(TensorRef { tensor: made.tensor, version: None });
    }
    let whole = b.plane.gather(&parts, keep("whole", 0), &CancellationToken::new()).await.unwrap();
    assert_eq!(whole.shape, TensorShape { dtype: DType::F32, shape: vec![8, 3] });
    let tensor = a.fetch(&TensorRef::latest(name("whole"))).await.unwrap();
    assert_eq!(a.bytes(&tensor).await, [content(24), content(60), content(12)].concat());
}

#[tokio::test(start_paused = true)]
async fn the_cost_of_bringing_a_tensor_is_measured() {
    let fleet = TestFleet::new();
    let (a, b) = (fleet.plane("a").await, fleet.plane("b").await);
    let reference = a.keep("x", &Bytes::from(vec![7; 50_000_000])).await;
    let copies = b.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    let costs = b.plane.costs(&copies).unwrap();
    assert_eq!(costs.elsewhere_ms, 1.0, "50 GB/s are usual within a process");
    assert_eq!(costs.at_ms[&a.gpu_id()], 0.0);
    b.plane.shared.ways.carried(&a.gpu_id(), protocol::TransferWay::Local, 5_000_000, Duration::from_millis(1));
    assert_eq!(b.plane.costs(&copies).unwrap().elsewhere_ms, 10.0, "5 GB/s were measured");
    let small = a.keep("small", &content(1_000)).await;
    let copies = b.plane.find(std::slice::from_ref(&small)).await.unwrap();
    assert_eq!(b.plane.costs(&copies), None);
}
