//! One connection of a data port.

use std::{
    hint::black_box,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::try_join;
use protocol::TensorRecord;
use tokio::{
    io::{AsyncWrite, ReadHalf},
    sync::{
        SemaphorePermit,
        mpsc::{self, OwnedPermit},
    },
    time::timeout,
};

use super::{Port, ServerLimits};
use crate::{
    FetchOrder, LinkError, NewTensor, Opened, Refused, RefusedBecause, Served, Wire,
    wire::{
        Answer, HEADER_BYTES_MAX, HELLO_BYTES_MAX, Incoming, Outgoing, PIECE_BYTES_MAX, PROTOCOL, Piece, Request, VERSION, WINDOW, WORD,
        Which,
    },
};

/// How long a connection that was refused stays, so that the refusal arrives.
const LINGER: Duration = Duration::from_secs(1);

/// An answer, and the bytes of its piece.
type Said = (Answer, Bytes);

/// Speaks with one client.
pub(super) async fn converse(stream: impl Wire, port: &Port, address: Arc<str>) -> Result<(), LinkError> {
    let (incoming, outgoing) = tokio::io::split(stream);
    let outgoing = Outgoing::new(outgoing, address.clone(), port.limits.stall);
    // One answer leaves, and the next one is made meanwhile: two pieces are in memory.
    let (answers, queue) = mpsc::channel(1);
    let session = Session {
        incoming: Incoming::new(incoming, address),
        answers,
        carried: outgoing.carried(),
        served: port.served.clone(),
        limits: port.limits,
        open: None,
    };
    try_join(session.listen(port), deliver(outgoing, queue)).await?;
    Ok(())
}

/// Sends what is answered, until nothing more is.
async fn deliver(mut outgoing: Outgoing<impl AsyncWrite + Unpin>, mut answers: mpsc::Receiver<Said>) -> Result<(), LinkError> {
    while let Some((answer, bytes)) = answers.recv().await {
        match outgoing.frame(&answer, bytes).await {
            // It is too long to be said.
            Err(LinkError::Refused(refused)) => outgoing.frame(&Answer::Refused(refused), Bytes::new()).await?,
            sent => sent?,
        }
    }
    outgoing.end().await
}

/// What is known of a connection.
pub(super) struct Session<S> {
    pub(super) incoming: Incoming<S>,
    answers: mpsc::Sender<Said>,
    /// How many bytes were sent.
    carried: Arc<AtomicU64>,
    pub(super) served: Arc<dyn Served>,
    pub(super) limits: ServerLimits,
    open: Option<Opened>,
}

impl<S: Wire> Session<ReadHalf<S>> {
    /// Until the other side ends the connection, or has to be refused for good.
    async fn listen(mut self, port: &Port) -> Result<(), LinkError> {
        let ended = match self.greet(port).await {
            Ok(_admitted) => self.answer_requests().await,
            Err(error) => Err(error),
        };
        let refused = match &ended {
            Err(LinkError::Refused(refused)) => refused.clone(),
            Err(error @ LinkError::Garbled { .. }) => Refused::new(RefusedBecause::Invalid, error.to_string()),
            _ => return ended,
        };
        self.open = None;
        self.answer(Answer::Refused(refused)).await?;
        let Self { answers, mut incoming, .. } = self;
        // What was answered leaves, and the end after it.
        drop(answers);
        incoming.pass_over(WINDOW * (PIECE_BYTES_MAX + HEADER_BYTES_MAX), LINGER).await;
        ended
    }

    /// Lets nobody in who does not have the key, nor one too many.
    async fn greet<'a>(&mut self, port: &'a Port) -> Result<SemaphorePermit<'a>, LinkError> {
        let not_allowed = |message: &str| Err(Refused::new(RefusedBecause::NotAllowed, message).into());
        let hello = match self.incoming.header(HELLO_BYTES_MAX, self.limits.hello).await {
            Ok(Some(Request::Hello(hello))) if hello.protocol == PROTOCOL => hello,
            Ok(None) => return Err(self.incoming.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(Some(_)) | Err(LinkError::Garbled { .. }) => {
                return not_allowed("this is a data port of gpufleet, and what came is not the hello of its protocol");
            }
            Err(error) => return Err(error),
        };
        if hello.version != VERSION {
            let message = format!(
                "the data port speaks version {VERSION} of its protocol, not {}; run the same gpufleet on both sides",
                hello.version
            );
            return Err(Refused::new(RefusedBecause::Unsupported, message).into());
        }
        if !is_same(hello.key.as_bytes(), port.key.as_bytes()) {
            return not_allowed("the key of the data port is wrong; its worker was started again, perhaps: read the table again");
        }
        let Ok(admitted) = port.room.try_acquire() else {
            let message = format!("the data port has {} connections, and none left for one more; try again", self.limits.connections);
            return Err(Refused::new(RefusedBecause::Failed, message).into());
        };
        self.answer(Answer::Welcome { version: VERSION }).await?;
        Ok(admitted)
    }

    async fn answer_requests(&mut self) -> Result<(), LinkError> {
        while let Some(request) = self.next_request().await? {
            match request {
                Request::About(which) => self.about(which).await?,
                Request::Open(which) => self.open(which).await?,
                Request::Read { at, bytes } => self.read(at, bytes).await?,
                Request::Close => self.open = None,
                Request::Write(new) => self.write(new).await?,
                Request::Free(which) => self.free(which).await?,
                Request::Fetch(order) => self.fetch(*order).await?,
                Request::Hello(_) | Request::Piece(_) | Request::End { .. } => {
                    return Err(self.incoming.garbled("it says what is no request here"));
                }
            }
        }
        Ok(())
    }

    /// `None`: there are no more. While what was answered before still leaves, however slowly, the client is not idle.
    async fn next_request(&mut self) -> Result<Option<Request>, LinkError> {
        loop {
            let carried = self.carried.load(Ordering::Relaxed);
            match self.incoming.header(HEADER_BYTES_MAX, self.limits.idle).await {
                Err(LinkError::Stalled { .. }) if self.carried.load(Ordering::Relaxed) > carried => {}
                next => return next,
            }
        }
    }

    async fn about(&mut self, which: Which) -> Result<(), LinkError> {
        let served = self.served.clone();
        let opened = self.unless_closed(served.open(&which.name, which.version)).await?;
        self.answer_with(opened.map(|tensor| record(tensor.record()))).await
    }

    async fn open(&mut self, which: Which) -> Result<(), LinkError> {
        self.open = None;
        let served = self.served.clone();
        let opened = self.unless_closed(served.open(&which.name, which.version)).await?;
        let answer = opened.map(|tensor| record(self.open.insert(tensor).record()));
        self.answer_with(answer).await
    }

    async fn read(&mut self, at: u64, bytes: usize) -> Result<(), LinkError> {
        // Only when there is room for its answer is a piece read.
        let room = self.room().await?;
        let answer = match self.readable(at, bytes) {
            Ok(tensor) => self.unless_closed(tensor.read(at, bytes)).await?,
            Err(refused) => Err(refused),
        };
        let said = match answer {
            Ok((read, checksum)) if read.len() == bytes => (Answer::Piece(Piece { at, bytes, checksum }), read),
            Ok((read, _)) => {
                let message = format!("{bytes} bytes from {at} on were to be read, and {} were", read.len());
                (Answer::Refused(Refused::new(RefusedBecause::Failed, message)), Bytes::new())
            }
            Err(refused) => (Answer::Refused(refused), Bytes::new()),
        };
        room.send(said);
        Ok(())
    }

    /// The tensor that is open, if it has these bytes.
    fn readable(&self, at: u64, bytes: usize) -> Result<Opened, Refused> {
        let invalid = |message: String| Err(Refused::new(RefusedBecause::Invalid, message));
        let Some(tensor) = &self.open else { return invalid("no tensor is open for reading".to_owned()) };
        let length = tensor.record().bytes;
        if !at.is_multiple_of(WORD) || bytes == 0 || bytes > PIECE_BYTES_MAX {
            return invalid(format!(
                "a piece begins at a multiple of {WORD} and has 1 to {PIECE_BYTES_MAX} bytes, unlike {bytes} from {at} on"
            ));
        }
        match at.checked_add(bytes as u64) {
            Some(end) if end <= length => Ok(tensor.clone()),
            _ => invalid(format!("{bytes} bytes from {at} on are past the end of {}, which has {length}", tensor.record().name)),
        }
    }

    /// A refusal before the client was told to go on leaves the connection as it is; any later one ends it, because pieces are under way.
    async fn write(&mut self, new: NewTensor) -> Result<(), LinkError> {
        let Some(bytes) = new.shape.bytes() else {
            let refused = Refused::new(RefusedBecause::Invalid, format!("{} has more bytes than can be counted", new.name));
            return self.answer(Answer::Refused(refused)).await;
        };
        let served = self.served.clone();
        let writing = match self.unless_closed(served.write(new)).await? {
            Ok(writing) => writing,
            Err(refused) => return self.answer(Answer::Refused(refused)).await,
        };
        self.answer(Answer::Ready).await?;
        let written = self.receive(writing, bytes).await?;
        self.answer(record(&written)).await
    }

    async fn free(&mut self, which: Which) -> Result<(), LinkError> {
        // It is done to its end, whoever waits for it.
        let freed = self.served.free(&which.name, which.version).await;
        self.answer_with(freed.map(Answer::Freed)).await
    }

    async fn fetch(&mut self, order: FetchOrder) -> Result<(), LinkError> {
        let served = self.served.clone();
        let (name, limit) = (order.from.name.clone(), Duration::from_millis(order.timeout_ms));
        let answer = match self.unless_closed(timeout(limit, served.fetch(order))).await? {
            Ok(fetched) => fetched.map(|fetched| record(&fetched)),
            Err(_) => Err(Refused::new(RefusedBecause::Failed, format!("{name} was not fetched within {} ms", limit.as_millis()))),
        };
        self.answer_with(answer).await
    }

    /// What comes of `work`, which is dropped if the client goes.
    async fn unless_closed<T>(&mut self, work: impl Future<Output = T>) -> Result<T, LinkError> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            closed = self.incoming.closed() => Err(closed),
        }
    }

    async fn answer_with(&self, answer: Result<Answer, Refused>) -> Result<(), LinkError> {
        self.answer(answer.unwrap_or_else(Answer::Refused)).await
    }

    pub(super) async fn answer(&self, answer: Answer) -> Result<(), LinkError> {
        self.room().await?.send((answer, Bytes::new()));
        Ok(())
    }

    /// Room for one more answer, once the one before the last has left.
    async fn room(&self) -> Result<OwnedPermit<Said>, LinkError> {
        self.answers.clone().reserve_owned().await.map_err(|_| self.incoming.broken(io::ErrorKind::BrokenPipe.into()))
    }
}

fn record(record: &TensorRecord) -> Answer {
    Answer::Record(Box::new(record.clone()))
}

/// Takes as long for a wrong key as for the right one, so that it cannot be found byte by byte. No key is nobody's.
fn is_same(given: &[u8], key: &[u8]) -> bool {
    let difference = given.iter().zip(key).fold(0, |difference, (one, other)| black_box(difference | (one ^ other)));
    black_box(difference) == 0 && given.len() == key.len() && !key.is_empty()
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn only_the_whole_key_opens() {
        assert!(is_same(b"secret", b"secret"));
        for wrong in [&b"secreT"[..], b"secre", b"secrets", b""] {
            assert!(!is_same(wrong, b"secret"));
        }
        assert!(!is_same(b"", b""));
    }
}
