//! One connection of a client.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use tokio::io::{ReadHalf, WriteHalf};

use super::{ClientLimits, Wire};
use crate::{
    LinkError, Refused,
    wire::{Answer, HEADER_BYTES_MAX, Hello, Incoming, Outgoing, PROTOCOL, Request, VERSION, shortened},
};

/// A connection over which the key was given.
pub(super) struct Connection {
    pub(super) incoming: Incoming<ReadHalf<Box<dyn Wire>>>,
    pub(super) outgoing: Outgoing<WriteHalf<Box<dyn Wire>>>,
}

impl Connection {
    pub(super) async fn open(stream: Box<dyn Wire>, address: Arc<str>, key: &str, limits: &ClientLimits) -> Result<Self, LinkError> {
        let (incoming, outgoing) = tokio::io::split(stream);
        let mut connection =
            Self { incoming: Incoming::new(incoming, address.clone()), outgoing: Outgoing::new(outgoing, address, limits.stall) };
        connection.say(&Request::Hello(Hello { protocol: PROTOCOL.to_owned(), version: VERSION, key: key.to_owned() })).await?;
        match connection.answer(limits.timeout).await? {
            Answer::Welcome { version: VERSION } => Ok(connection),
            Answer::Refused(refused) => Err(refused.into()),
            answer => Err(connection.incoming.garbled(shortened(&format!("it answers {answer:?} to the hello")))),
        }
    }

    pub(super) async fn say(&mut self, request: &Request) -> Result<(), LinkError> {
        self.outgoing.frame(request, Bytes::new()).await
    }

    /// The next answer.
    pub(super) async fn answer(&mut self, limit: Duration) -> Result<Answer, LinkError> {
        answer(&mut self.incoming, limit).await
    }

    /// Whether the other side seems to be there still, and waits for a request.
    pub(super) fn is_usable(&mut self) -> bool {
        self.incoming.closed().now_or_never().is_none() && !self.incoming.has_more()
    }
}

/// The next answer. Dropping it loses nothing.
pub(super) async fn answer(incoming: &mut Incoming<ReadHalf<Box<dyn Wire>>>, limit: Duration) -> Result<Answer, LinkError> {
    match incoming.header(HEADER_BYTES_MAX, limit).await? {
        Some(Answer::Refused(refused)) => Ok(Answer::Refused(Refused { message: shortened(&refused.message), ..refused })),
        Some(answer) => Ok(answer),
        None => Err(incoming.broken(io::ErrorKind::UnexpectedEof.into())),
    }
}
