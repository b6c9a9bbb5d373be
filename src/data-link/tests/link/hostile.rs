//! Who does not keep to the protocol: bytes of strangers, and lies, on both sides.

use bytes::{BufMut, BytesMut};
use data_link::{Client, LinkError, ServerLimits};
use protocol::Checksum;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinSet,
};

use super::{InMemory, KEY, collect, limits, memory::Memory, name, new_tensor, pattern};

pub fn frame(header: &Value, raw: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let mut frame = BytesMut::new();
    frame.put_u32(header.len() as u32);
    frame.put_slice(header.as_bytes());
    frame.put_slice(raw);
    frame.to_vec()
}

pub fn hello(key: &str) -> Vec<u8> {
    frame(&json!({"hello": {"protocol": "gpufleet-data", "version": 1, "key": key}}), &[])
}

/// The headers that come, to the end; nothing with raw bytes may be among them.
async fn headers(mut stream: impl AsyncRead + Unpin) -> Vec<Value> {
    let mut headers = Vec::new();
    while let Ok(length) = stream.read_u32().await {
        let mut header = vec![0; length as usize];
        stream.read_exact(&mut header).await.unwrap();
        headers.push(serde_json::from_slice(&header).unwrap());
    }
    headers
}

/// What a port says to these bytes, when nothing follows them.
async fn said_to(memory: &std::sync::Arc<Memory>, bytes: &[u8]) -> Vec<Value> {
    let mut serving = InMemory::default();
    let (answers, mut requests) = tokio::io::split(serving.serve(memory, ServerLimits::default()));
    let bytes = bytes.to_vec();
    let mut saying = JoinSet::new();
    // Not closed: the port has to end it.
    saying.spawn(async move {
        let _ = requests.write_all(&bytes).await;
        std::future::pending::<()>().await;
    });
    let said = headers(answers).await;
    drop(saying);
    assert!(serving.ended().await.is_err(), "{said:?}");
    said
}

#[tokio::test(start_paused = true)]
async fn bytes_of_strangers_are_refused_and_the_connection_ends() {
    let memory = Memory::with("a", &pattern(100));
    let strangers: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\nhost: here\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7, 7, 7, 7]),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("an empty header", vec![0; 64]),
        ("a header that is too long", vec![0xff; 64]),
        ("a hello that is too long", hello(&"k".repeat(2_000))),
        ("no JSON", [&[0, 0, 0, 4][..], b"helo"].concat()),
        ("another protocol", frame(&json!({"hello": {"protocol": "other", "version": 1, "key": KEY}}), &[])),
        ("a request before the hello", frame(&json!({"about": {"name": "a"}}), &[])),
        ("a hello without a key", frame(&json!({"hello": {"protocol": "gpufleet-data", "version": 1}}), &[])),
    ];
    for (who, bytes) in strangers {
        let said = said_to(&memory, &bytes).await;
        assert_eq!(said.len(), 1, "{who}: {said:?}");
        assert_eq!(said[0]["refused"]["because"], "not_allowed", "{who}");
    }
    let other_version = frame(&json!({"hello": {"protocol": "gpufleet-data", "version": 2, "key": KEY}}), &[]);
    assert_eq!(said_to(&memory, &other_version).await[0]["refused"]["because"], "unsupported");
}

