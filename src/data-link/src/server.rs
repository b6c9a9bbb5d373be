//! The data port.

mod session;
mod writing;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{LinkError, Served, Wire};

/// How long nobody is let in after that failed: the process has no file descriptor left, say.
const PAUSE: Duration = Duration::from_millis(100);

/// What a data port grants those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Most connections at once of those who gave the key; further ones are refused. Each holds two pieces of at most 16 MiB at a time. As many again may be about to give it.
    pub connections: usize,
    /// For who connects to give the key.
    pub hello: Duration,
    /// For the next request, or the next piece of a writing. Twice as long at most where an answer was still leaving meanwhile.
    pub idle: Duration,
    /// For the next byte of what has begun to travel.
    pub stall: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { connections: 64, hello: Duration::from_secs(5), idle: Duration::from_secs(60), stall: Duration::from_secs(10) }
    }
}

/// A data port that listens at a TCP address.
#[derive(Debug)]
pub struct DataServer {
    listener: TcpListener,
    limits: ServerLimits,
}

impl DataServer {
    /// Listens, at `host:port`; the address that it has then. With port 0 the system chooses.
    ///
    /// # Errors
    /// [`LinkError::Listen`].
    pub async fn bind(listen: &str) -> Result<(Self, SocketAddr), LinkError> {
        let cannot = |source: io::Error| LinkError::Listen { address: listen.to_owned(), source };
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok((Self { listener, limits: ServerLimits::default() }, address))
    }

    /// With other limits than the usual.
    #[must_use]
    pub fn with_limits(self, limits: ServerLimits) -> Self {
        Self { limits, ..self }
    }

    /// Serves those who give `key`, until `stop`: then every connection is cut, and what was being written is dropped. Dropping it does the same.
    pub async fn serve(self, served: Arc<dyn Served>, key: String, stop: CancellationToken) {
        let connections_max = self.limits.connections.saturating_mul(2);
        let port = Arc::new(Port::new(served, &key, self.limits));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => log_panic(ended),
                accepted = self.accept() => match accepted {
                    Some((_, peer)) if connections.len() >= connections_max => {
                        tracing::warn!(%peer, connections = connections.len(), "the data port has no connection left for one more");
                    }
                    Some((stream, peer)) => {
                        connections.spawn(converse(stream, peer, port.clone()));
                    }
                    None => {}
                },
            }
        }
        connections.shutdown().await;
    }

    async fn accept(&self) -> Option<(TcpStream, SocketAddr)> {
        match self.listener.accept().await {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                tracing::warn!(%error, "cannot let anybody in at the data port; trying again");
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }
}

/// What all connections of a port have in common.
struct Port {
    served: Arc<dyn Served>,
    key: String,
    limits: ServerLimits,
    /// One permit for each connection of those who gave the key.
    room: Semaphore,
}

impl Port {
    fn new(served: Arc<dyn Served>, key: &str, limits: ServerLimits) -> Self {
        let room = Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS));
        Self { served, key: key.to_owned(), limits, room }
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "the service of a connection of the data port ended by a bug");
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, port: Arc<Port>) {
    let ended = match stream.set_nodelay(true) {
        Ok(()) => session::converse(stream, &port, peer.to_string().into()).await,
        Err(source) => Err(LinkError::Broken { address: peer.to_string(), source }),
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a connection of the data port ended");
    }
}

/// Serves the protocol of data ports over one connection, until the other side ends it or does not keep to the protocol. Dropping it cuts the connection. How many there are is for the caller to bound.
///
/// # Errors
/// Why the connection ended otherwise than by the other side's closing it between two requests.
pub async fn serve_stream(stream: impl Wire, served: Arc<dyn Served>, key: &str, limits: ServerLimits) -> Result<(), LinkError> {
    session::converse(stream, &Port::new(served, key, limits), "the other side".into()).await
}
