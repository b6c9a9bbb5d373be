//! What the memory of every device promises.

use std::sync::Arc;

use bytes::Bytes;
use devices::{DeviceBuffer, DeviceMemory, HostBytes, MemoryError, SharedMemory, SharedPart, Use};
use futures::future::try_join_all;
use protocol::{Checksum, GpuId};
use tests::until::until;

use super::rig::{MemoryRig, TOTAL_MB, Trouble};

/// So many bytes, no two neighbours alike, and no two words.
pub fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|place| (place * 31 + place / 251) as u8).collect()
}

pub fn own(bytes: &Bytes) -> HostBytes {
    HostBytes::Own(bytes.clone())
}

/// A buffer that holds these bytes.
pub async fn holding(memory: &dyn DeviceMemory, bytes: &Bytes) -> DeviceBuffer {
    let buffer = memory.allocate(bytes.len() as u64).await.unwrap();
    memory.write(&buffer, 0, own(bytes)).await.unwrap();
    buffer
}

/// All that a buffer holds.
pub async fn content(memory: &dyn DeviceMemory, buffer: &DeviceBuffer) -> Bytes {
    memory.read(buffer, 0, buffer.len() as usize).await.unwrap()
}

/// Compares without showing every byte.
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differing = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(differing, None, "{what}: the first byte that differs");
}

fn shared(bytes: usize) -> Arc<SharedMemory> {
    Arc::new(SharedMemory::allocate(bytes).unwrap())
}

pub async fn bytes_come_back_as_they_were_written_in_any_parts(rig: &impl MemoryRig) {
    let memory = rig.memory();
    for length in [1, 7, 4_096, 65_537, 3_000_001] {
        let bytes = pattern(length);
        let buffer = holding(memory, &bytes).await;
        assert_eq!((buffer.len(), buffer.gpu_id()), (length as u64, &rig.device().description().gpu_id));
        assert_same(&content(memory, &buffer).await, &bytes, "the whole");
        for (from, to) in [(0, length / 2), (length / 3, length), (length - 1, length)] {
            let part = memory.read(&buffer, from as u64, to - from).await.unwrap();
            assert_same(&part, &bytes[from..to], "a part");
        }
    }
}

pub async fn parts_are_written_in_any_order_and_at_the_same_time(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let bytes = pattern(1_000_003);
    let buffer = memory.allocate(bytes.len() as u64).await.unwrap();
    let parts = (0..bytes.len()).step_by(99_991).map(|at| (at, bytes.slice(at..bytes.len().min(at + 99_991))));
    let mut parts: Vec<(usize, Bytes)> = parts.collect();
    parts.rotate_left(4);
    parts.reverse();
    let writes = parts.iter().map(|(at, part)| memory.write(&buffer, *at as u64, own(part)));
    try_join_all(writes).await.unwrap();
    assert_same(&content(memory, &buffer).await, &bytes, "the whole of its parts");
    let reads = parts.iter().map(|(at, part)| memory.read(&buffer, *at as u64, part.len()));
    for (read, (at, part)) in try_join_all(reads).await.unwrap().iter().zip(&parts) {
        assert_same(read, part, &format!("the part at {at}"));
    }
}

pub async fn nothing_is_copied_where_there_are_no_bytes(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let (empty, buffer) = (memory.allocate(0).await.unwrap(), holding(memory, &pattern(8)).await);
    assert!(empty.is_empty());
    let part = SharedPart { memory: shared(8), range: 8..8 };
    for (buffer, end) in [(&empty, 0), (&buffer, 8)] {
        memory.write(buffer, end, own(&Bytes::new())).await.unwrap();
        memory.write(buffer, end, HostBytes::Shared(part.clone())).await.unwrap();
        assert!(memory.read(buffer, end, 0).await.unwrap().is_empty());
        memory.read_to(buffer, end, part.clone()).await.unwrap();
        memory.copy((buffer, end), (&empty, 0), 0).await.unwrap();
        assert_eq!(memory.checksum(buffer, end..end).await.unwrap(), Checksum::default());
    }
    assert_same(&content(memory, &buffer).await, &pattern(8), "what is there stays");
}

