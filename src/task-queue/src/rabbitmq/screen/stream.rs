//! A connection whose incoming bytes pass through [`Frames`].

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::io::{AsyncRead, AsyncWrite, IoSlice};

use super::frames::Frames;

/// Read from the broker at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// The connection.
pub(super) struct Screen<S> {
    inner: S,
    frames: Frames,
    chunk: Box<[u8]>,
}

impl<S> Screen<S> {
    pub(super) fn new(inner: S, frames: Frames) -> Self {
        Self { inner, frames, chunk: vec![0; CHUNK].into() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screen<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let taken = this.frames.take(into);
            if taken > 0 || into.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            let read = ready!(Pin::new(&mut this.inner).poll_read(context, &mut this.chunk))?;
            if read == 0 {
                // What is held back is no whole frame, and never will be.
                return Poll::Ready(Ok(0));
            }
            this.frames.arrived(&this.chunk[..read]);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screen<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(context)
    }
}