#[tokio::test(start_paused = true)]
async fn lies_of_a_client_end_the_connection_and_leave_nothing() {
    let memory = Memory::with("a", &pattern(100));
    let write = frame(&json!({"write": new_tensor("b", 20)}), &[]);
    let piece = |at: u64, bytes: u64, raw: &[u8]| {
        let checksum = if at.is_multiple_of(8) { Checksum::of(raw, at) } else { Checksum(0) };
        frame(&json!({"piece": {"at": at, "bytes": bytes, "checksum": checksum}}), raw)
    };
    let after_write = |frames: &[Vec<u8>]| [write.clone(), frames.concat()].concat();
    let whole = piece(0, 20, &pattern(20));
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("no request", frame(&json!({"sing": {}}), &[])),
        ("a second hello", hello(KEY)),
        ("a piece outside a writing", whole.clone()),
        ("a name that is none", frame(&json!({"about": {"name": "a b/c"}}), &[])),
        ("a header that is too long", vec![0, 2, 0, 0, b'"']),
        ("a request within a writing", after_write(&[frame(&json!("close"), &[])])),
        ("a piece past the end", after_write(&[piece(0, 24, &pattern(24))])),
        ("a piece without bytes", after_write(&[piece(0, 0, &[])])),
        ("a piece that is too long", after_write(&[piece(0, u64::MAX, &[])])),
        ("a piece of a part of a word", after_write(&[piece(0, 3, &pattern(3))])),
        ("a gap", after_write(&[piece(8, 12, &pattern(12))])),
        ("a piece twice", after_write(&[piece(0, 8, &pattern(8)), piece(0, 8, &pattern(8))])),
        ("a piece between words", after_write(&[piece(4, 16, &pattern(16))])),
        ("an end too early", after_write(&[piece(0, 8, &pattern(8)), frame(&json!({"end": {"checksum": 0}}), &[])])),
        ("an end with another sum", after_write(&[whole, frame(&json!({"end": {"checksum": 7}}), &[])])),
    ];
    for (what, bytes) in lies {
        let said = said_to(&memory, &[hello(KEY), bytes].concat()).await;
        let last = &said[said.len() - 1]["refused"]["because"];
        assert!(last == "invalid" || last == "failed", "{what}: {said:?}");
        assert!(memory.get("b").is_none(), "{what}");
        assert_eq!(memory.knobs.writings.load(std::sync::atomic::Ordering::SeqCst), 0, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_a_client_spoils_is_asked_for_again_and_then_refused() {
    let memory = Memory::new();
    let spoilt = frame(&json!({"piece": {"at": 0, "bytes": 8, "checksum": 1}}), &pattern(8));
    let late = frame(&json!({"piece": {"at": 8, "bytes": 8, "checksum": Checksum::of(&pattern(16)[8..], 8)}}), &pattern(16)[8..]);
    let write = frame(&json!({"write": new_tensor("b", 16)}), &[]);
    let said =
        said_to(&memory, &[hello(KEY), write.clone(), spoilt.clone(), late.clone(), spoilt.clone(), late.clone(), spoilt].concat()).await;
    assert_eq!(said[2..4], [json!({"again": {"at": 0}}), json!({"again": {"at": 0}})]);
    assert_eq!(said[4]["refused"]["because"], "failed");
    assert!(memory.get("b").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_is_spoilt_on_the_way_is_written_again() {
    let memory = Memory::new();
    let (client_side, way) = tokio::io::duplex(4_096);
    let mut serving = InMemory::default();
    let port_side = serving.serve(&memory, ServerLimits::default());
    let mut passing = JoinSet::new();
    passing.spawn(spoil(way, port_side));
    let client = Client::over(client_side, KEY, limits(64)).await.unwrap();
    let whole = pattern(1_000);
    client.write(new_tensor("a", 1_000), super::chunks(&whole, 100)).await.unwrap();
    assert_eq!(memory.get("a").unwrap().bytes, whole);
}

/// Changes the last byte of the 3rd, 7th and 8th frame with bytes that pass to the port.
async fn spoil(client: DuplexStream, port: DuplexStream) {
    let (mut requests, mut to_client) = tokio::io::split(client);
    let (mut answers, mut to_port) = tokio::io::split(port);
    let spoil = async {
        let mut pieces = 0;
        while let Ok(length) = requests.read_u32().await {
            let mut header = vec![0; length as usize];
            requests.read_exact(&mut header).await.unwrap();
            let said: Value = serde_json::from_slice(&header).unwrap();
            let mut raw = vec![0; said["piece"]["bytes"].as_u64().unwrap_or(0) as usize];
            requests.read_exact(&mut raw).await.unwrap();
            if let Some(last) = raw.last_mut() {
                pieces += 1;
                *last ^= u8::from([3, 7, 8].contains(&pieces));
            }
            to_port.write_all(&frame(&said, &raw)).await.unwrap();
        }
    };
    let (_, passed) = tokio::join!(spoil, async { tokio::io::copy(&mut answers, &mut to_client).await });
    drop(passed);
}

/// A client of a port that answers one request after the other with these bytes, whatever is asked.
async fn against(answers: Vec<Vec<u8>>) -> Result<Client, LinkError> {
    let (client_side, mut port_side) = tokio::io::duplex(1 << 20);
    // It ends with the test.
    tokio::spawn(async move {
        for answer in answers {
            let length = port_side.read_u32().await.unwrap();
            port_side.read_exact(&mut vec![0; length as usize]).await.unwrap();
            port_side.write_all(&answer).await.unwrap();
        }
        let _ = port_side.read_to_end(&mut Vec::new()).await;
    });
    Client::over(client_side, KEY, limits(64)).await
}

#[tokio::test(start_paused = true)]
async fn a_client_believes_no_port_that_does_not_keep_to_the_protocol() {
    let no_ports: Vec<Vec<u8>> = vec![
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        frame(&json!({"welcome": {"version": 2}}), &[]),
        frame(&json!("ready"), &[]),
        frame(&json!({"welcome": []}), &[]),
        vec![0; 16],
    ];
    for answers in no_ports {
        let error = against(vec![answers]).await.unwrap_err();
        assert!(matches!(error, LinkError::Garbled { .. }) && !error.is_transient(), "{error:?}");
    }
    let welcome = frame(&json!({"welcome": {"version": 1}}), &[]);
    let record = Memory::with("a", &pattern(100)).get("a").unwrap().record.clone();
    let opened = frame(&json!({"record": record}), &[]);
    let piece = |at: u64, bytes: u64| frame(&json!({"piece": {"at": at, "bytes": bytes, "checksum": 0}}), &pattern(64));
    let other = frame(&json!({"record": Memory::with("other", &pattern(100)).get("other").unwrap().record}), &[]);
    for lies in [piece(0, 36), piece(8, 64), piece(0, u64::MAX), piece(0, 0), frame(&json!("ready"), &[]), opened.clone()] {
        let client = against(vec![welcome.clone(), opened.clone(), lies]).await.unwrap();
        let (_, error) = collect(client.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap_err();
        assert!(matches!(error, LinkError::Garbled { .. }), "{error:?}");
    }
    let client = against(vec![welcome.clone(), other]).await.unwrap();
    let (_, error) = collect(client.read(&name("a"), None, 0..u64::MAX), 0).await.unwrap_err();
    assert!(matches!(error, LinkError::Garbled { .. }), "{error:?}");
    let client = against(vec![welcome, frame(&json!({"freed": true}), &[])]).await.unwrap();
    assert!(matches!(client.about(&name("a"), None).await, Err(LinkError::Garbled { .. })));
}
