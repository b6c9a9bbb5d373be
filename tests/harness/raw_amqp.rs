//! A publisher that sends any bytes as a message's properties: what no client library would write.

use std::collections::BTreeMap;

use lapin::uri::AMQPUri;
use protocol::{config::SecretUrl, envelope::HeaderValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;
const BASIC_ACK: [u8; 4] = [0, 60, 0, 80];

/// Properties by the bit of their flag: 15 is `content_type`, 13 the headers, 5 `type`, …
#[derive(Debug, Clone, Default)]
pub struct RawProperties {
    parts: BTreeMap<u8, Vec<u8>>,
}

impl RawProperties {
    /// The bit of `content_type`.
    pub const CONTENT_TYPE: u8 = 15;
    /// The bit of `content_encoding`.
    pub const CONTENT_ENCODING: u8 = 14;
    /// The bit of the headers.
    pub const HEADERS: u8 = 13;
    /// The bit of `priority`.
    pub const PRIORITY: u8 = 11;
    /// The bit of `correlation_id`.
    pub const CORRELATION_ID: u8 = 10;
    /// The bit of `reply_to`.
    pub const REPLY_TO: u8 = 9;
    /// The bit of `expiration`.
    pub const EXPIRATION: u8 = 8;
    /// The bit of `message_id`.
    pub const MESSAGE_ID: u8 = 7;
    /// The bit of `type`.
    pub const TYPE: u8 = 5;
    /// The bit of `app_id`.
    pub const APP_ID: u8 = 3;

    /// The message id and kind that a good task has.
    #[must_use]
    pub fn task(message_id: &str, kind: &str) -> Self {
        Self::default().text(Self::MESSAGE_ID, message_id.as_bytes()).text(Self::TYPE, kind.as_bytes())
    }

    /// Sets a short text, whatever its bytes.
    #[must_use]
    pub fn text(mut self, bit: u8, text: &[u8]) -> Self {
        self.parts.insert(bit, short(text));
        self
    }

    /// Sets a property of one byte.
    #[must_use]
    pub fn octet(mut self, bit: u8, value: u8) -> Self {
        self.parts.insert(bit, vec![value]);
        self
    }

    /// Sets the headers: the entries of a table.
    #[must_use]
    pub fn headers(mut self, entries: &[u8]) -> Self {
        self.parts.insert(Self::HEADERS, long(entries));
        self
    }

    /// The bytes that stand in a header frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let flags = self.parts.keys().fold(0_u16, |flags, bit| flags | 1 << bit);
        let mut bytes = flags.to_be_bytes().to_vec();
        self.parts.values().rev().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }
}

/// A text with its length in one byte.
#[must_use]
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text].concat()
}

/// Bytes with their length in four.
#[must_use]
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("fits").to_be_bytes(), bytes].concat()
}

/// An entry of a table.
#[must_use]
pub fn entry(name: &str, value: &HeaderValue) -> Vec<u8> {
    let value = match value {
        HeaderValue::Text(text) => [b"S", &long(text.as_bytes())[..]].concat(),
        HeaderValue::Integer(number) => [b"l", &number.to_be_bytes()[..]].concat(),
        HeaderValue::Bool(truth) => vec![b't', u8::from(*truth)],
        HeaderValue::Bytes(bytes) => [b"x", &long(bytes)[..]].concat(),
        HeaderValue::Other => vec![b'V'],
    };
    [short(name.as_bytes()), value].concat()
}

/// An entry of a table whose value is tables within tables, `depth` of them.
#[must_use]
pub fn nested(depth: usize) -> Vec<u8> {
    let mut inner = Vec::new();
    for _ in 0..depth {
        inner = [short(b"n"), vec![b'F'], long(&inner)].concat();
    }
    inner
}

/// A connection with one channel in confirm mode.
#[derive(Debug)]
pub struct RawPublisher {
    stream: TcpStream,
    frame_max: usize,
}

impl RawPublisher {
    /// Connects and opens a channel.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn connect(url: &SecretUrl) -> Self {
        let uri: AMQPUri = url.reveal().parse().expect("an AMQP URL");
        let stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await.expect("the server listens");
        // Three small writes make a message: without this each waits for the one before to be acknowledged.
        stream.set_nodelay(true).expect("a socket");
        let mut publisher = Self { stream, frame_max: 4_096 };
        publisher.stream.write_all(b"AMQP\0\0\x09\x01").await.expect("written");
        publisher.expect([0, 10, 0, 10]).await;
        let user = &uri.authority.userinfo;
        let login = format!("\0{}\0{}", user.username, user.password);
        let start_ok = [long(&[]), short(b"PLAIN"), long(login.as_bytes()), short(b"en_US")].concat();
        publisher.method(0, [0, 10, 0, 11], &start_ok).await;
        let tune = publisher.expect([0, 10, 0, 30]).await;
        publisher.frame_max = u32::from_be_bytes(*tune[2..].first_chunk().expect("a bound")) as usize;
        publisher.method(0, [0, 10, 0, 31], &[&tune[..6], &[0, 0]].concat()).await;
        publisher.method(0, [0, 10, 0, 40], &[short(uri.vhost.as_bytes()), short(b""), vec![0]].concat()).await;
        publisher.expect([0, 10, 0, 41]).await;
        publisher.method(1, [0, 20, 0, 10], &short(b"")).await;
        publisher.expect([0, 20, 0, 11]).await;
        publisher.method(1, [0, 85, 0, 10], &[0]).await;
        publisher.expect([0, 85, 0, 11]).await;
        publisher
    }

    /// Publishes to a queue and waits for the broker's confirm.
    ///
    /// # Panics
    /// If the server does not take the message.
    pub async fn publish(&mut self, queue: &str, properties: &RawProperties, body: &[u8]) {
        self.publish_to(b"", queue.as_bytes(), properties, body).await;
    }

    /// Publishes to an exchange under any routing key and waits for the broker's confirm.
    ///
    /// # Panics
    /// If the server does not take the message, or nothing is bound to the exchange.
    pub async fn publish_to(&mut self, exchange: &[u8], routing_key: &[u8], properties: &RawProperties, body: &[u8]) {
        let mandatory = 1;
        self.method(1, [0, 60, 0, 40], &[vec![0, 0], short(exchange), short(routing_key), vec![mandatory]].concat()).await;
        let header = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes(), &properties.bytes()].concat();
        self.frame(HEADER, 1, &header).await;
        for piece in body.chunks(self.frame_max - 8) {
            self.frame(BODY, 1, piece).await;
        }
        self.expect(BASIC_ACK).await;
    }

    async fn method(&mut self, channel: u16, number: [u8; 4], arguments: &[u8]) {
        self.frame(METHOD, channel, &[&number, arguments].concat()).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind][..], &channel.to_be_bytes(), &long(payload), &[END]].concat();
        self.stream.write_all(&frame).await.expect("the server reads");
    }

    /// The arguments of the next method, which must be this one.
    async fn expect(&mut self, number: [u8; 4]) -> Vec<u8> {
        loop {
            let mut before = [0; 7];
            self.stream.read_exact(&mut before).await.expect("the server answers");
            let length = u32::from_be_bytes(*before.last_chunk().expect("a length")) as usize;
            let mut payload = vec![0; length + 1];
            self.stream.read_exact(&mut payload).await.expect("a whole frame");
            if before[0] == HEARTBEAT {
                continue;
            }
            assert!(payload.starts_with(&number), "the server says {:?}", String::from_utf8_lossy(&payload));
            return payload[4..length].to_vec();
        }
    }
}
