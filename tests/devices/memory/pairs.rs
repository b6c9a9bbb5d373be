//! What the memories of two simulated GPUs of one process promise.

use bytes::Bytes;
use devices::{Device, DeviceBuffer, DeviceMemory, MemoryError, PeerHandle, SimulatedGpu, SimulatedOptions};
use protocol::{Checksum, GpuId};

use super::cases::{assert_same, content, holding, own, pattern};

pub struct Pair {
    one: SimulatedGpu,
    other: SimulatedGpu,
}

impl Pair {
    pub fn new() -> Self {
        let gpu = |name| SimulatedGpu::new(SimulatedOptions::new(GpuId::new(name).unwrap()));
        Self { one: gpu("one"), other: gpu("other") }
    }

    fn memories(&self) -> [&dyn DeviceMemory; 2] {
        [&self.one, &self.other].map(|gpu| gpu.memory().unwrap())
    }

    /// The bytes on the first, and room for them on the second.
    async fn source_and_target(&self, bytes: &Bytes) -> (DeviceBuffer, DeviceBuffer) {
        let [one, other] = self.memories();
        (holding(one, bytes).await, holding(other, &vec![0; bytes.len()].into()).await)
    }
}

pub async fn bytes_go_from_one_gpu_to_the_other_and_back(pair: Pair) {
    let [one, other] = pair.memories();
    let bytes = pattern(300_001);
    let (source, target) = pair.source_and_target(&bytes).await;
    let chunks = (0..bytes.len() as u64).step_by(65_536);
    futures::future::try_join_all(chunks.map(|at| {
        let (source, target) = (&source, &target);
        async move { other.copy((source, at), (target, at), (source.len() - at).min(65_536)).await }
    }))
    .await
    .unwrap();
    assert_eq!(other.checksum(&target, 0..target.len()).await.unwrap(), Checksum::of(&bytes, 0));
    drop(source);
    assert_eq!(one.resident_bytes(), 0);
    assert_same(&content(other, &target).await, &bytes, "the copy outlives its source");
    let back = one.allocate(1_000).await.unwrap();
    one.copy((&target, 299_001), (&back, 0), 1_000).await.unwrap();
    assert_same(&content(one, &back).await, &bytes[299_001..], "a part on its way back");
}

pub async fn each_gpu_refuses_to_write_to_the_other(pair: Pair) {
    let [one, other] = pair.memories();
    let (source, target) = pair.source_and_target(&pattern(8)).await;
    let outcomes = [
        one.copy((&source, 0), (&target, 0), 8).await,
        one.write(&target, 0, own(&pattern(8))).await,
        other.read(&source, 0, 8).await.map(|_| ()),
        other.checksum(&source, 0..8).await.map(|_| ()),
    ];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(MemoryError::Outside { .. })), "{outcome:?}");
    }
}

pub async fn between_gpus_whose_link_is_down_there_is_the_way_through_the_host(pair: Pair) {
    let [one, other] = pair.memories();
    let bytes = pattern(10_000);
    let (source, target) = pair.source_and_target(&bytes).await;
    pair.one.knobs().cut_peer_link(&pair.other.description().gpu_id, true);
    for outcome in [other.copy((&source, 0), (&target, 0), 1).await, one.copy((&target, 0), (&source, 0), 1).await] {
        assert!(matches!(&outcome, Err(MemoryError::Failed { reason, .. }) if reason.contains("is down")), "{outcome:?}");
    }
    let through_the_host = one.read(&source, 0, 10_000).await.unwrap();
    other.write(&target, 0, own(&through_the_host)).await.unwrap();
    assert_same(&content(other, &target).await, &bytes, "through the host");
    pair.one.knobs().cut_peer_link(&pair.other.description().gpu_id, false);
    other.copy((&source, 0), (&target, 0), 10_000).await.unwrap();
}

pub async fn what_changes_between_gpus_is_found_and_the_source_stays_right(pair: Pair) {
    let [one, other] = pair.memories();
    let bytes = pattern(10_000);
    let (source, target) = pair.source_and_target(&bytes).await;
    for knobs in [pair.one.knobs(), pair.other.knobs()] {
        knobs.corrupt_next_copies(1);
        other.copy((&source, 0), (&target, 0), 10_000).await.unwrap();
        assert_ne!(other.checksum(&target, 0..10_000).await.unwrap(), Checksum::of(&bytes, 0));
        assert_eq!(one.checksum(&source, 0..10_000).await.unwrap(), Checksum::of(&bytes, 0));
    }
    other.copy((&source, 0), (&target, 0), 10_000).await.unwrap();
    assert_same(&content(other, &target).await, &bytes, "the next copy");
}

pub async fn the_memory_of_a_simulated_gpu_is_opened_by_no_other_process(pair: Pair) {
    let [one, other] = pair.memories();
    let buffer = one.allocate(8).await.unwrap();
    let exported = one.export(&buffer);
    assert!(matches!(exported, Err(MemoryError::Unsupported { .. })), "{exported:?}");
    let opened = other.open(&PeerHandle(vec![0; 64]), buffer.gpu_id(), 8).await;
    assert!(matches!(opened, Err(MemoryError::Unsupported { .. })), "{opened:?}");
}
