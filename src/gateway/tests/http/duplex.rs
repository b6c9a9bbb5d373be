//! A client that reads its answer while it still sends its request.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::fleet::Fleet;

/// Longest wait for anything. Generous: it bounds a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that is sent in chunks, and its answer.
pub struct Duplex {
    stream: TcpStream,
    /// What came and is not read as chunks yet.
    raw: Vec<u8>,
    /// What the chunks held and is not read as lines yet.
    text: Vec<u8>,
    head: Option<String>,
    ended: bool,
}

impl Duplex {
    /// Sends the head of a bulk request, with these headers besides.
    pub async fn open(fleet: &Fleet, headers: &[&str]) -> Self {
        let mut stream = TcpStream::connect(fleet.url.strip_prefix("http://").expect("a URL")).await.expect("a connection");
        let usual =
            ["POST /api/v1/tasks:bulk HTTP/1.1", "host: gateway", "content-type: application/x-ndjson", "transfer-encoding: chunked"];
        let head = [&usual[..], headers].concat().join("\r\n");
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.expect("sent");
        Self { stream, raw: Vec::new(), text: Vec::new(), head: None, ended: false }
    }

    /// Sends a piece of the body.
    pub async fn send(&mut self, piece: &str) {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        timeout(PATIENCE, self.stream.write_all(chunk.as_bytes())).await.expect("it is taken").expect("sent");
    }

    /// Ends the body.
    pub async fn end(&mut self) {
        self.stream.write_all(b"0\r\n\r\n").await.expect("sent");
    }

    /// The head of the answer.
    pub async fn head(&mut self) -> String {
        while self.head.is_none() {
            self.read().await;
            if let Some(end) = self.raw.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.raw.split_off(end + 4);
                let head = std::mem::replace(&mut self.raw, rest);
                self.head = Some(String::from_utf8(head).expect("text"));
            }
        }
        self.head.clone().expect("it is there")
    }

    /// The next line of the answer; `None` at its end.
    pub async fn line(&mut self) -> Option<Value> {
        self.head().await;
        loop {
            self.unpack();
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            if self.ended {
                assert!(self.text.is_empty(), "half of a line");
                return None;
            }
            self.read().await;
        }
    }

    /// All lines up to the end.
    pub async fn rest(mut self) -> Vec<Value> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines
    }

    async fn read(&mut self) {
        let count = timeout(PATIENCE, self.stream.read_buf(&mut self.raw)).await.expect("an answer").expect("bytes");
        assert!(count > 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.raw));
    }

    /// Takes whole chunks out of what came.
    fn unpack(&mut self) {
        while !self.ended
            && let Some(end) = self.raw.windows(2).position(|two| two == b"\r\n")
        {
            let size = std::str::from_utf8(&self.raw[..end]).expect("text");
            let size = usize::from_str_radix(size, 16).expect("a size");
            let whole = end + 2 + size + 2;
            if self.raw.len() < whole {
                return;
            }
            self.text.extend_from_slice(&self.raw[end + 2..whole - 2]);
            self.raw.drain(..whole);
            self.ended = size == 0;
        }
    }
}
