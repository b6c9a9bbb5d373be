//! What is written is read.

use std::sync::Arc;

use bytes::Bytes;
use data_link::{FetchOrder, LinkError, NewTensor, RefusedBecause};
use futures::StreamExt;
use proptest::prelude::*;
use protocol::{IfExists, TensorShape};

use super::{InMemory, Listening, assert_refused, chunks, collect, limits, memory::Memory, name, new_tensor, pattern};

#[derive(Debug, Clone)]
struct Case {
    bytes: usize,
    piece: usize,
    chunk: usize,
    range: (usize, usize),
}

fn cases() -> impl Strategy<Value = Case> {
    (0_usize..3_000, 1_usize..700, 1_usize..900).prop_flat_map(|(bytes, piece, chunk)| {
        (0..=bytes, 0..=bytes).prop_map(move |(one, other)| Case { bytes, piece, chunk, range: (one.min(other), one.max(other)) })
    })
}

async fn goes_round(case: &Case) {
    let memory = Memory::new();
    let mut serving = InMemory::default();
    let client = serving.client(&memory, limits(case.piece)).await;
    let whole = pattern(case.bytes);
    let record = client.write(new_tensor("a", case.bytes), chunks(&whole, case.chunk)).await.unwrap();
    assert_eq!(memory.get("a").unwrap().bytes, whole);
    assert_eq!(client.about(&name("a"), None).await.unwrap(), record);
    assert_eq!(collect(client.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap(), whole);
    assert_eq!(client.read_all(&name("a"), Some(record.version), case.bytes).await.unwrap(), whole);
    let (start, end) = case.range;
    let part = collect(client.read(&name("a"), None, start as u64..end as u64), start as u64).await.unwrap();
    assert_eq!(part, whole[start..end]);
    assert!(client.free(&name("a"), None).await.unwrap());
    assert!(!client.free(&name("a"), None).await.unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_sizes_what_is_written_is_read(case in cases()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(goes_round(&case));
    }
}

#[tokio::test]
async fn large_tensors_go_round_by_tcp_and_several_at_once() {
    let memory = Memory::new();
    let listening = Listening::start(&memory).await;
    let client = listening.client(256 << 10).await;
    let whole = pattern((3 << 20) + 5);
    let write = |to: &'static str| client.write(new_tensor(to, whole.len()), chunks(&whole, 100_000));
    let (one, other) = tokio::join!(write("a"), write("b"));
    assert_eq!((one.unwrap().bytes, other.unwrap().bytes), (whole.len() as u64, whole.len() as u64));
    let (one, other) = (name("a"), name("b"));
    let (one, other) = tokio::join!(client.read_all(&one, None, usize::MAX), client.read_all(&other, None, usize::MAX));
    assert!(one.unwrap() == whole && other.unwrap() == whole);
}

#[tokio::test]
async fn a_piece_as_long_as_pieces_may_be_goes_round() {
    let memory = Memory::new();
    let listening = Listening::start(&memory).await;
    let client = listening.client(usize::MAX).await;
    let whole = Bytes::from(vec![9; 16 << 20]);
    client.write(new_tensor("a", whole.len()), chunks(&whole, usize::MAX >> 1)).await.unwrap();
    let pieces: Vec<_> = client.read(&name("a"), None, 0..u64::MAX).collect().await;
    assert_eq!(pieces.len(), 1);
    assert!(memory.get("a").unwrap().bytes == whole);
}

#[tokio::test]
async fn what_was_read_before_the_end_is_not_changed_by_a_new_version() {
    let old = pattern(1_000);
    let memory = Memory::with("a", &old);
    let listening = Listening::start(&memory).await;
    let client = listening.client(64).await;
    let mut pieces = client.read(&name("a"), None, 0..u64::MAX);
    let (_, first) = pieces.next().await.unwrap().unwrap();
    let new = memory.put(&new_tensor("a", 3), Bytes::from_static(b"new"));
    let rest = collect(pieces, first.len() as u64).await.unwrap();
    assert_eq!([first.to_vec(), rest].concat(), old);
    assert_eq!(client.about(&name("a"), None).await.unwrap(), new);
}

#[tokio::test]
async fn what_is_refused_says_why_and_leaves_the_connection() {
    let memory = Memory::with("a", &pattern(100));
    let mut serving = InMemory::default();
    // One connection: what follows a refusal goes over the same one.
    let client = serving.client(&memory, limits(64)).await;
    assert_refused(client.about(&name("b"), None).await, RefusedBecause::Missing);
    assert_refused(client.about(&name("a"), Some(99)).await, RefusedBecause::Missing);
    let once = NewTensor { if_exists: IfExists::Fail, ..new_tensor("a", 8) };
    assert_refused(client.write(once, chunks(&pattern(8), 8)).await, RefusedBecause::Exists);
    assert_refused(client.read_all(&name("a"), None, 99).await, RefusedBecause::Invalid);
    *memory.knobs.room.lock().unwrap() = Some(50);
    assert_refused(client.write(new_tensor("c", 51), chunks(&pattern(51), 8)).await, RefusedBecause::Full);
    client.write(new_tensor("a", 8), chunks(&pattern(8), 8)).await.unwrap();
    assert_eq!(memory.get("a").unwrap().bytes, pattern(8));
}

#[tokio::test]
async fn a_range_past_the_end_is_refused() {
    let memory = Memory::with("a", &pattern(100));
    let listening = Listening::start(&memory).await;
    for range in [0..101, 101..u64::MAX, 101..102] {
        let client = listening.client(64).await;
        let (before, error) = collect(client.read(&name("a"), None, range.clone()), 0).await.unwrap_err();
        assert_eq!(before, 0);
        assert_refused::<()>(Err(error), RefusedBecause::Invalid);
    }
}

#[tokio::test]
async fn a_shape_that_cannot_be_counted_or_said_is_refused() {
    let memory = Memory::new();
    let listening = Listening::start(&memory).await;
    let client = listening.client(64).await;
    let shaped = |shape| NewTensor { shape, ..new_tensor("a", 0) };
    let uncountable = TensorShape { shape: vec![usize::MAX, 2], ..TensorShape::of_bytes(0) };
    assert_refused(client.write(shaped(uncountable), chunks(&Bytes::new(), 1)).await, RefusedBecause::Invalid);
    let unspeakable = TensorShape { shape: vec![1; 100_000], ..TensorShape::of_bytes(0) };
    assert_refused(client.write(shaped(unspeakable), chunks(&pattern(1), 1)).await, RefusedBecause::Invalid);
}

#[tokio::test]
async fn an_order_to_fetch_gives_the_copy_that_is_there_then() {
    let memory = Memory::with("a", &pattern(100));
    let listening = Listening::start(&memory).await;
    let client = listening.client(64).await;
    let from = client.about(&name("a"), None).await.unwrap();
    let fetched = client.fetch(FetchOrder { from, timeout_ms: 1_000 }).await.unwrap();
    assert_eq!(fetched, memory.get("a").unwrap().record);
}

#[tokio::test]
async fn one_connection_carries_one_operation_at_a_time() {
    let memory = Memory::with("a", &pattern(10_000));
    let mut serving = InMemory::default();
    let client = serving.client(&memory, limits(64)).await;
    let mut pieces = client.read(&name("a"), None, 0..u64::MAX);
    pieces.next().await.unwrap().unwrap();
    let error = client.about(&name("a"), None).await.unwrap_err();
    assert!(matches!(error, LinkError::Away { .. }), "{error:?}");
    // Once it is read to its end, the connection is free again.
    while pieces.next().await.is_some() {}
    client.about(&name("a"), None).await.unwrap();
    assert_eq!(Arc::strong_count(&memory.get("a").unwrap()), 2, "nobody reads it any more");
}
