//! What a port grants, and to whom.

use std::time::Duration;

use data_link::{Client, LinkError, RefusedBecause, ServerLimits};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{InMemory, KEY, Listening, assert_refused, collect, limits, memory::Memory, name, pattern};

#[tokio::test]
async fn nobody_gets_in_with_a_wrong_key() {
    let memory = Memory::with("a", &pattern(100));
    let listening = Listening::start(&memory).await;
    for key in ["", "the key of the tesT", "the key of the tes", "the key of the test "] {
        let port = protocol::DataPort { key: key.to_owned(), ..listening.port.clone() };
        assert_refused(Client::connect(&port, limits(64)).await, RefusedBecause::NotAllowed);
    }
    let mut serving = InMemory::default();
    let stream = serving.serve(&memory, ServerLimits::default());
    assert_refused(Client::over(stream, "wrong", limits(64)).await, RefusedBecause::NotAllowed);
    assert!(serving.ended().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_let_go_after_a_while() {
    let memory = Memory::with("a", &pattern(100));
    let mut serving = InMemory::default();
    let mut stream = serving.serve(&memory, ServerLimits::default());
    let began = Instant::now();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 5);

    let client = serving.client(&memory, limits(64)).await;
    assert!(serving.ended().await.is_err());
    let began = Instant::now();
    assert!(matches!(serving.ended().await, Err(LinkError::Stalled { .. })));
    assert!((60..=120).contains(&began.elapsed().as_secs()));
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_what_he_asked_for_is_let_go_after_a_while() {
    let memory = Memory::with("a", &pattern(1_000_000));
    let mut serving = InMemory::default();
    let client = serving.client(&memory, limits(100_000)).await;
    let mut pieces = client.read(&name("a"), None, 0..u64::MAX);
    pieces.next().await.unwrap().unwrap();
    let began = Instant::now();
    assert!(matches!(serving.ended().await, Err(LinkError::Stalled { .. })));
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_slow_client_holds_up_nobody_else() {
    let whole = pattern(30 << 20);
    let memory = Memory::with("a", &whole);
    let listening = Listening::start(&memory).await;
    let slow = listening.client(4 << 20).await;
    let mut slowly = slow.read(&name("a"), None, 0..u64::MAX);
    slowly.next().await.unwrap().unwrap();
    // Nothing more is taken of it, until others have read the whole, some of them with the same client.
    for client in [listening.client(4 << 20).await, slow] {
        assert!(client.read_all(&name("a"), None, whole.len()).await.unwrap() == whole);
    }
    assert!(collect(slowly, 4 << 20).await.unwrap() == whole[4 << 20..]);
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_the_others_stay() {
    let memory = Memory::with("a", &pattern(100));
    let listening = Listening::start_with(memory, ServerLimits { connections: 2, ..ServerLimits::default() }).await;
    let (one, other) = (listening.client(64).await, listening.client(64).await);
    for _ in 0..5 {
        let error = Client::connect(&listening.port, limits(64)).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    one.about(&name("a"), None).await.unwrap();
    drop(other);
    // Where one went there is room for one.
    while Client::connect(&listening.port, limits(64)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn strangers_that_say_nothing_take_no_connection_from_those_who_have_the_key() {
    let memory = Memory::with("a", &pattern(100));
    let listening = Listening::start_with(memory, ServerLimits { connections: 2, ..ServerLimits::default() }).await;
    let stranger = || TcpStream::connect(listening.port.address.as_deref().unwrap());
    let _strangers = (stranger().await.unwrap(), stranger().await.unwrap());
    let _others = (listening.client(64).await, listening.client(64).await);
}

#[tokio::test]
async fn a_port_that_stops_cuts_everybody_off() {
    let memory = Memory::with("a", &pattern(10_000));
    let listening = Listening::start(&memory).await;
    let mut stream = TcpStream::connect(listening.port.address.as_deref().unwrap()).await.unwrap();
    stream.write_all(&super::hostile::hello(KEY)).await.unwrap();
    stream.read_u32().await.unwrap();
    drop(listening);
    // Whether it is closed or reset.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    drop(stream);
    assert_eq!(std::sync::Arc::strong_count(&memory), 1);
}
