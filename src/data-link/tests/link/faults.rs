//! What goes wrong on the way, and at its ends.

use std::{
    io,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use data_link::{Client, ClientLimits, Dialled, FetchOrder, LinkError, RefusedBecause, ServerLimits, Wire};
use futures::{StreamExt, stream};
use tokio::time::{Instant, timeout};

use super::{
    InMemory, KEY, Listening, assert_refused, chunks, collect, cutter::Cutter, limits, memory::Memory, name, new_tensor, pattern, port_at,
    until,
};

#[tokio::test(start_paused = true)]
async fn a_piece_that_does_not_come_whole_is_asked_for_again() {
    let whole = pattern(1_000);
    let memory = Memory::with("a", &whole);
    // The first piece, the second time it comes, one in the middle, and the last one.
    memory.knobs.corrupt.lock().unwrap().extend([0, 2, 9, 20]);
    let mut serving = InMemory::default();
    let client = serving.client(&memory, limits(64)).await;
    assert_eq!(collect(client.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap(), whole);
    assert!(memory.knobs.read.load(Ordering::SeqCst) > 20, "all that were to be corrupted were read");
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_never_comes_whole_ends_the_reading_and_no_byte_of_it_is_given() {
    let memory = Memory::with("a", &pattern(1_000));
    memory.knobs.corrupt.lock().unwrap().extend(2..100);
    let mut serving = InMemory::default();
    let client = serving.client(&memory, limits(64)).await;
    let (before, error) = collect(client.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap_err();
    assert_eq!(before, 128);
    assert!(matches!(error, LinkError::Corrupted { at: 128, tries: 3, .. }), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_reading_that_is_cut_off_goes_on_where_it_was() {
    let whole = pattern(100_000);
    let memory = Memory::with("a", &whole);
    let listening = Listening::start(&memory).await;
    let cutter = Cutter::start(&listening.port, vec![30_000, 700, 25_000, u64::MAX]).await;
    let client = cutter.client(1_024).await;
    assert_eq!(collect(client.read(&name("a"), None, 5..99_990), 5).await.unwrap(), whole[5..99_990]);
    assert_eq!(cutter.connections.load(Ordering::SeqCst), 4);
    let read = memory.knobs.read.load(Ordering::SeqCst);
    assert!(read < 98 + 4 * 8, "what had arrived is not read again, but {read} pieces were read");
}

#[tokio::test]
async fn a_reading_that_goes_on_reads_the_version_that_it_began_with_or_none() {
    let memory = Memory::with("a", &pattern(10_000));
    let listening = Listening::start(&memory).await;
    let cutter = Cutter::start(&listening.port, vec![3_000, u64::MAX]).await;
    let client = cutter.client(1_024).await;
    let mut pieces = client.read(&name("a"), None, 0..u64::MAX);
    pieces.next().await.unwrap().unwrap();
    memory.put(&new_tensor("a", 10_000), Bytes::from(vec![1; 10_000]));
    let mut outcome = Ok(());
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok((at, piece)) => assert_eq!(piece, pattern(10_000)[at as usize..][..piece.len()]),
            Err(error) => outcome = Err(error),
        }
    }
    assert_refused(outcome, RefusedBecause::Missing);
}

#[tokio::test]
async fn a_source_that_dies_ends_the_reading_after_a_few_tries() {
    let memory = Memory::with("a", &pattern(100_000));
    let listening = Listening::start(&memory).await;
    let cutter = Cutter::start(&listening.port, vec![30_000]).await;
    let client = cutter.client(1_024).await;
    let (before, error) = collect(client.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap_err();
    assert!(before > 10_000 && before < 30_000, "{before} bytes came");
    assert!(matches!(error, LinkError::Away { .. }), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn connections_that_never_carry_a_piece_are_given_up() {
    let memory = Memory::with("a", &pattern(100_000));
    let listening = Listening::start(&memory).await;
    // Long enough for the hello and the record, not for a piece.
    let cutter = Cutter::start(&listening.port, vec![2_000; 10]).await;
    let client = cutter.client(4_096).await;
    let (before, error) = collect(client.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap_err();
    assert_eq!(before, 0);
    assert!(matches!(error, LinkError::Broken { .. }), "{error:?}");
    assert_eq!(cutter.connections.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_stalls_is_noticed_in_time() {
    let memory = Memory::with("a", &pattern(1_000));
    memory.knobs.stall.lock().unwrap().insert(3);
    let mut serving = InMemory::default();
    let client = serving.client(&memory, limits(64)).await;
    let began = Instant::now();
    let (before, error) = collect(client.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap_err();
    assert_eq!((before, began.elapsed().as_secs()), (3 * 64, 5));
    assert!(matches!(error, LinkError::Stalled { .. }) && error.is_transient(), "{error:?}");
    // The other side notices that nobody waits any more.
    assert!(serving.ended().await.is_err());
}

#[tokio::test]
async fn a_source_that_fails_says_so() {
    let memory = Memory::with("a", &pattern(1_000));
    memory.knobs.fail.lock().unwrap().insert(3);
    let listening = Listening::start(&memory).await;
    let (before, error) = collect(listening.client(64).await.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap_err();
    assert_eq!(before, 3 * 64);
    assert!(error.is_transient());
    assert_refused::<()>(Err(error), RefusedBecause::Failed);
}

#[tokio::test]
async fn nobody_there_is_told_as_away() {
    let (listener, address) = data_link::DataServer::bind("127.0.0.1:0").await.unwrap();
    drop(listener);
    let error = Client::connect(&port_at(address), limits(64)).await.unwrap_err();
    assert!(matches!(error, LinkError::Away { .. }), "{error:?}");
    let no_address = protocol::DataPort { address: None, ..port_at(address) };
    assert!(matches!(Client::connect(&no_address, limits(64)).await, Err(LinkError::NoAddress)));
}

#[tokio::test]
async fn a_client_finds_the_port_again_after_it_was_started_anew() {
    let memory = Memory::with("a", &pattern(100));
    let listening = Listening::start_with(memory.clone(), ServerLimits { idle: Duration::from_millis(1), ..ServerLimits::default() }).await;
    let client = listening.client(64).await;
    // The connection is ended by the port while nobody uses it, before, in or after the look at it.
    for _ in 0..20 {
        client.about(&name("a"), None).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_writing_that_is_dropped_half_way_leaves_nothing() {
    let memory = Memory::new();
    let listening = Listening::start(&memory).await;
    let client = listening.client(64).await;
    let never_ends = stream::iter([Ok(pattern(640))]).chain(stream::pending()).boxed();
    let writing = client.write(new_tensor("a", 1_000), never_ends);
    tokio::select! {
        biased;
        written = writing => panic!("{written:?}"),
        () = until(|| memory.knobs.writings.load(Ordering::SeqCst) == 1) => {}
    }
    until(|| memory.knobs.writings.load(Ordering::SeqCst) == 0).await;
    assert!(memory.get("a").is_none());
}

#[tokio::test]
async fn a_writing_whose_bytes_cannot_be_had_leaves_nothing() {
    let memory = Memory::new();
    let listening = Listening::start(&memory).await;
    let client = listening.client(64).await;
    let lost = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
    let sources = [
        stream::iter([Ok(pattern(640)), lost()]).boxed(),
        stream::iter([Ok(pattern(640))]).boxed(),
        stream::iter([Ok(pattern(640)), Ok(pattern(640))]).boxed(),
    ];
    for source in sources {
        let error = client.write(new_tensor("a", 1_000), source).await.unwrap_err();
        assert!(matches!(error, LinkError::Source(_)), "{error:?}");
        until(|| memory.knobs.writings.load(Ordering::SeqCst) == 0).await;
    }
    assert!(memory.get("a").is_none());
}

#[tokio::test]
async fn a_target_that_becomes_full_ends_the_writing_at_once() {
    let memory = Memory::new();
    let listening = Listening::start(&memory).await;
    let client = listening.client(64).await;
    let (knobs, whole) = (memory.knobs.clone(), pattern(1_000_000));
    let shrinks = chunks(&whole, 64).enumerate().map(move |(turn, chunk)| {
        if turn == 10 {
            *knobs.room.lock().unwrap() = Some(700);
        }
        chunk
    });
    assert_refused(client.write(new_tensor("a", whole.len()), shrinks.boxed()).await, RefusedBecause::Full);
    assert!(memory.get("a").is_none());
}

#[tokio::test]
async fn a_fetch_ends_when_its_time_is_over_or_nobody_waits_for_it_any_more() {
    let memory = Memory::with("a", &pattern(8));
    *memory.knobs.fetch_hangs.lock().unwrap() = true;
    let listening = Listening::start(&memory).await;
    let client = listening.client(64).await;
    let from = client.about(&name("a"), None).await.unwrap();
    assert_refused(client.fetch(FetchOrder { from: from.clone(), timeout_ms: 1 }).await, RefusedBecause::Failed);
    let under_way = || memory.knobs.fetches.load(Ordering::SeqCst);
    assert_eq!(under_way(), 0);
    tokio::select! {
        biased;
        fetched = client.fetch(FetchOrder { from, timeout_ms: 1_000_000 }) => panic!("{fetched:?}"),
        () = until(|| under_way() == 1) => {}
    }
    until(|| under_way() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_is_dropped_ends_on_the_other_side_too() {
    let memory = Memory::with("a", &pattern(100_000));
    let mut serving = InMemory::default();
    let client = serving.client(&memory, limits(64)).await;
    let mut pieces = client.read(&name("a"), None, 0..u64::MAX);
    pieces.next().await.unwrap().unwrap();
    drop(pieces);
    // It may have been about to send something, or to wait for the next request.
    let _ = timeout(Duration::from_secs(1), serving.ended()).await.unwrap();
    assert_eq!(Arc::strong_count(&memory.get("a").unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_is_not_idle_while_bytes_travel() {
    let whole = pattern(10_000);
    let memory = Memory::with("a", &whole);
    let mut serving = InMemory::default();
    let quick = ServerLimits { idle: Duration::from_secs(2), ..ServerLimits::default() };
    let client = Client::over(serving.serve(&memory, quick), KEY, ClientLimits { piece_bytes: 2_048, ..ClientLimits::default() });
    let mut pieces = client.await.unwrap().read(&name("a"), None, 0..u64::MAX);
    let mut read = Vec::new();
    while let Some(piece) = pieces.next().await {
        read.extend_from_slice(&piece.unwrap().1);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    assert_eq!(read, whole);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_let_go_because_it_was_slow_goes_on_when_it_wants_more() {
    let whole = pattern(100_000);
    let memory = Memory::with("a", &whole);
    let (served, serving) = (memory.clone(), Arc::new(Mutex::new(InMemory::default())));
    let dialled = serving.clone();
    let dial = move || {
        let stream = dialled.lock().unwrap().serve(&served, ServerLimits::default());
        Box::pin(async move { Ok(Box::new(stream) as Box<dyn Wire>) }) as Dialled
    };
    let client = Client::dialling(dial, "memory", KEY, limits(10_000)).await.unwrap();
    let mut pieces = client.read(&name("a"), None, 0..u64::MAX);
    let mut read = Vec::new();
    while let Some(piece) = pieces.next().await {
        read.extend_from_slice(&piece.unwrap().1);
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    assert_eq!(read, whole);
    assert!(serving.lock().unwrap().0.len() > 3, "it was let go again and again");
}

#[tokio::test]
async fn what_a_client_does_can_be_done_in_any_thread() {
    fn may_move<T: Send>(it: T) -> T {
        it
    }
    let memory = Memory::with("a", &pattern(10));
    let listening = Listening::start(&memory).await;
    let client = may_move(Client::connect(&listening.port, limits(64))).await.unwrap();
    let record = may_move(client.about(&name("a"), None)).await.unwrap();
    may_move(client.read_all(&name("a"), None, 10)).await.unwrap();
    may_move(client.write(new_tensor("b", 10), chunks(&pattern(10), 3))).await.unwrap();
    may_move(client.fetch(FetchOrder { from: record, timeout_ms: 1_000 })).await.unwrap();
    may_move(client.free(&name("a"), None)).await.unwrap();
}
