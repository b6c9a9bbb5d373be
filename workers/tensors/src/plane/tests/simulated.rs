//! On simulated GPUs, whose links take their time: on a paused clock that time can be told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use devices::{Device, HostBytes, SimulatedGpu, SimulatedOptions, simulated::LinkSpeed};
use protocol::{Checksum, TensorRef, TransferWay};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Content, DataPlane, Moving, TellMoving,
    doubles::{TestFleet, content, gpu, keep, until},
};

/// So slow that small tensors take long.
const SLOW: LinkSpeed = LinkSpeed { bytes_per_second: 40e6, latency: Duration::ZERO };

struct Simulated {
    gpu: Arc<SimulatedGpu>,
    plane: Arc<DataPlane>,
}

/// So slow that a large tensor takes long, with a latency that a copy in pieces must not pay for each of them.
const LARGE_LINK: LinkSpeed = LinkSpeed { bytes_per_second: 1e9, latency: Duration::from_micros(10) };

async fn simulated(fleet: &TestFleet, count: usize, peer_link: Option<LinkSpeed>) -> Vec<Simulated> {
    let mut all = Vec::new();
    for number in 0..count {
        let options = SimulatedOptions { host_link: SLOW, peer_link, ..SimulatedOptions::new(gpu(&format!("sim-{number}"))) };
        let gpu = Arc::new(SimulatedGpu::new(options));
        all.push(Simulated { plane: fleet.plane_on(gpu.clone()).await, gpu });
    }
    all
}

impl Simulated {
    async fn keep(&self, bytes: &Bytes) -> TensorRef {
        let kept = self.plane.keep(keep("x", bytes.len()), Content::Host(bytes.clone())).await.unwrap();
        TensorRef { tensor: kept.tensor, version: Some(kept.version) }
    }

    /// Fetches it, compares it, and says how long it took.
    async fn fetch(&self, reference: &TensorRef, bytes: &Bytes) -> Duration {
        let copies = self.plane.find(std::slice::from_ref(reference)).await.unwrap();
        let started = Instant::now();
        let tensor = self.plane.fetch(reference, &copies, &CancellationToken::new()).await.unwrap();
        let took = started.elapsed();
        assert!(self.plane.read(&tensor, 0..bytes.len() as u64).await.unwrap() == *bytes, "other bytes came");
        took
    }
}

fn time_of(bytes: &Bytes) -> Duration {
    Duration::from_secs_f64(bytes.len() as f64 / SLOW.bytes_per_second)
}

