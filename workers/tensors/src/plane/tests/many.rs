//! To many GPUs, and by the data port.

use std::time::Duration;

use bytes::Bytes;
use data_link::{FetchOrder, NewTensor};
use futures::StreamExt;
use protocol::{DataPort, IfExists, TensorRef, TensorShape};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Copied, DataError, Destination,
    doubles::{Fault, Silent, TestFleet, TestPlane, content, destination, gpu, name, until},
};

async fn planes(fleet: &TestFleet, count: usize) -> Vec<TestPlane> {
    let mut planes = Vec::new();
    for number in 0..count {
        planes.push(fleet.plane(&format!("g{number}")).await);
    }
    planes
}

async fn all_have(planes: &[TestPlane], reference: &TensorRef, bytes: &Bytes) {
    for plane in planes {
        let tensor = plane.plane.store().get(&reference.tensor, reference.version).await.unwrap().expect("it was copied there");
        assert!(plane.bytes(&tensor).await == *bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn every_gpu_gets_it_and_passes_it_on() {
    let fleet = TestFleet::new();
    let planes = planes(&fleet, 8).await;
    let bytes = content(100_000);
    let reference = planes[0].keep("x", &bytes).await;
    let copied = planes[3].plane.copy_to(&reference, &[], &CancellationToken::new()).await.unwrap();
    assert_eq!(copied.len(), 8);
    all_have(&planes, &reference, &bytes).await;
    let itself = Copied { from: gpu("g0"), took: Duration::ZERO };
    assert_eq!(copied[0].outcome, Ok(itself), "it had it");
    let from_first = copied.iter().filter(|copied| copied.outcome.as_ref().is_ok_and(|copied| copied.from == gpu("g0"))).count();
    assert_eq!(from_first, 1 + 3, "the first one sent it three times, the others the rest");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_hangs_or_fails_holds_up_nobody() {
    let fleet = TestFleet::new();
    let planes = planes(&fleet, 6).await;
    let bytes = content(1_000);
    let reference = planes[0].keep("x", &bytes).await;
    planes[1].gpu.inject("allocate", usize::MAX, Fault::Hangs);
    planes[2].gpu.inject("allocate", usize::MAX, Fault::Fails);
    let started = Instant::now();
    let cancel = CancellationToken::new();
    let (copied, reached) = tokio::join!(planes[0].plane.copy_to(&reference, &[], &cancel), async {
        until("the others have it", || planes[3..].iter().all(|plane| plane.plane.store().look(&reference.tensor).is_some())).await;
        started.elapsed()
    });
    assert!(reached < Duration::from_secs(3), "{reached:?}");
    all_have(&planes[3..], &reference, &bytes).await;
    let copied = copied.unwrap();
    let reasons: Vec<_> = copied.iter().filter_map(|copied| copied.outcome.as_ref().err()).collect();
    assert_eq!(reasons.len(), 2, "{copied:?}");
    assert!(reasons[1].contains("as injected"), "{}", reasons[1]);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_is_none_of_the_pools_is_refused_and_one_that_cannot_be_reached_is_its_own_outcome() {
    let fleet = TestFleet::new();
    let planes = planes(&fleet, 2).await;
    let reference = planes[0].keep("x", &content(10)).await;
    let cancel = CancellationToken::new();
    let error = planes[0].plane.copy_to(&reference, &[gpu("nobody")], &cancel).await.unwrap_err();
    assert!(matches!(error, DataError::NoDestination { .. }), "{error}");
    fleet.directory.add(destination("far", "other"));
    let copied = planes[0].plane.copy_to(&reference, &[gpu("far"), gpu("g1")], &cancel).await.unwrap();
    assert!(copied[0].outcome.as_ref().unwrap_err().contains("data.listen"));
    assert!(copied[1].outcome.is_ok());
}

#[tokio::test]
async fn other_processes_write_read_copy_and_free_by_the_data_port() {
    let fleet = TestFleet::listening();
    let (a, b) = (fleet.apart("a").await, fleet.apart("b").await);
    let bytes = content(300_000);
    let port = a.plane.state().data_port.unwrap();
    let new = NewTensor {
        name: name("x"),
        shape: TensorShape::of_bytes(bytes.len()),
        owner: "somebody".to_owned(),
        ttl_ms: None,
        if_exists: IfExists::Replace,
    };
    let client = data_link::Client::connect(&port, data_link::ClientLimits::default()).await.unwrap();
    let pieces: Vec<Result<Bytes, std::io::Error>> = vec![Ok(bytes.slice(..100_001)), Ok(bytes.slice(100_001..))];
    let written = client.write(new, futures::stream::iter(pieces).boxed()).await.unwrap();
    assert_eq!(fleet.directory.records(), std::slice::from_ref(&written));
    let copied = b.plane.copy_to(&TensorRef::latest(name("x")), &[], &CancellationToken::new()).await.unwrap();
    assert!(copied.iter().all(|copied| copied.outcome.is_ok()), "{copied:?}");
    let neighbour = a.plane.shared.client(&b.plane.state().data_port.unwrap(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(neighbour.read_all(&name("x"), None, 1 << 20).await.unwrap(), bytes);
    let again = neighbour.fetch(FetchOrder { from: written, timeout_ms: 1_000 }).await.unwrap();
    assert_eq!(again.gpu_id, b.gpu_id());
    until("both are announced", || fleet.directory.records().len() == 2).await;
    assert_eq!(b.plane.free(&TensorRef::latest(name("x"))).await.unwrap(), [a.gpu_id(), b.gpu_id()]);
    assert!(a.plane.store().list().is_empty() && b.plane.store().list().is_empty());
}

#[tokio::test]
async fn a_worker_that_says_nothing_is_given_up_when_its_time_is_over() {
    let mut fleet = TestFleet::listening();
    fleet.options.limits.timeout = Duration::from_millis(200);
    let (a, b) = (fleet.apart("a").await, fleet.apart("b").await);
    let reference = a.keep("x", &content(1_000)).await;
    let (address, _serving) = Silent::serve("key").await;
    let port = DataPort { address: Some(address), socket: None, system: "another".to_owned(), key: "key".to_owned() };
    fleet.directory.add(Destination { port: Some(port), ..destination("silent", "other") });
    let copied = a.plane.copy_to(&reference, &[], &CancellationToken::new()).await.unwrap();
    assert!(copied.iter().find(|copied| copied.gpu_id == gpu("silent")).unwrap().outcome.is_err());
    assert!(b.plane.store().look(&reference.tensor).is_some());
}