pub async fn a_copy_within_the_gpu_takes_any_part_to_any_place(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let (bytes, mut expected) = (pattern(100_000), vec![0; 200_000]);
    let source = holding(memory, &bytes).await;
    let target = holding(memory, &expected.clone().into()).await;
    for (from, to, length) in [(0, 1, 100_000), (77, 150_003, 49_000), (99_999, 0, 1)] {
        memory.copy((&source, from as u64), (&target, to as u64), length as u64).await.unwrap();
        expected[to..to + length].copy_from_slice(&bytes[from..from + length]);
    }
    assert_same(&content(memory, &target).await, &expected, "the target");
    memory.copy((&target, 1), (&target, 150_000), 50_000).await.unwrap();
    expected.copy_within(1..50_001, 150_000);
    assert_same(&content(memory, &target).await, &expected, "a copy within one buffer");
    assert_same(&content(memory, &source).await, &bytes, "the source");
}

pub async fn bytes_of_shared_memory_go_in_and_come_out(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let (shared, bytes) = (shared(700_000), pattern(300_001));
    shared.write_at(13, &bytes);
    let buffer = memory.allocate(400_000).await.unwrap();
    let part = SharedPart { memory: Arc::clone(&shared), range: 13..300_014 };
    memory.write(&buffer, 5, HostBytes::Shared(part)).await.unwrap();
    assert_same(&memory.read(&buffer, 5, bytes.len()).await.unwrap(), &bytes, "from shared memory");
    let part = SharedPart { memory: Arc::clone(&shared), range: 399_000..650_000 };
    memory.read_to(&buffer, 1_005, part).await.unwrap();
    let mut found = vec![0; 700_000];
    shared.read_at(0, &mut found);
    assert_same(&found[399_000..650_000], &bytes[1_000..252_000], "to shared memory");
    assert_same(&found[13..300_014], &bytes, "what is not meant stays");
    assert!(found[300_014..399_000].iter().chain(&found[650_000..]).all(|byte| *byte == 0));
}

pub async fn the_sum_of_the_gpu_is_that_of_the_bytes(rig: &impl MemoryRig) {
    let memory = rig.memory();
    for length in [1, 7, 8, 9, 1_023, 65_536, 2_500_003] {
        let bytes = pattern(length);
        let buffer = holding(memory, &bytes).await;
        let whole = memory.checksum(&buffer, 0..length as u64).await.unwrap();
        assert_eq!(whole, Checksum::of(&bytes, 0), "{length} bytes");
        let middle = length / 16 * 8;
        let (head, tail) = (
            memory.checksum(&buffer, 0..middle as u64).await.unwrap(),
            memory.checksum(&buffer, middle as u64..length as u64).await.unwrap(),
        );
        assert_eq!((head, tail), (Checksum::of(&bytes[..middle], 0), Checksum::of(&bytes[middle..], middle as u64)));
        assert_eq!(head.with(tail), whole, "the sum over a whole is that of its parts");
        let odd_end = (length - middle).div_ceil(2) + middle;
        let part = memory.checksum(&buffer, middle as u64..odd_end as u64).await.unwrap();
        assert_eq!(part, Checksum::of(&bytes[middle..odd_end], middle as u64));
    }
}

pub async fn memory_counts_until_its_last_clone_is_dropped(rig: &impl MemoryRig) {
    let (memory, device) = (rig.memory(), rig.device());
    let fits = |memory_mb| device.begin(Use { memory_mb, compute_share: 0.0 }).is_ok();
    assert!(fits(2_500) && memory.resident_bytes() == 0);
    let buffer = memory.allocate(2_000_000_000).await.unwrap();
    assert_eq!(memory.resident_bytes(), 2_000_000_000);
    until("no task gets it", async || !fits(2_500)).await;
    until("the sample shows it", async || device.sample().memory_used_mb >= 2_000).await;
    let (clone, small) = (buffer.clone(), memory.allocate(100).await.unwrap());
    drop(buffer);
    assert_eq!(memory.resident_bytes(), 2_000_000_100);
    drop(clone);
    until("it is given back", async || memory.resident_bytes() == 100 && fits(2_500)).await;
    drop(small);
    until("all of it", async || memory.resident_bytes() == 0).await;
    memory.allocate(2_500_000_000).await.unwrap();
}

