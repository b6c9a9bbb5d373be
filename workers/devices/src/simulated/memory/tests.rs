use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, timeout},
};

use super::*;
use crate::{Device, OutOfMemory, SharedMemory, SimulatedGpu, SimulatedKnobs, Use};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Moves 1,000 bytes in a millisecond.
const LINK: LinkSpeed = LinkSpeed { bytes_per_second: 1e6, latency: ms(5) };

fn gpu(name: &str) -> SimulatedGpu {
    let options = SimulatedOptions { memory_mb: 1_000, host_link: LINK, peer_link: Some(LINK), ..SimulatedOptions::default() };
    SimulatedGpu::new(SimulatedOptions { gpu_id: GpuId::new(name).unwrap(), ..options })
}

fn memory(gpu: &SimulatedGpu) -> &dyn DeviceMemory {
    gpu.memory().unwrap()
}

async fn buffer(gpu: &SimulatedGpu, bytes: u64) -> DeviceBuffer {
    memory(gpu).allocate(bytes).await.unwrap()
}

/// A buffer that holds these bytes; writing them took no time that a test would see.
async fn holding(gpu: &SimulatedGpu, bytes: &[u8]) -> DeviceBuffer {
    let buffer = buffer(gpu, bytes.len() as u64).await;
    buffer.memory::<Held>().unwrap().written().put(0, Bytes::copy_from_slice(bytes));
    buffer
}

fn own(bytes: usize) -> HostBytes {
    HostBytes::Own(vec![1; bytes].into())
}