#[tokio::test(start_paused = true)]
async fn a_copy_to_seven_takes_the_time_of_three() {
    let fleet = TestFleet::new();
    let all = simulated(&fleet, 8, Some(SLOW)).await;
    let bytes = content(4_000_000);
    let reference = all[0].keep(&bytes).await;
    let started = Instant::now();
    let copied = all[0].plane.copy_to(&reference, &[], &CancellationToken::new()).await.unwrap();
    let took = started.elapsed();
    assert!(copied.iter().all(|copied| copied.outcome.is_ok()), "{copied:?}");
    let one = time_of(&bytes);
    assert!(took >= one * 3 && took < one * 4, "{took:?}, where one takes {one:?}");
    for simulated in &all {
        assert_eq!(simulated.fetch(&reference, &bytes).await, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_copy_takes_what_its_link_needs_and_a_broadcast_its_rounds() {
    let fleet = TestFleet::new();
    let all = simulated(&fleet, 8, Some(LARGE_LINK)).await;
    let bytes = content(64_000_000);
    let reference = all[0].keep(&bytes).await;
    let one = all[1].fetch(&reference, &bytes).await;
    let needed = Duration::from_secs_f64(bytes.len() as f64 / LARGE_LINK.bytes_per_second);
    assert!(one >= needed && one <= needed.mul_f64(1.02) + LARGE_LINK.latency, "{one:?}, where the link needs {needed:?}");
    let again = all[0].keep(&bytes).await;
    let started = Instant::now();
    let copied = all[0].plane.copy_to(&again, &[], &CancellationToken::new()).await.unwrap();
    let took = started.elapsed();
    assert!(copied.iter().all(|copied| copied.outcome.is_ok()), "{copied:?}");
    assert!(took >= needed * 3 && took <= one.mul_f64(3.1), "{took:?}, where one takes {one:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_compared_keeps_its_sum_and_one_whose_bytes_are_not_those_of_its_sum_is_handed_to_nobody() {
    let fleet = TestFleet::new();
    let all = simulated(&fleet, 3, Some(SLOW)).await;
    let bytes = content(1_000_003);
    let reference = all[0].keep(&bytes).await;
    all[1].fetch(&reference, &bytes).await;
    let sum_of = async |simulated: &Simulated| simulated.plane.store().get(&reference.tensor, None).await.unwrap().unwrap().sum();
    for simulated in &all[..2] {
        assert_eq!(sum_of(simulated).await, Some(Checksum::of(&bytes, 0)));
    }
    let tensor = all[1].plane.store().get(&reference.tensor, None).await.unwrap().unwrap();
    let memory = all[1].gpu.memory().unwrap();
    memory.write(tensor.buffer(), 8, HostBytes::Own(Bytes::from_static(b"changed"))).await.unwrap();
    let copy = all[1].plane.shared.record_of(&tensor);
    let error = all[2].plane.fetch(&reference, &[copy], &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("the checksums differ"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_a_link_one_piece_is_read_while_another_is_written() {
    let fleet = TestFleet::new();
    let all = simulated(&fleet, 2, None).await;
    let bytes = content(16 << 20);
    let reference = all[0].keep(&bytes).await;
    let took = all[1].fetch(&reference, &bytes).await;
    let one = time_of(&bytes);
    assert!(took >= one && took < one.mul_f64(1.5), "{took:?}, where each direction takes {one:?}");
    let ways = all[1].plane.state().ways;
    assert!(ways.iter().any(|view| view.way == TransferWay::Staged && view.gb_s.is_some()), "{ways:?}");
}

#[tokio::test(start_paused = true)]
async fn injected_faults_are_found_and_gone_round() {
    let fleet = TestFleet::new();
    let all = simulated(&fleet, 2, Some(SLOW)).await;
    let bytes = content(1_000_003);
    let reference = all[0].keep(&bytes).await;
    all[1].gpu.knobs().corrupt_next_copies(1);
    all[1].fetch(&reference, &bytes).await;
    all[1].plane.store().free(&reference.tensor, None);
    all[1].gpu.knobs().fail_next_copies(2);
    all[1].fetch(&reference, &bytes).await;
    let ways = all[1].plane.state().ways;
    assert!(ways.iter().any(|view| view.way == TransferWay::Local && view.demoted_for_ms.is_some()), "{ways:?}");
}

/// What is told while something is brought, and how long that takes.
async fn told_of<T>(bring: impl AsyncFnOnce(TellMoving<'_>) -> T) -> (T, Vec<Moving>, Duration) {
    let told = Mutex::new(Vec::new());
    let started = Instant::now();
    let brought = bring(&|moving: &Moving| told.lock().unwrap().push(moving.clone())).await;
    (brought, told.into_inner().unwrap(), started.elapsed())
}

/// What can go on in another thread, as what runs tasks does.
const fn sent<T: Send>(work: T) -> T {
    work
}

/// It was told at a bounded rate, and each time more.
fn assert_told(told: &[Moving], bytes: u64, took: Duration) {
    assert!(told.len() >= 2 && told.len() as u128 <= took.as_millis() / 500, "{told:?} in {took:?}");
    assert!(told.iter().all(|moving| moving.bytes == bytes && moving.done_bytes < bytes), "{told:?}");
    assert!(told.windows(2).all(|pair| pair[0].done_bytes <= pair[1].done_bytes) && told.last().unwrap().percent() > 30, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_long_hears_how_far_it_is_and_who_waits_for_a_moment_hears_nothing() {
    let fleet = TestFleet::new();
    let all = simulated(&fleet, 4, Some(SLOW)).await;
    let bytes = content(64_000_000);
    let reference = all[0].keep(&bytes).await;
    let copies = all[1].plane.find(std::slice::from_ref(&reference)).await.unwrap();
    let cancel = CancellationToken::new();
    let (tensor, told, took) = told_of(async |tell| sent(all[1].plane.fetch_telling(&reference, &copies, &cancel, tell)).await).await;
    tensor.unwrap();
    assert_told(&told, 64_000_000, took);
    assert!(told.iter().all(|moving| moving.from == Some(gpu("sim-0"))), "{told:?}");
    let (copied, told, took) =
        told_of(async |tell| sent(all[0].plane.copy_to_telling(&reference, &[gpu("sim-1"), gpu("sim-2")], &cancel, tell)).await).await;
    assert!(copied.unwrap().iter().all(|copied| copied.outcome.is_ok()));
    assert_told(&told, 128_000_000, took);
    let parts = std::slice::from_ref(&reference);
    let (whole, told, took) = told_of(async |tell| sent(all[3].plane.gather_telling(parts, keep("whole", 0), &cancel, tell)).await).await;
    assert_eq!(whole.unwrap().bytes, 64_000_000);
    assert_told(&told, 64_000_000, took);
    let small = all[0].plane.keep(keep("small", 1_000), Content::Host(content(1_000))).await.unwrap();
    let small = TensorRef { tensor: small.tensor, version: None };
    let copies = all[1].plane.find(std::slice::from_ref(&small)).await.unwrap();
    let (tensor, told, _) = told_of(async |tell| all[1].plane.fetch_telling(&small, &copies, &cancel, tell).await).await;
    tensor.unwrap();
    assert_eq!(told, []);
}

#[tokio::test(start_paused = true)]
async fn the_ways_between_the_gpus_of_a_host_are_known_soon_after_their_start_and_nobody_else_hears_of_it() {
    let mut fleet = TestFleet::new();
    fleet.options.trial_bytes = 4_000_000;
    let all = simulated(&fleet, 3, Some(SLOW)).await;
    let knows_all = |simulated: &Simulated| simulated.plane.state().ways.iter().filter(|way| way.gb_s.is_some()).count() == 2;
    until("each knows the ways from both others", || all.iter().all(knows_all)).await;
    for way in all.iter().flat_map(|simulated| simulated.plane.state().ways) {
        let gb_s = way.gb_s.unwrap();
        assert!(way.way == TransferWay::Local && gb_s > 0.01 && gb_s <= 0.04, "{way:?}, where a link carries 0.04");
    }
    until("nothing of it remains", || all.iter().all(|simulated| simulated.plane.store().bytes() == (0, 0))).await;
    assert!(fleet.directory.records().is_empty());
    assert_eq!(fleet.counted("gpufleet_transfer_bytes_total", &["local"]), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_kept_makes_way_for_a_trial() {
    let mut fleet = TestFleet::new();
    fleet.options.trial_bytes = 4_000_000;
    fleet.options.bounds.tensors = 1;
    let all = simulated(&fleet, 2, Some(SLOW)).await;
    let (bytes, reference) = (content(1_000), all[0].keep(&content(1_000)).await);
    // Longer than both wait before they try.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(all[0].plane.store().list().len(), 1);
    assert_eq!(fleet.directory.records().len(), 1);
    all[1].fetch(&reference, &bytes).await;
}
