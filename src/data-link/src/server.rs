//! The data port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{LinkError, Served, Wire};

/// What a data port grants those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Most connections at once. Each holds two pieces of at most 16 MiB at a time.
    pub connections: usize,
    /// For who connects to give the key.
    pub hello: Duration,
    /// For the next request, or the next piece of a writing.
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
pub struct DataServer {}

impl DataServer {
    /// Listens, at `host:port`; the address that it has then. With port 0 the system chooses.
    ///
    /// # Errors
    /// [`LinkError::Listen`].
    pub async fn bind(listen: &str) -> Result<(Self, SocketAddr), LinkError> {
        todo!()
    }

    /// With other limits than the usual.
    #[must_use]
    pub fn with_limits(self, limits: ServerLimits) -> Self {
        todo!()
    }

    /// Serves those who give `key`, until `stop`: then every connection is cut, and what was being written is dropped.
    pub async fn serve(self, served: Arc<dyn Served>, key: String, stop: CancellationToken) {
        todo!()
    }
}

/// Serves the protocol of data ports over one connection, until the other side ends it or does not keep to the protocol. Dropping it cuts the connection.
///
/// # Errors
/// Why the connection ended otherwise than by the other side's closing it between two requests.
pub async fn serve_stream(stream: impl Wire, served: Arc<dyn Served>, key: &str, limits: ServerLimits) -> Result<(), LinkError> {
    todo!()
}