/// How long it takes.
async fn time_of<T>(does: impl Future<Output = Result<T, MemoryError>>) -> Duration {
    let start = Instant::now();
    assert!(does.await.is_ok());
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_copy_takes_its_bytes_and_the_links_latency() {
    let (here, there) = (gpu("here"), gpu("there"));
    let (near, far) = (buffer(&here, 20_000).await, buffer(&there, 20_000).await);
    assert_eq!(time_of(memory(&here).write(&near, 0, own(20_000))).await, ms(25));
    assert_eq!(time_of(memory(&here).read(&near, 5_000, 10_000)).await, ms(15));
    let shared = SharedPart { memory: Arc::new(SharedMemory::allocate(4_096).unwrap()), range: 96..3_096 };
    assert_eq!(time_of(memory(&here).read_to(&near, 0, shared.clone())).await, ms(8));
    assert_eq!(time_of(memory(&there).write(&far, 0, HostBytes::Shared(shared))).await, ms(8));
    assert_eq!(time_of(memory(&there).copy((&near, 0), (&far, 0), 20_000)).await, ms(25));
    assert_eq!(time_of(memory(&here).write(&near, 7, own(0))).await, Duration::ZERO, "no bytes, no copy");
}

#[tokio::test(start_paused = true)]
async fn a_gpu_copies_within_its_memory_at_a_thousand_gb_a_second() {
    let gpu = SimulatedGpu::new(SimulatedOptions::default());
    let (one, other) = (buffer(&gpu, 20_000_000_000).await, buffer(&gpu, 20_000_000_000).await);
    assert_eq!(time_of(memory(&gpu).copy((&one, 0), (&other, 0), 20_000_000_000)).await, ms(20));
}

#[tokio::test(start_paused = true)]
async fn the_slower_end_says_how_fast_a_link_between_gpus_is() {
    let here = gpu("here");
    let slow = LinkSpeed { bytes_per_second: 5e5, latency: ms(1) };
    let there = SimulatedOptions { peer_link: Some(slow), ..SimulatedOptions::new(GpuId::new("there").unwrap()) };
    let there = SimulatedGpu::new(there);
    let (near, far) = (buffer(&here, 1_000).await, buffer(&there, 1_000).await);
    assert_eq!(time_of(memory(&there).copy((&near, 0), (&far, 0), 1_000)).await, ms(7));
    assert_eq!(time_of(memory(&here).copy((&far, 0), (&near, 0), 1_000)).await, ms(7));
}

#[tokio::test(start_paused = true)]
async fn copies_over_one_link_follow_each_other_in_order() {
    let gpu = Arc::new(gpu("here"));
    let target = buffer(&gpu, 3).await;
    let start = Instant::now();
    let mut copies = JoinSet::new();
    for number in 0..4_u8 {
        let (gpu, target) = (Arc::clone(&gpu), target.clone());
        copies.spawn(async move {
            memory(&gpu).write(&target, 0, HostBytes::Own(vec![number; 3].into())).await.unwrap();
            (number, start.elapsed())
        });
    }
    let mut ended = Vec::new();
    while let Some(copy) = copies.join_next().await {
        ended.push(copy.unwrap());
    }
    let tick_of = |number: u64| Duration::from_micros(5_003 * (number + 1)).as_micros().div_ceil(1_000) as u64;
    assert_eq!(ended, (0..4_u8).map(|number| (number, ms(tick_of(u64::from(number))))).collect::<Vec<_>>());
    assert_eq!(memory(&gpu).read(&target, 0, 3).await.unwrap(), vec![3; 3]);
}

#[tokio::test(start_paused = true)]
async fn many_small_copies_take_what_the_link_needs_and_not_a_tick_of_the_timer_each() {
    let quick = LinkSpeed { bytes_per_second: 1e9, latency: Duration::from_micros(9) };
    let gpu = SimulatedGpu::new(SimulatedOptions { host_link: quick, ..SimulatedOptions::default() });
    let gpu = Arc::new(gpu);
    let target = buffer(&gpu, 1_000).await;
    let start = Instant::now();
    let mut copies = JoinSet::new();
    for _ in 0..500 {
        let (gpu, target) = (Arc::clone(&gpu), target.clone());
        copies.spawn(async move { memory(&gpu).write(&target, 0, own(1_000)).await.unwrap() });
    }
    copies.join_all().await;
    assert_eq!(start.elapsed(), ms(5));
}

#[tokio::test(start_paused = true)]
async fn copies_over_two_links_and_both_directions_of_one_go_beside_each_other() {
    let (here, there, third) = (gpu("here"), gpu("there"), gpu("third"));
    let (near, far, farther) = (buffer(&here, 20_000).await, buffer(&there, 20_000).await, buffer(&third, 20_000).await);
    let start = Instant::now();
    let all = tokio::join!(
        memory(&here).write(&near, 0, own(20_000)),
        memory(&here).read(&near, 0, 20_000),
        memory(&there).write(&far, 0, own(20_000)),
        memory(&there).copy((&near, 0), (&far, 0), 20_000),
        memory(&here).copy((&far, 0), (&near, 0), 20_000),
        memory(&third).copy((&near, 0), (&farther, 0), 20_000),
        memory(&here).copy((&farther, 0), (&near, 0), 20_000),
    );
    assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok() && all.3.is_ok() && all.4.is_ok() && all.5.is_ok() && all.6.is_ok());
    assert_eq!(start.elapsed(), ms(25));
    let twice = async { tokio::try_join!(memory(&here).read(&near, 0, 20_000), memory(&here).read(&near, 0, 20_000)) };
    assert_eq!(time_of(twice).await, ms(50));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_nobody_waits_for_any_more_holds_its_link_as_long_as_it_would_have_taken() {
    let gpu = gpu("here");
    let target = holding(&gpu, &[9; 10_000]).await;
    let dropped = timeout(ms(5), memory(&gpu).write(&target, 0, own(10_000))).await;
    assert!(dropped.is_err());
    let start = Instant::now();
    memory(&gpu).write(&target, 0, HostBytes::Own(vec![2; 5_000].into())).await.unwrap();
    assert_eq!(start.elapsed(), ms(10 + 10));
    let bytes = memory(&gpu).read(&target, 0, 10_000).await.unwrap();
    assert_eq!(bytes, [[2; 5_000], [9; 5_000]].concat());
}

#[tokio::test(start_paused = true)]
async fn memory_counts_in_bytes_and_is_given_back_with_the_last_clone() {
    let gpu = gpu("here");
    let small: Vec<DeviceBuffer> = {
        let mut small = Vec::new();
        for _ in 0..1_000 {
            small.push(buffer(&gpu, 100).await);
        }
        small
    };
    assert_eq!((memory(&gpu).resident_bytes(), gpu.sample().memory_used_mb), (100_000, 1), "not 1 MB each");
    let refused = gpu.begin(Use { memory_mb: 1_000, compute_share: 0.0 }).unwrap_err();
    assert_eq!(refused, OutOfMemory { wanted_mb: 1_000, free_mb: 999, total_mb: 1_000 });
    let work = gpu.begin(Use { memory_mb: 999, compute_share: 0.0 }).unwrap();
    let full = memory(&gpu).allocate(900_001).await.unwrap_err();
    assert_eq!(full, MemoryError::Full { wanted_bytes: 900_001, free_bytes: 900_000 });
    let last = small[0].clone();
    drop((small, work));
    assert_eq!((memory(&gpu).resident_bytes(), gpu.sample().memory_used_mb), (100, 1));
    drop(last);
    assert_eq!((memory(&gpu).resident_bytes(), gpu.sample().memory_used_mb), (0, 0));
    buffer(&gpu, 1_000_000_000).await;
}

#[tokio::test(start_paused = true)]
async fn capped_and_failing_allocations_hold_for_buffers_too() {
    let gpu = gpu("here");
    gpu.knobs().cap_free_memory(Some(10));
    let full = memory(&gpu).allocate(10_000_001).await.unwrap_err();
    assert_eq!(full, MemoryError::Full { wanted_bytes: 10_000_001, free_bytes: 10_000_000 });
    gpu.knobs().cap_free_memory(None);
    gpu.knobs().fail_next_allocations(1);
    assert!(memory(&gpu).allocate(0).await.is_ok(), "no memory wanted, none refused");
    assert!(matches!(memory(&gpu).allocate(1).await, Err(MemoryError::Full { .. })));
    assert!(memory(&gpu).allocate(1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn gpus_without_links_have_no_way_between_them() {
    let here = gpu("here");
    let there = SimulatedGpu::new(SimulatedOptions { peer_link: None, ..SimulatedOptions::default() });
    let (near, far) = (buffer(&here, 10).await, buffer(&there, 10).await);
    for refused in [memory(&here).copy((&far, 0), (&near, 0), 10).await, memory(&there).copy((&near, 0), (&far, 0), 10).await] {
        assert!(matches!(&refused, Err(MemoryError::Unsupported { reason, .. }) if reason.contains("sim-0 has no links")), "{refused:?}");
    }
    memory(&there).copy((&far, 0), (&far, 5), 5).await.unwrap();
    assert!(matches!(memory(&there).export(&far), Err(MemoryError::Unsupported { .. })));
    let opened = memory(&there).open(&PeerHandle(vec![1]), &here.description().gpu_id, 10).await;
    assert!(matches!(opened, Err(MemoryError::Unsupported { .. })));
}

/// What fails at once where the link is down, and how the copy of 20,000 bytes to `here` ends meanwhile.
async fn cut_after_5_ms(cut: impl FnOnce(&SimulatedKnobs), mend: impl FnOnce(&SimulatedKnobs)) {
    let (here, there) = (gpu("here"), gpu("there"));
    let (near, far) = (holding(&here, &[7; 20_000]).await, holding(&there, &[8; 20_000]).await);
    let start = Instant::now();
    let copy = memory(&here).copy((&far, 0), (&near, 0), 20_000);
    let breaks = async {
        tokio::time::sleep(ms(5)).await;
        cut(&there.knobs());
    };
    let failed = tokio::join!(copy, breaks).0.unwrap_err();
    assert!(matches!(failed, MemoryError::Failed { .. }), "{failed}");
    assert_eq!(start.elapsed(), ms(5));
    assert!(memory(&here).copy((&far, 0), (&near, 0), 1).await.is_err());
    mend(&there.knobs());
    assert_eq!(memory(&here).read(&near, 0, 20_000).await.unwrap(), vec![7; 20_000], "what did not arrive changed nothing");
    assert_eq!(time_of(memory(&here).copy((&far, 0), (&near, 0), 20_000)).await, ms(25), "the link is free again");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_fails_what_is_on_it_at_once_and_works_when_it_is_mended() {
    let here = GpuId::new("here").unwrap();
    cut_after_5_ms(|knobs| knobs.cut_peer_link(&here, true), |knobs| knobs.cut_peer_link(&here, false)).await;
    let gpu = gpu("here");
    let target = buffer(&gpu, 10).await;
    gpu.knobs().cut_host_link(true);
    assert!(memory(&gpu).write(&target, 0, own(10)).await.is_err() && memory(&gpu).read(&target, 0, 10).await.is_err());
    memory(&gpu).copy((&target, 0), (&target, 5), 5).await.unwrap();
    gpu.knobs().cut_host_link(false);
    memory(&gpu).write(&target, 0, own(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_gpu_gives_no_memory_and_copies_nothing() {
    let gpu = gpu("here");
    let target = buffer(&gpu, 10).await;
    let trouble = crate::Trouble { what: crate::Consequence::Lost { by_a_task: false }, reason: "gone".to_owned(), xid: None };
    let start = Instant::now();
    let loses = async {
        yield_now().await;
        gpu.knobs().trouble(trouble);
    };
    assert!(tokio::join!(memory(&gpu).write(&target, 0, own(10)), loses).0.is_err());
    assert!(memory(&gpu).allocate(1).await.is_err());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn stalled_copies_end_when_they_go_on_and_those_behind_them_follow() {
    let gpu = gpu("here");
    let source = holding(&gpu, &[3; 10_000]).await;
    gpu.knobs().stall_copies(true);
    let start = Instant::now();
    let goes_on = async {
        assert!(timeout(ms(10_000), memory(&gpu).read(&source, 0, 10_000)).await.is_err());
        gpu.knobs().stall_copies(false);
    };
    let ((), copied) = tokio::join!(goes_on, memory(&gpu).read(&source, 0, 10_000));
    assert!(copied.unwrap() == vec![3; 10_000]);
    assert_eq!(start.elapsed(), ms(10_015));
    let stalls_later = async {
        tokio::time::sleep(ms(5)).await;
        gpu.knobs().stall_copies(true);
        tokio::time::sleep(ms(95)).await;
        gpu.knobs().stall_copies(false);
    };
    let both = async { tokio::try_join!(memory(&gpu).read(&source, 0, 10_000), memory(&gpu).read(&source, 0, 10_000)) };
    let start = Instant::now();
    assert!(tokio::join!(both, stalls_later).0.is_ok());
    assert_eq!(start.elapsed(), ms(100 + 15), "the first ends with the stall, the second begins then");
}

#[tokio::test(start_paused = true)]
async fn copies_fail_and_are_corrupted_as_often_as_asked_for_and_slow_links_take_longer() {
    let gpu = gpu("here");
    let source = holding(&gpu, &[3; 1_000]).await;
    gpu.knobs().fail_next_copies(1);
    gpu.knobs().corrupt_next_copies(1);
    gpu.knobs().slow_links(2.0);
    let start = Instant::now();
    let failed = memory(&gpu).read(&source, 0, 1_000).await.unwrap_err();
    assert_eq!((failed.to_string(), start.elapsed()), ("copy from the GPU to the host: the copy went wrong".to_owned(), ms(12)));
    let corrupted = memory(&gpu).read(&source, 0, 1_000).await.unwrap();
    assert_eq!(corrupted.iter().filter(|byte| **byte != 3).count(), 1);
    gpu.knobs().slow_links(1.0);
    assert_eq!(time_of(memory(&gpu).read(&source, 0, 1_000)).await, ms(6));
    assert_eq!(memory(&gpu).read(&source, 0, 1_000).await.unwrap(), vec![3; 1_000]);
}

#[tokio::test]
async fn on_a_running_clock_large_copies_carry_their_bytes_too() {
    let options = SimulatedOptions { sleeper: Sleeper::Precise, ..SimulatedOptions::default() };
    let gpu = SimulatedGpu::new(options);
    let bytes: Bytes = (0..3_000_001_u32).map(|number| (number % 251) as u8).collect();
    let target = buffer(&gpu, bytes.len() as u64).await;
    for at in [1_500_000, 0] {
        let part = bytes.slice(at..bytes.len().min(at + 1_500_001));
        memory(&gpu).write(&target, at as u64, HostBytes::Own(part)).await.unwrap();
    }
    assert_eq!(memory(&gpu).read(&target, 0, bytes.len()).await.unwrap(), bytes);
    let sum = memory(&gpu).checksum(&target, 8..bytes.len() as u64).await.unwrap();
    assert_eq!(sum, Checksum::of(&bytes[8..], 8));
    let shared = SharedPart { memory: Arc::new(SharedMemory::allocate(bytes.len()).unwrap()), range: 0..bytes.len() };
    memory(&gpu).read_to(&target, 0, shared.clone()).await.unwrap();
    let copy = buffer(&gpu, bytes.len() as u64).await;
    memory(&gpu).write(&copy, 0, HostBytes::Shared(shared)).await.unwrap();
    assert_eq!(memory(&gpu).checksum(&copy, 0..bytes.len() as u64).await.unwrap(), Checksum::of(&bytes, 0));
}
