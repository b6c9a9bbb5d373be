//! Keeping, finding, freeing, gathering, and the duties.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use data_link::{RefusedBecause, Served};
use protocol::{DType, IfExists, TensorPlace, TensorRef, TensorShape};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;

use crate::{
    Content, DataError, Keep, KeepError,
    doubles::{Fault, TestFleet, content, keep, name, until},
    served::ServedPlane,
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
async fn what_was_to_be_replaced_is_there_until_the_table_knows_of_the_new_one() {
    let fleet = TestFleet::new();
    let (plane, other) = (fleet.plane("a").await, fleet.plane("b").await);
    let old = plane.keep("x", &content(100)).await;
    fleet.directory.fail_announcements(4);
    plane.plane.keep(keep("x", 3), Content::Host(Bytes::from_static(b"abc"))).await.unwrap_err();
    let stored = plane.plane.store().look(&name("x")).unwrap();
    assert_eq!(Some(stored.about.version), old.version);
    // As long as it takes to tell the table of what is gone and of what has changed.
    advance(Duration::from_secs(10)).await;
    until("the table knows the old one", || fleet.directory.records().iter().any(|record| Some(record.version) == old.version)).await;
    let tensor = other.fetch(&TensorRef::latest(name("x"))).await.unwrap();
    assert_eq!(other.bytes(&tensor).await, content(100));
    let new = plane.keep("x", &content(20)).await;
    assert!(new.version > old.version);
    until("the table knows the new one alone", || fleet.directory.records().iter().all(|record| Some(record.version) == new.version)).await;
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
async fn of_two_that_keep_a_name_at_once_on_two_gpus_and_replace_none_one_has_it() {
    for versions in [[None, None], [Some(1), Some(2)], [Some(2), Some(1)]] {
        let fleet = TestFleet::new();
        let (a, b) = (fleet.plane("a").await, fleet.plane("b").await);
        let by = |owner: &str, version| Keep { owner: owner.to_owned(), version, if_exists: IfExists::Fail, ..keep("x", 10) };
        let kept = tokio::join!(
            a.plane.keep(by("one", versions[0]), Content::Host(content(10))),
            b.plane.keep(by("another", versions[1]), Content::Host(content(10))),
        );
        let refused: Vec<_> = [kept.0, kept.1].into_iter().filter_map(Result::err).collect();
        assert!(matches!(refused[..], [DataError::Keep(KeepError::Exists { .. })]), "{versions:?}: {refused:?}");
        until("the table knows one", || fleet.directory.records().len() == 1).await;
        assert_eq!(a.plane.store().list().len() + b.plane.store().list().len(), 1, "{versions:?}");
    }
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
async fn what_is_put_last_is_the_latest_also_where_another_workers_clock_is_ahead() {
    let fleet = TestFleet::new();
    let (ahead, b) = (fleet.plane("ahead").await, fleet.plane("b").await);
    let first = ahead.keep("x", &content(10)).await.version.unwrap() + 5_000_000;
    ahead.plane.keep(Keep { version: Some(first), ..keep("x", 10) }, Content::Host(content(10))).await.unwrap();
    let last = b.keep("x", &content(20)).await;
    assert_eq!(last.version, Some(first + 1));
    let tensor = ahead.fetch(&TensorRef::latest(name("x"))).await.unwrap();
    assert_eq!(ahead.bytes(&tensor).await, content(20));
}

#[tokio::test(start_paused = true)]
async fn an_output_right_after_a_put_by_a_worker_whose_clock_is_ahead_is_the_latest_and_a_late_attempt_is_not() {
    let fleet = TestFleet::new();
    let (ahead, b) = (fleet.plane("ahead").await, fleet.plane("b").await);
    let put = ahead.keep("x", &content(10)).await.version.unwrap();
    let by = |token: u64| Keep { version: Some(token), owner: "task".to_owned(), ..keep("x", 20) };
    let kept = async |token, seed: u8| b.plane.keep(by(token), Content::Host(Bytes::from(vec![seed; 20]))).await.unwrap().version;
    assert_eq!(kept(put - 5_000_000, 1).await, put + 1);
    let latest = async || {
        let tensor = ahead.fetch(&TensorRef::latest(name("x"))).await.unwrap();
        ahead.bytes(&tensor).await[0]
    };
    assert_eq!(latest().await, 1);
    assert_eq!(kept(put - 4_000_000, 2).await, put + 2, "the next attempt");
    assert_eq!(latest().await, 2);
    assert_eq!(kept(put - 5_000_000, 3).await, put - 5_000_000, "the first one again, which is late");
    assert_eq!(latest().await, 2);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_to_keep_a_tensor_leaves_nothing_of_it() {
    let fleet = TestFleet::new();
    let plane = fleet.plane("a").await;
    let old = plane.keep("x", &content(100)).await;
    fleet.directory.fail_announcements(usize::MAX);
    let keeping = plane.plane.keep(keep("x", 3), Content::Host(Bytes::from_static(b"abc")));
    assert!(tokio::time::timeout(Duration::from_millis(1), keeping).await.is_err());
    assert_eq!(Some(plane.plane.store().look(&name("x")).unwrap().about.version), old.version);
}

#[tokio::test(start_paused = true)]
async fn the_table_hears_of_what_was_freed_also_where_whoever_freed_it_waits_no_more() {
    let fleet = TestFleet::new();
    let plane = fleet.plane("a").await;
    let kept = plane.keep("x", &content(100)).await;
    fleet.directory.set_withdrawals_hang(true);
    let freeing = tokio::time::timeout(Duration::from_millis(1), plane.plane.free(&kept)).await;
    assert!(freeing.is_err() && plane.plane.store().list().is_empty());
    fleet.directory.set_withdrawals_hang(false);
    until("the table knows it no more", || fleet.directory.records().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_record_contradicts_itself_is_none() {
    let fleet = TestFleet::new();
    let (a, b) = (fleet.plane("a").await, fleet.plane("b").await);
    let reference = a.keep("x", &content(10)).await;
    let mut copies = b.plane.find(std::slice::from_ref(&reference)).await.unwrap();
    copies[0].bytes = 8;
    let error = b.plane.fetch(&reference, &copies, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error, DataError::Missing { name: name("x"), version: reference.version });
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
async fn of_many_parts_that_are_gathered_few_are_brought_at_once() {
    let fleet = TestFleet::new();
    let (a, b) = (fleet.plane("a").await, fleet.plane("b").await);
    let mut parts = Vec::new();
    for number in 0..20 {
        parts.push(a.keep(&format!("part.{number}"), &content(8)).await);
    }
    b.gpu.inject("allocate", usize::MAX, Fault::Hangs);
    let cancel = CancellationToken::new();
    let (gathered, ()) = tokio::join!(b.plane.gather(&parts, keep("whole", 0), &cancel), async {
        b.gpu.until_called("allocate", 8).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(b.gpu.calls("allocate"), 8);
        cancel.cancel();
    });
    assert_eq!(gathered.unwrap_err(), DataError::Cancelled);
    b.gpu.go_on();
    let whole = b.plane.gather(&parts, keep("whole", 0), &CancellationToken::new()).await.unwrap();
    assert_eq!(whole.bytes, 160);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_does_not_bring_a_tensor_back_holds_up_no_reader_for_ever() {
    let fleet = TestFleet::new();
    let plane = fleet.plane("a").await;
    let reference = plane.keep("x", &content(1_000)).await;
    assert!(plane.plane.make_room(1_000).await);
    plane.gpu.inject("allocate", usize::MAX, Fault::Hangs);
    let served = ServedPlane(std::sync::Arc::clone(&plane.plane.shared));
    let Err(refused) = served.open(&reference.tensor, None).await else { panic!("its bytes are nowhere") };
    assert_eq!(refused.because, RefusedBecause::Failed, "{refused:?}");
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
