//! A writing.

use std::{collections::VecDeque, io, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use protocol::{Checksum, TensorRecord};

use super::{
    connection::{Connection, answer},
    dialler::Dialler,
    pieces::Pieces,
};
use crate::{
    LinkError, NewTensor, Refused, RefusedBecause,
    wire::{Answer, Piece, Request, TRIES, WINDOW},
};

/// For how long one who was cut off looks for the refusal that came before.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Writes a tensor.
pub(super) async fn write(
    dialler: &Dialler,
    new: NewTensor,
    source: BoxStream<'static, io::Result<Bytes>>,
) -> Result<TensorRecord, LinkError> {
    let Some(bytes) = new.shape.bytes() else {
        return Err(Refused::new(RefusedBecause::Invalid, format!("{} has more bytes than can be counted", new.name)).into());
    };
    let connection = match dialler.begin(&Request::Write(new), dialler.limits.timeout).await? {
        (connection, Answer::Ready) => connection,
        (_, answer) => return Err(dialler.unexpected(&answer)),
    };
    let pieces = Pieces::new(source, dialler.limits.piece_bytes(), bytes);
    let mut writer = Writer { dialler, connection, pieces, window: Window::default() };
    let written = writer.write().await;
    let record = match written {
        Ok(record) => record,
        Err(error) => return Err(writer.refusal_before(error).await),
    };
    dialler.keep(writer.connection);
    Ok(record)
}

struct Writer<'a> {
    dialler: &'a Dialler,
    connection: Connection,
    pieces: Pieces,
    window: Window,
}

impl Writer<'_> {
    async fn write(&mut self) -> Result<TensorRecord, LinkError> {
        let mut ended = false;
        while !ended || !self.window.is_got() {
            if let Some((header, bytes)) = self.window.next_to_send() {
                self.send(&Request::Piece(header), bytes).await?;
            } else if ended || self.window.is_full() {
                let answer = answer(&mut self.connection.incoming, self.dialler.limits.stall).await?;
                self.window.take(answer, self.dialler)?;
            } else {
                ended = !self.read_source().await?;
            }
        }
        self.send(&Request::End { checksum: self.window.checksum }, Bytes::new()).await?;
        match self.connection.answer(self.dialler.limits.timeout).await? {
            Answer::Record(record) => Ok(*record),
            Answer::Refused(refused) => Err(refused.into()),
            answer => Err(self.dialler.unexpected(&answer)),
        }
    }

    /// Takes the next piece of the source, and meanwhile what is answered to those before it: a refusal ends it at once. Whether there was one.
    async fn read_source(&mut self) -> Result<bool, LinkError> {
        loop {
            tokio::select! {
                biased;
                // The source takes the time that it takes.
                answer = answer(&mut self.connection.incoming, Duration::MAX) => {
                    self.window.take(answer?, self.dialler)?;
                    if self.window.has_more_to_send() {
                        return Ok(true);
                    }
                }
                piece = self.pieces.next() => {
                    let Some(piece) = piece else { return Ok(false) };
                    self.window.push(piece.map_err(LinkError::Source)?);
                    return Ok(true);
                }
            }
        }
    }

    /// Sends a frame, and takes answers meanwhile: the other side may not take all of it before its answers were taken, and may refuse.
    async fn send(&mut self, header: &Request, raw: Bytes) -> Result<(), LinkError> {
        let Self { connection: Connection { incoming, outgoing }, window, dialler, .. } = self;
        let mut sent = std::pin::pin!(outgoing.frame(header, raw));
        loop {
            tokio::select! {
                biased;
                answer = answer(incoming, Duration::MAX) => window.take(answer?, dialler)?,
                sent = &mut sent => return sent,
            }
        }
    }

    /// The other side cuts the connection off when it has refused: then that is what is told.
    async fn refusal_before(&mut self, error: LinkError) -> LinkError {
        if !matches!(error, LinkError::Broken { .. }) {
            return error;
        }
        // The answers to what was under way come before it.
        for _ in 0..=WINDOW {
            match self.connection.answer(LAST_WORDS).await {
                Ok(Answer::Refused(refused)) => return refused.into(),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        error
    }
}

/// The pieces that are under way.
#[derive(Default)]
struct Window {
    /// Those without an answer, in order.
    pieces: VecDeque<(Piece, Bytes)>,
    /// How many of them are sent.
    sent: usize,
    /// How often the first of them was asked for again.
    spoilt: u32,
    /// Where the next one begins.
    at: u64,
    /// Over all that were put in.
    checksum: Checksum,
}

impl Window {
    fn is_got(&self) -> bool {
        self.pieces.is_empty()
    }

    fn is_full(&self) -> bool {
        self.pieces.len() >= WINDOW
    }

    fn push(&mut self, bytes: Bytes) {
        let piece = Piece { at: self.at, bytes: bytes.len(), checksum: Checksum::of(&bytes, self.at) };
        self.at += bytes.len() as u64;
        self.checksum = self.checksum.with(piece.checksum);
        self.pieces.push_back((piece, bytes));
    }

    fn has_more_to_send(&self) -> bool {
        self.sent < self.pieces.len()
    }

    /// From now on it is sent.
    fn next_to_send(&mut self) -> Option<(Piece, Bytes)> {
        let next = self.pieces.get(self.sent)?.clone();
        self.sent += 1;
        Some(next)
    }

    /// Takes an answer to the first of those that were sent.
    fn take(&mut self, answer: Answer, dialler: &Dialler) -> Result<(), LinkError> {
        let first = self.pieces.front().filter(|_| self.sent > 0).map(|(piece, _)| piece.at);
        match answer {
            Answer::Got { at } if first == Some(at) => {
                self.pieces.pop_front();
                (self.sent, self.spoilt) = (self.sent - 1, 0);
                Ok(())
            }
            Answer::Again { at } if first == Some(at) => {
                self.spoilt += 1;
                // Those after it are passed over there, and sent again too.
                self.sent = 0;
                if self.spoilt >= TRIES {
                    return Err(LinkError::Corrupted { address: dialler.address.to_string(), at, tries: self.spoilt });
                }
                Ok(())
            }
            Answer::Refused(refused) => Err(refused.into()),
            answer => Err(dialler.unexpected(&answer)),
        }
    }
}