pub async fn too_much_memory_is_refused_with_numbers(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let first = memory.allocate(2_000_000_000).await.unwrap();
    for wanted in [(TOTAL_MB + 1_000) * 1_000_000, 2_500_000_000] {
        let refused = memory.allocate(wanted).await.unwrap_err();
        let MemoryError::Full { wanted_bytes, free_bytes } = refused else { panic!("{refused}") };
        assert_eq!(wanted_bytes, wanted);
        assert!((1_000_000..wanted).contains(&free_bytes), "{free_bytes}");
    }
    assert_eq!(memory.resident_bytes(), 2_000_000_000, "a refusal takes nothing");
    drop(first);
    until("there is room again", async || memory.allocate(2_500_000_000).await.is_ok()).await;
}

pub async fn nothing_outside_of_a_buffer_is_reached(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let (buffer, other) = (holding(memory, &pattern(16)).await, holding(memory, &pattern(16)).await);
    let outside = |outcome: Result<(), MemoryError>| {
        assert!(matches!(outcome, Err(MemoryError::Outside { bytes: 16, .. })), "{outcome:?}");
    };
    for (at, length) in [(9, 8), (16, 1), (17, 0), (u64::MAX, 8), (u64::MAX - 3, 2)] {
        let part = SharedPart { memory: shared(8), range: 0..length };
        outside(memory.write(&buffer, at, own(&pattern(length))).await);
        outside(memory.write(&buffer, at, HostBytes::Shared(part.clone())).await);
        outside(memory.read(&buffer, at, length).await.map(|_| ()));
        outside(memory.read_to(&buffer, at, part).await);
        outside(memory.copy((&buffer, at), (&other, 0), length as u64).await);
        outside(memory.copy((&other, 0), (&buffer, at), length as u64).await);
    }
    outside(memory.checksum(&buffer, 8..17).await.map(|_| ()));
    outside(memory.checksum(&buffer, 24..32).await.map(|_| ()));
    assert_same(&content(memory, &buffer).await, &pattern(16), "what is there stays");
}

pub async fn a_buffer_of_another_gpu_is_refused(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let another = GpuId::new("another").unwrap();
    let (buffer, foreign) = (holding(memory, &pattern(8)).await, DeviceBuffer::new(another.clone(), 8, Arc::new("no memory of ours")));
    let part = SharedPart { memory: shared(8), range: 0..8 };
    let outcomes = [
        memory.write(&foreign, 0, own(&pattern(8))).await,
        memory.read(&foreign, 0, 8).await.map(|_| ()),
        memory.read_to(&foreign, 0, part).await,
        memory.copy((&buffer, 0), (&foreign, 0), 8).await,
        memory.checksum(&foreign, 0..8).await.map(|_| ()),
    ];
    for outcome in outcomes {
        assert!(matches!(&outcome, Err(MemoryError::Outside { gpu_id, .. }) if *gpu_id == another), "{outcome:?}");
    }
    let no_way = memory.copy((&foreign, 0), (&buffer, 0), 8).await;
    assert!(matches!(no_way, Err(MemoryError::Unsupported { .. })), "{no_way:?}");
    assert_same(&content(memory, &buffer).await, &pattern(8), "what is there stays");
}

