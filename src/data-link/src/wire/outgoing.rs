//! Frames that leave.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::HEADER_BYTES_MAX;
use crate::{LinkError, Refused, RefusedBecause};

/// The sending half of a connection.
pub(crate) struct Outgoing<S> {
    stream: S,
    address: Arc<str>,
    stall: Duration,
    carried: Arc<AtomicU64>,
}

impl<S: AsyncWrite + Unpin> Outgoing<S> {
    /// At least one byte has to leave within each `stall`.
    pub(crate) fn new(stream: S, address: Arc<str>, stall: Duration) -> Self {
        Self { stream, address, stall, carried: Arc::default() }
    }

    /// How many bytes have left, as it goes on.
    pub(crate) fn carried(&self) -> Arc<AtomicU64> {
        self.carried.clone()
    }

    /// Sends a frame. Dropped half-way, the connection is of no more use.
    pub(crate) async fn frame(&mut self, header: &impl Serialize, raw: Bytes) -> Result<(), LinkError> {
        let mut frame = encoded(header)?.chain(raw);
        while frame.has_remaining() {
            let left = leaves_or_late(self.stall, self.stream.write_buf(&mut frame)).await;
            match self.within_stall(left)? {
                0 => return Err(self.broken(io::ErrorKind::WriteZero.into())),
                bytes => self.carried.fetch_add(bytes as u64, Ordering::Relaxed),
            };
        }
        let flushed = leaves_or_late(self.stall, self.stream.flush()).await;
        self.within_stall(flushed)
    }

    /// Says that nothing more comes.
    pub(crate) async fn end(&mut self) -> Result<(), LinkError> {
        let ended = leaves_or_late(self.stall, self.stream.shutdown()).await;
        self.within_stall(ended)
    }

    /// `None`: nothing left for too long.
    fn within_stall<T>(&self, outcome: Option<io::Result<T>>) -> Result<T, LinkError> {
        match outcome {
            Some(Ok(done)) => Ok(done),
            Some(Err(error)) => Err(self.broken(error)),
            None => Err(LinkError::Stalled { address: self.address.to_string(), limit: self.stall }),
        }
    }

    fn broken(&self, source: io::Error) -> LinkError {
        LinkError::Broken { address: self.address.to_string(), source }
    }
}

async fn leaves_or_late<T>(stall: Duration, leaves: impl Future<Output = io::Result<T>>) -> Option<io::Result<T>> {
    timeout(stall, leaves).await.ok()
}

/// The length of a header, and the header.
fn encoded(header: &impl Serialize) -> Result<Bytes, LinkError> {
    let mut frame = BytesMut::with_capacity(256);
    frame.put_u32(0);
    let mut writer = frame.writer();
    serde_json::to_writer(&mut writer, header).expect("words of the protocol are JSON");
    let mut frame = writer.into_inner();
    let length = frame.len() - 4;
    match u32::try_from(length) {
        Ok(bytes) if length <= HEADER_BYTES_MAX => frame[..4].copy_from_slice(&bytes.to_be_bytes()),
        _ => {
            let message = format!("what is to be said of the tensor has {length} bytes; at most {HEADER_BYTES_MAX} can be sent");
            return Err(Refused::new(RefusedBecause::Invalid, message).into());
        }
    }
    Ok(frame.freeze())
}
