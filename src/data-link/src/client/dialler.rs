//! How a client comes to a connection.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use super::{ClientLimits, Dialled, Wire, connection::Connection};
use crate::{
    LinkError,
    wire::{Answer, Request, shortened},
};

type Dial = Box<dyn Fn() -> Dialled + Send + Sync>;

/// Connects to one data port, and keeps one connection that nobody uses for who needs one next.
pub(super) struct Dialler {
    dial: Dial,
    pub(super) address: Arc<str>,
    key: String,
    pub(super) limits: ClientLimits,
    spare: Mutex<Option<Connection>>,
}

impl Dialler {
    pub(super) fn new(dial: Dial, address: &str, key: &str, limits: ClientLimits) -> Self {
        Self { dial, address: address.into(), key: key.to_owned(), limits, spare: Mutex::new(None) }
    }

    /// A new connection, over which the key was given.
    pub(super) async fn dial(&self) -> Result<Connection, LinkError> {
        let away = |source| LinkError::Away { address: self.address.to_string(), source };
        let dialled = timeout(self.limits.timeout, (self.dial)()).await;
        let stream = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(away)?;
        Connection::open(stream, self.address.clone(), &self.key, &self.limits).await
    }

    /// Keeps a connection over which nothing is under way. One is enough.
    pub(super) fn keep(&self, connection: Connection) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(connection);
    }

    fn spare(&self) -> Option<Connection> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        spare.is_usable().then_some(spare)
    }

    /// Asks what one answer answers.
    pub(super) async fn ask(&self, request: &Request, limit: Duration) -> Result<Answer, LinkError> {
        let (connection, answer) = self.begin(request, limit).await?;
        self.keep(connection);
        Ok(answer)
    }

    /// Asks over a connection that goes on to be used. The other side may just have ended the one that was kept: then nothing of the request happened, or it does no harm twice, and another one is tried.
    pub(super) async fn begin(&self, request: &Request, limit: Duration) -> Result<(Connection, Answer), LinkError> {
        if let Some(kept) = self.spare() {
            match self.begin_over(kept, request, limit).await {
                Err(LinkError::Broken { .. }) => {}
                begun => return begun,
            }
        }
        self.begin_over(self.dial().await?, request, limit).await
    }

    async fn begin_over(&self, mut connection: Connection, request: &Request, limit: Duration) -> Result<(Connection, Answer), LinkError> {
        connection.say(request).await?;
        match connection.answer(limit).await? {
            Answer::Refused(refused) => {
                self.keep(connection);
                Err(refused.into())
            }
            answer => Ok((connection, answer)),
        }
    }

    pub(super) fn unexpected(&self, answer: &Answer) -> LinkError {
        let what = shortened(&format!("no answer to the request is {answer:?}"));
        LinkError::Garbled { address: self.address.to_string(), what }
    }
}

/// Connects by TCP.
pub(super) fn tcp(address: Arc<str>) -> impl Fn() -> Dialled + Send + Sync + 'static {
    move || {
        let address = address.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Wire>)
        })
    }
}

/// Gives a connection that is there, once.
pub(super) fn once(stream: impl Wire) -> impl Fn() -> Dialled + Send + Sync + 'static {
    let stream = Mutex::new(Some(Box::new(stream) as Box<dyn Wire>));
    move || {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the only connection is in use, or was lost");
        Box::pin(async move { stream.ok_or_else(gone) })
    }
}
