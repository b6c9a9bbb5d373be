//! Cases of bytes that are written to a connection of the gateway: how the connection ends is what counts.

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    message::Hex,
    stage::{Stage, limit},
};

/// So that no test waits for the default, ten seconds.
const QUICK: [&str; 2] = ["--set", "gateway.head_timeout_ms=1000"];

/// A case of a connection.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionCase {
    /// What went wrong, for people.
    pub about: String,
    http: Written,
    expect: Expect,
}

/// What is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    raw_hex: Hex,
    then: Afterwards,
}

/// What is written afterwards.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Afterwards {
    /// Nothing more, and the connection stays open on this side.
    Silence,
}

/// What should come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    connection_ends_within_ms: u64,
}

impl ConnectionCase {
    /// What differs, at a gateway with a short patience.
    pub async fn run(&self) -> Vec<String> {
        let stage = Stage::apart(&[], &QUICK).await;
        stage.with_log(self.play(&stage).await)
    }

    async fn play(&self, stage: &Stage) -> Vec<String> {
        let address = stage.url.strip_prefix("http://").expect("the gateway's URL");
        let mut stream = TcpStream::connect(address).await.expect("the gateway listens");
        stream.write_all(self.http.raw_hex.bytes()).await.expect("written");
        let Afterwards::Silence = self.http.then;
        let limit = limit(Some(self.expect.connection_ends_within_ms));
        let ends = async {
            let mut answer = [0; 4_096];
            while matches!(stream.read(&mut answer).await, Ok(count) if count > 0) {}
        };
        match timeout(limit, ends).await {
            Ok(()) => Vec::new(),
            Err(_) => vec![format!("the connection is still open after {limit:?}")],
        }
    }
}
