//! Tokio, with screened connections: the client library names the type of its connections through its runtime.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures::{
    Stream,
    io::{AsyncRead, AsyncWrite, Cursor},
};
use lapin::AsyncTcpStream;

use super::{frames::Frames, stream::Screen};

/// Tokio's reactor, behind a screen.
#[derive(Debug, Clone)]
pub(super) struct Screened(Tokio);

/// The present tokio runtime, with screened connections.
pub(super) fn screened() -> Runtime<RuntimeParts<Tokio, Screened>> {
    Runtime::new(RuntimeParts::new(Tokio::current(), Screened(Tokio::current())))
}

impl Reactor for Screened {
    type TcpStream = Screen<AsyncTcpStream<<Tokio as Reactor>::TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(&self, _socket: H) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Cursor<Vec<u8>>, _>(io::Error::new(io::ErrorKind::Unsupported, "only connections that were opened here are screened"))
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Screen::new(AsyncTcpStream::Plain(connecting.await?), Frames::new(None))) }
    }
}