pub async fn a_dropped_future_leaves_the_memory_sound(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let (bytes, noise) = (pattern(200_000), Bytes::from(vec![0xEE; 200_000]));
    let kept = holding(memory, &bytes).await;
    let part = SharedPart { memory: shared(200_000), range: 0..200_000 };
    for _ in 0..4 {
        let buffer = memory.allocate(200_000).await.unwrap();
        let mut copies = [
            memory.write(&buffer, 0, own(&noise)),
            memory.write(&buffer, 0, HostBytes::Shared(part.clone())),
            memory.read_to(&kept, 0, part.clone()),
            memory.copy((&kept, 0), (&buffer, 0), 200_000),
        ];
        for copy in &mut copies {
            let _ = futures::poll!(copy);
        }
        let mut read = memory.read(&buffer, 0, 200_000);
        let _ = futures::poll!(&mut read);
        // With all of them the buffer goes, whatever still goes on.
        drop((read, copies));
        drop(buffer);
    }
    until("what was given up is given back", async || memory.resident_bytes() == 200_000).await;
    let fresh = holding(memory, &bytes).await;
    assert_same(&content(memory, &fresh).await, &bytes, "new memory");
    assert_same(&content(memory, &kept).await, &bytes, "memory from before");
    assert!(!rig.device().is_lost());
}

pub async fn copies_that_fail_say_so_and_the_next_ones_go_well(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let (bytes, other) = (pattern(40_000), Bytes::from(vec![1; 40_000]));
    let (buffer, source) = (holding(memory, &bytes).await, holding(memory, &other).await);
    let part = SharedPart { memory: shared(40_000), range: 0..40_000 };
    rig.befall(Some(Trouble::Fail));
    let outcomes = [
        memory.write(&buffer, 0, own(&other)).await,
        memory.write(&buffer, 0, HostBytes::Shared(part.clone())).await,
        memory.read(&buffer, 0, 40_000).await.map(|_| ()),
        memory.read_to(&buffer, 0, part.clone()).await,
        memory.copy((&source, 0), (&buffer, 0), 40_000).await,
    ];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(MemoryError::Failed { .. })), "{outcome:?}");
    }
    rig.befall(None);
    assert_same(&content(memory, &buffer).await, &bytes, "what did not arrive changed nothing");
    memory.copy((&source, 0), (&buffer, 0), 40_000).await.unwrap();
    assert_same(&content(memory, &buffer).await, &other, "the next copy");
    assert!(!rig.device().is_lost());
}

pub async fn bytes_that_change_on_the_way_are_found_by_their_sum(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let bytes = pattern(40_001);
    let sum = Checksum::of(&bytes, 0);
    let (written, copied) = (memory.allocate(40_001).await.unwrap(), memory.allocate(40_001).await.unwrap());
    let source = holding(memory, &bytes).await;
    let shared = shared(40_001);
    rig.befall(Some(Trouble::Corrupt));
    memory.write(&written, 0, own(&bytes)).await.unwrap();
    memory.copy((&source, 0), (&copied, 0), 40_001).await.unwrap();
    let read = memory.read(&source, 0, 40_001).await.unwrap();
    memory.read_to(&source, 0, SharedPart { memory: Arc::clone(&shared), range: 0..40_001 }).await.unwrap();
    rig.befall(None);
    assert_ne!(Checksum::of(&read, 0), sum, "what was read");
    let mut read = vec![0; 40_001];
    shared.read_at(0, &mut read);
    assert_ne!(Checksum::of(&read, 0), sum, "what was read to shared memory");
    for (buffer, what) in [(&written, "what was written"), (&copied, "what was copied")] {
        let found = memory.checksum(buffer, 0..40_001).await.unwrap();
        assert_ne!(found, sum, "{what}");
        assert_eq!(found, Checksum::of(&content(memory, buffer).await, 0), "{what}: the sum is that of what is there");
    }
    assert_eq!(memory.checksum(&source, 0..40_001).await.unwrap(), sum, "where it came from it stays right");
}

pub async fn a_copy_that_stalls_ends_when_it_goes_on(rig: &impl MemoryRig) {
    let memory = rig.memory();
    let bytes = pattern(40_000);
    let (buffer, source) = (memory.allocate(40_000).await.unwrap(), holding(memory, &bytes).await);
    rig.befall(Some(Trouble::Stall));
    let mut copy = memory.copy((&source, 0), (&buffer, 0), 40_000);
    assert!(futures::poll!(&mut copy).is_pending());
    rig.befall(None);
    copy.await.unwrap();
    assert_same(&content(memory, &buffer).await, &bytes, "late, and whole");
}
