//! A way to a port that cuts connections, as bad networks do.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use data_link::{Client, ClientLimits};
use protocol::DataPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::port_at;

/// Passes on what comes between clients and a port, and cuts every connection off after so many bytes to the client.
pub struct Cutter {
    pub port: DataPort,
    pub connections: Arc<AtomicUsize>,
    _passing: JoinSet<()>,
}

impl Cutter {
    /// `cut_after` says after how many bytes, for each connection in turn; those after the last are not let in at all.
    pub async fn start(to: &DataPort, cut_after: Vec<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = port_at(listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let mut passing = JoinSet::new();
        let (to, counted) = (to.address.clone().unwrap(), connections.clone());
        passing.spawn(async move {
            let mut pairs = JoinSet::new();
            for bytes in cut_after {
                let (client, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                pairs.spawn(pass(client, TcpStream::connect(&to).await.unwrap(), bytes));
            }
            drop(listener);
            while pairs.join_next().await.is_some() {}
        });
        Self { port, connections, _passing: passing }
    }

    pub async fn client(&self, piece_bytes: usize) -> Client {
        Client::connect(&self.port, ClientLimits { piece_bytes, ..ClientLimits::default() }).await.unwrap()
    }
}

async fn pass(client: TcpStream, server: TcpStream, bytes: u64) {
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let mut answers = from_server.take(bytes);
    tokio::select! {
        _ = copy(&mut answers, &mut to_client) => {}
        _ = copy(&mut from_client, &mut to_server) => {}
    }
    // Both ends close with that.
    let _ = to_client.shutdown().await;
}
