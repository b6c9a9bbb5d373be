//! A tensor that a client writes.

use bytes::Bytes;
use futures::future::try_join;
use protocol::{Checksum, TensorRecord};
use tokio::io::ReadHalf;

use super::session::Session;
use crate::{
    LinkError, Refused, RefusedBecause, Wire, Writing,
    wire::{Answer, HEADER_BYTES_MAX, Piece, Request, TRIES, WINDOW, WORD},
};

/// What came next.
enum Next {
    Piece(Piece, Bytes),
    End(Checksum),
}

/// How far a writing is.
#[derive(Default)]
struct Received {
    /// Where the next piece begins.
    at: u64,
    checksum: Checksum,
    /// How often the next piece came, and not whole.
    spoilt: u32,
    /// How many pieces are passed over at most: those that were on their way when one was asked for again.
    late: usize,
}

impl<S: Wire> Session<ReadHalf<S>> {
    /// Takes the pieces of a tensor of so many bytes: while one is written, the next one arrives. Whatever fails, the writing is dropped with it.
    pub(super) async fn receive(&mut self, mut writing: Box<dyn Writing>, bytes: u64) -> Result<TensorRecord, LinkError> {
        let mut received = Received::default();
        let mut piece = None;
        loop {
            let write = write(&mut *writing, piece.take());
            let ((), next) = try_join(write, self.next_piece(&mut received, bytes)).await?;
            match next {
                Next::Piece(header, whole) => piece = Some((header.at, whole)),
                Next::End(checksum) if received.at == bytes && received.checksum == checksum => break,
                Next::End(_) => {
                    let message =
                        format!("{} of {bytes} bytes came before the end, or their checksum is not that of the whole", received.at);
                    return Err(Refused::new(RefusedBecause::Failed, message).into());
                }
            }
        }
        Ok(writing.finish().await?)
    }

    /// The next piece, whole, however often it has to be asked for.
    async fn next_piece(&mut self, received: &mut Received, bytes: u64) -> Result<Next, LinkError> {
        loop {
            let header = match self.incoming.header(HEADER_BYTES_MAX, self.limits.idle).await? {
                Some(Request::Piece(header)) => header,
                Some(Request::End { checksum }) => return Ok(Next::End(checksum)),
                Some(_) => return Err(self.incoming.garbled("it says what is no piece of the tensor that it writes")),
                None => return Err(self.incoming.broken(std::io::ErrorKind::UnexpectedEof.into())),
            };
            self.check(&header, received, bytes)?;
            let whole = self.incoming.piece(header, self.limits.stall).await?;
            if header.at > received.at {
                received.late -= 1;
                continue;
            }
            let Some(whole) = whole else {
                self.ask_again(received).await?;
                continue;
            };
            received.at += header.bytes as u64;
            received.checksum = received.checksum.with(header.checksum);
            (received.spoilt, received.late) = (0, 0);
            self.answer(Answer::Got { at: header.at }).await?;
            return Ok(Next::Piece(header, whole));
        }
    }

    /// Whether a piece can be one of the tensor: the next one, or one that is passed over.
    fn check(&self, header: &Piece, received: &Received, bytes: u64) -> Result<(), LinkError> {
        let (at, end) = (header.at, header.at.checked_add(header.bytes as u64));
        let expected = at == received.at || (at > received.at && received.late > 0);
        let fits = end.is_some_and(|end| end == bytes || (end < bytes && end.is_multiple_of(WORD)));
        if expected && fits && at.is_multiple_of(WORD) {
            return Ok(());
        }
        Err(self
            .incoming
            .garbled(format!("its piece of {} bytes at {at} is not the next one, at {}, of {bytes} bytes", header.bytes, received.at)))
    }

    async fn ask_again(&self, received: &mut Received) -> Result<(), LinkError> {
        received.spoilt += 1;
        received.late = WINDOW - 1;
        if received.spoilt >= TRIES {
            let message = format!("the piece at byte {} did not come whole in {TRIES} tries; its checksum differs", received.at);
            return Err(Refused::new(RefusedBecause::Failed, message).into());
        }
        self.answer(Answer::Again { at: received.at }).await
    }
}

async fn write(writing: &mut dyn Writing, piece: Option<(u64, Bytes)>) -> Result<(), LinkError> {
    match piece {
        Some((at, bytes)) => Ok(writing.write(at, bytes).await?),
        None => Ok(()),
    }
}
