//! Frames that arrive.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protocol::Checksum;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::{HEADER_BYTES_MAX, PIECE_BYTES_MAX, Piece};
use crate::LinkError;

/// How much is read ahead of a header: what of it belongs to a piece is copied once more.
const AHEAD: usize = 4 << 10;
/// Bytes of a header's length.
const LENGTH: usize = 4;

/// The receiving half of a connection.
pub(crate) struct Incoming<S> {
    stream: S,
    /// What has arrived and was not taken yet.
    ahead: BytesMut,
    address: Arc<str>,
}

impl<S: AsyncRead + Unpin> Incoming<S> {
    pub(crate) fn new(stream: S, address: Arc<str>) -> Self {
        Self { stream, ahead: BytesMut::new(), address }
    }

    /// The next header, within `limit`. `None`: the other side ended the connection before it. Dropping it loses nothing.
    pub(crate) async fn header<M: DeserializeOwned>(&mut self, bytes_max: usize, limit: Duration) -> Result<Option<M>, LinkError> {
        let arrives = timeout(limit, self.whole_header(bytes_max));
        match arrives.await {
            Ok(header) => header,
            Err(_) => Err(LinkError::Stalled { address: self.address.to_string(), limit }),
        }
    }

    async fn whole_header<M: DeserializeOwned>(&mut self, bytes_max: usize) -> Result<Option<M>, LinkError> {
        loop {
            if let Some(length) = self.header_length(bytes_max)?
                && self.ahead.len() >= LENGTH + length
            {
                self.ahead.advance(LENGTH);
                let header = self.ahead.split_to(length);
                return serde_json::from_slice(&header).map(Some).map_err(|error| self.garbled(format!("its header is none: {error}")));
            }
            if self.read_ahead().await.map_err(|error| self.broken(error))? == 0 {
                return if self.ahead.is_empty() { Ok(None) } else { Err(self.broken(io::ErrorKind::UnexpectedEof.into())) };
            }
        }
    }

    /// The length of the header that begins what has arrived. `None`: too little has.
    fn header_length(&self, bytes_max: usize) -> Result<Option<usize>, LinkError> {
        let Some(length) = self.ahead.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > bytes_max {
            return Err(self.garbled(format!("its header has {length} bytes; 1 to {bytes_max} are allowed")));
        }
        Ok(Some(length))
    }

    async fn read_ahead(&mut self) -> io::Result<usize> {
        self.ahead.reserve(AHEAD);
        self.stream.read_buf(&mut (&mut self.ahead).limit(AHEAD)).await
    }

    /// The bytes of a piece, whose header arrived; `None` where their checksum is not that of the header. At least one arrives within each `stall`.
    pub(crate) async fn piece(&mut self, piece: Piece, stall: Duration) -> Result<Option<Bytes>, LinkError> {
        if piece.bytes == 0 || piece.bytes > PIECE_BYTES_MAX {
            return Err(self.garbled(format!("its piece has {} bytes; 1 to {PIECE_BYTES_MAX} are allowed", piece.bytes)));
        }
        let mut body = BytesMut::with_capacity(piece.bytes);
        body.extend_from_slice(&self.ahead.split_to(piece.bytes.min(self.ahead.len())));
        while body.len() < piece.bytes {
            let missing = piece.bytes - body.len();
            let mut rest = (&mut body).limit(missing);
            match timeout(stall, self.stream.read_buf(&mut rest)).await {
                Ok(Ok(0)) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(self.broken(error)),
                Err(_) => return Err(LinkError::Stalled { address: self.address.to_string(), limit: stall }),
            }
        }
        Ok((Checksum::of(&body, piece.at) == piece.checksum).then(|| body.freeze()))
    }

    /// Until the other side has ended the connection. What arrives before that is kept, within bounds. Dropping it loses nothing.
    pub(crate) async fn closed(&mut self) -> LinkError {
        while self.ahead.len() < HEADER_BYTES_MAX {
            match self.read_ahead().await {
                Ok(0) => return self.broken(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return self.broken(error),
            }
        }
        std::future::pending().await
    }

    /// Passes over what still arrives, at most so many bytes and for so long: whoever closes a connection with bytes unread takes his last words back from the other side.
    pub(crate) async fn pass_over(&mut self, mut bytes: usize, limit: Duration) {
        let passed = timeout(limit, async {
            loop {
                self.ahead.clear();
                match self.read_ahead().await {
                    Ok(some) if some > 0 && some < bytes => bytes -= some,
                    _ => return,
                }
            }
        });
        // Late is as good as done.
        let _ = passed.await;
    }

    /// Whether something has arrived that was not taken.
    pub(crate) fn has_more(&self) -> bool {
        !self.ahead.is_empty()
    }

    pub(crate) fn broken(&self, source: io::Error) -> LinkError {
        LinkError::Broken { address: self.address.to_string(), source }
    }

    pub(crate) fn garbled(&self, what: impl Into<String>) -> LinkError {
        LinkError::Garbled { address: self.address.to_string(), what: what.into() }
    }
}
