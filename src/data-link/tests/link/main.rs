//! The data port and its client against each other, over TCP and over streams in memory, with tensors that are in memory and faults that are asked for.

#![expect(clippy::unwrap_used, reason = "helpers of tests; their unwraps are a test's")]

mod cutter;
mod faults;
mod hostile;
mod limits;
mod memory;
mod round_trips;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use data_link::{Client, ClientLimits, DataServer, LinkError, NewTensor, RefusedBecause, Served, ServerLimits, serve_stream};
use futures::{StreamExt, stream, stream::BoxStream};
use memory::Memory;
use protocol::{DataPort, IfExists, TensorName, TensorShape};
use tokio::{io::DuplexStream, task::JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

const KEY: &str = "the key of the test";

fn name(name: &str) -> TensorName {
    TensorName::new(name).unwrap()
}

fn port_at(address: impl ToString) -> DataPort {
    DataPort { address: Some(address.to_string()), socket: None, system: "test".to_owned(), key: KEY.to_owned() }
}

fn limits(piece_bytes: usize) -> ClientLimits {
    ClientLimits { piece_bytes, ..ClientLimits::default() }
}

/// Bytes that differ everywhere.
fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at.wrapping_mul(131) >> 3) as u8 ^ at as u8).collect::<Vec<u8>>().into()
}

fn new_tensor(of: &str, bytes: usize) -> NewTensor {
    NewTensor {
        name: name(of),
        shape: TensorShape::of_bytes(bytes),
        owner: "test".to_owned(),
        ttl_ms: None,
        if_exists: IfExists::default(),
    }
}

fn chunks(bytes: &Bytes, length: usize) -> BoxStream<'static, std::io::Result<Bytes>> {
    let chunks: Vec<_> = (0..bytes.len()).step_by(length).map(|at| Ok(bytes.slice(at..bytes.len().min(at + length)))).collect();
    stream::iter(chunks).boxed()
}

/// A port that listens, until it is dropped.
struct Listening {
    port: DataPort,
    _stop: DropGuard,
    _serving: JoinSet<()>,
}

impl Listening {
    async fn start(served: &Arc<Memory>) -> Self {
        Self::start_with(served.clone(), ServerLimits::default()).await
    }

    async fn start_with(served: Arc<dyn Served>, limits: ServerLimits) -> Self {
        let (server, address) = DataServer::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(server.with_limits(limits).serve(served, KEY.to_owned(), stop.clone()));
        Self { port: port_at(address), _stop: stop.drop_guard(), _serving: serving }
    }

    async fn client(&self, piece_bytes: usize) -> Client {
        Client::connect(&self.port, limits(piece_bytes)).await.unwrap()
    }
}

/// Serves streams in memory, until it is dropped.
#[derive(Default)]
struct InMemory(JoinSet<Result<(), LinkError>>);

impl InMemory {
    fn serve(&mut self, served: &Arc<Memory>, limits: ServerLimits) -> DuplexStream {
        let (here, there) = tokio::io::duplex(4_096);
        let served = served.clone();
        self.0.spawn(async move { serve_stream(there, served, KEY, limits).await });
        here
    }

    async fn client(&mut self, served: &Arc<Memory>, limits: ClientLimits) -> Client {
        Client::over(self.serve(served, ServerLimits::default()), KEY, limits).await.unwrap()
    }

    /// How the only connection ended.
    async fn ended(&mut self) -> Result<(), LinkError> {
        self.0.join_next().await.unwrap().unwrap()
    }
}

/// All of a reading, or its error and how many bytes came before it.
async fn collect(mut pieces: BoxStream<'static, Result<(u64, Bytes), LinkError>>, from: u64) -> Result<Vec<u8>, (usize, LinkError)> {
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok((at, piece)) => {
                assert_eq!(at, from + whole.len() as u64, "pieces come in order, without gaps");
                assert!(!piece.is_empty());
                whole.extend_from_slice(&piece);
            }
            Err(error) => {
                assert!(pieces.next().await.is_none(), "after an error nothing follows");
                return Err((whole.len(), error));
            }
        }
    }
    Ok(whole)
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, LinkError>, because: RefusedBecause) {
    let error = outcome.unwrap_err();
    assert_eq!(error.refused().map(|refused| refused.because), Some(because), "{error:?}");
}

/// Until something is so, by letting others run. The test runner's own time limit bounds it.
async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
