//! A reading.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use protocol::TensorRecord;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{connection::Connection, dialler::Dialler};
use crate::{
    LinkError, Refused, RefusedBecause,
    wire::{Answer, Piece, Request, TRIES, WINDOW, WORD, Which},
};

/// How often in a row a connection may be lost before it carried a piece.
const CUTS: u32 = 3;
/// How long the first wait is before another connection is made; each further one takes twice as long.
const PAUSE: Duration = Duration::from_millis(50);

type Read = Result<(u64, Bytes), LinkError>;

/// Reads a range of a tensor.
pub(super) struct Reader {
    dialler: Arc<Dialler>,
    /// The tensor; from the first answer on with the version that is read.
    which: Which,
    range: Range<u64>,
    /// Where the next piece begins.
    next: u64,
    /// The length of the tensor, once it is known.
    bytes: Option<u64>,
}

impl Reader {
    pub(super) fn new(dialler: Arc<Dialler>, which: Which, range: Range<u64>) -> Self {
        // Pieces begin at whole words; what precedes the range is cut off.
        let next = range.start / WORD * WORD;
        Self { dialler, which, range, next, bytes: None }
    }

    /// Reads in a task of its own, so that pieces arrive while others are handled. It ends with the stream: three pieces are in memory at most, that which is handled among them.
    pub(super) fn stream(self) -> BoxStream<'static, Read> {
        enum State {
            Before(Reader),
            Reading(mpsc::Receiver<Read>, AbortOnDropHandle<()>),
            After,
        }
        let read = |state| async move {
            let (mut pieces, reading) = match state {
                State::Before(reader) => {
                    let (sender, pieces) = mpsc::channel(1);
                    (pieces, AbortOnDropHandle::new(tokio::spawn(reader.run(sender))))
                }
                State::Reading(pieces, reading) => (pieces, reading),
                State::After => return None,
            };
            match pieces.recv().await {
                Some(Ok(piece)) => Some((Ok(piece), State::Reading(pieces, reading))),
                Some(Err(error)) => Some((Err(error), State::After)),
                // A reading that ended by a bug, or with the runtime, must not look whole.
                None => match reading.await {
                    Ok(()) => None,
                    Err(error) => {
                        Some((Err(LinkError::Broken { address: "the reading's task".to_owned(), source: error.into() }), State::After))
                    }
                },
            }
        };
        stream::unfold(State::Before(self), read).boxed()
    }

    async fn run(mut self, pieces: mpsc::Sender<Read>) {
        let mut cuts = 0;
        loop {
            let before = self.next;
            let Err(error) = self.read_on(&pieces).await else { return };
            cuts = if self.next > before { 1 } else { cuts + 1 };
            if cuts > CUTS || !self.may_go_on(&error) {
                // Whoever wanted to know is gone, otherwise.
                let _ = pieces.send(Err(error)).await;
                return;
            }
            tracing::debug!(tensor = %self.which.name, at = self.next, error = &error as &dyn std::error::Error, "a reading goes on over another connection");
            tokio::time::sleep(PAUSE * 2_u32.pow(cuts - 1)).await;
        }
    }

    /// Whether another connection may help. A port that was never reached is not tried again here.
    fn may_go_on(&self, error: &LinkError) -> bool {
        self.bytes.is_some() && matches!(error, LinkError::Broken { .. } | LinkError::Away { .. })
    }

    /// Reads over one connection, from where it was on.
    async fn read_on(&mut self, pieces: &mpsc::Sender<Read>) -> Result<(), LinkError> {
        let opened = self.dialler.begin(&Request::Open(self.which.clone()), self.dialler.limits.timeout).await?;
        let (mut connection, end) = match opened {
            (connection, Answer::Record(record)) => (connection, self.end_of_range(&record)?),
            (_, answer) => return Err(self.dialler.unexpected(&answer)),
        };
        let mut asked = Asked { pieces: VecDeque::new(), next: self.next, end, length: self.dialler.limits.piece_bytes() };
        let mut spoilt = 0;
        while self.next < end {
            asked.ask_ahead(&mut connection).await?;
            match self.piece(&mut connection, &mut asked).await? {
                Some(piece) => {
                    let at = self.next;
                    self.next += piece.len() as u64;
                    spoilt = 0;
                    if pieces.send(Ok(self.within_range(at, piece))).await.is_err() {
                        return Ok(());
                    }
                }
                None => {
                    spoilt += 1;
                    if spoilt >= TRIES {
                        return Err(LinkError::Corrupted { address: self.dialler.address.to_string(), at: self.next, tries: spoilt });
                    }
                    self.ask_again(&mut connection, &mut asked).await?;
                }
            }
        }
        connection.say(&Request::Close).await?;
        self.dialler.keep(connection);
        Ok(())
    }

    /// Where the range ends, in the tensor that was opened.
    fn end_of_range(&mut self, record: &TensorRecord) -> Result<u64, LinkError> {
        let length = *self.bytes.get_or_insert(record.bytes);
        let version = *self.which.version.get_or_insert(record.version);
        if (record.bytes, record.version) != (length, version) || record.name != self.which.name {
            let what = format!("it opens another tensor than {} in version {version}, of {length} bytes", self.which.name);
            return Err(LinkError::Garbled { address: self.dialler.address.to_string(), what });
        }
        let Range { start, end } = self.range;
        let end = if end == u64::MAX { length } else { end };
        if start > end || end > length {
            let message = format!("{} has {length} bytes; from {start} to {end} is no range of them", self.which.name);
            return Err(Refused::new(RefusedBecause::Invalid, message).into());
        }
        Ok(if start == end { self.next } else { end })
    }

    /// The piece that was asked for first. `None`: it did not come whole.
    async fn piece(&self, connection: &mut Connection, asked: &mut Asked) -> Result<Option<Bytes>, LinkError> {
        let limits = &self.dialler.limits;
        let (at, bytes) = asked.pieces.pop_front().expect("while something is missing, something is asked for");
        match connection.answer(limits.stall).await? {
            Answer::Piece(piece) if (piece.at, piece.bytes) == (at, bytes) => connection.incoming.piece(piece, limits.stall).await,
            Answer::Piece(Piece { at: other, bytes: given, .. }) => {
                Err(connection.incoming.garbled(format!("asked for {bytes} bytes at {at} it gives {given} at {other}")))
            }
            Answer::Refused(refused) => Err(refused.into()),
            answer => Err(self.dialler.unexpected(&answer)),
        }
    }

    /// Passes over what was asked for after a piece that did not come whole, and begins again with that.
    async fn ask_again(&self, connection: &mut Connection, asked: &mut Asked) -> Result<(), LinkError> {
        tracing::warn!(tensor = %self.which.name, at = self.next, address = %self.dialler.address, "a piece did not come whole; asking for it again");
        while !asked.pieces.is_empty() {
            self.piece(connection, asked).await?;
        }
        asked.next = self.next;
        Ok(())
    }

    /// What of a piece is in the range: its first one may begin before it.
    fn within_range(&self, at: u64, mut piece: Bytes) -> (u64, Bytes) {
        let before = self.range.start.saturating_sub(at);
        // Less than a word, and the piece has more: the range is not empty.
        (at + before, piece.split_off(before as usize))
    }
}

/// What was asked for and did not come yet.
struct Asked {
    pieces: VecDeque<(u64, usize)>,
    /// What is asked for next.
    next: u64,
    end: u64,
    length: usize,
}

impl Asked {
    async fn ask_ahead(&mut self, connection: &mut Connection) -> Result<(), LinkError> {
        while self.pieces.len() < WINDOW && self.next < self.end {
            let bytes = usize::try_from(self.end - self.next).map_or(self.length, |rest| rest.min(self.length));
            connection.say(&Request::Read { at: self.next, bytes }).await?;
            self.pieces.push_back((self.next, bytes));
            self.next += bytes as u64;
        }
        Ok(())
    }
}
