//! Bytes in any cut, cut into pieces.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};

/// Cuts a stream of bytes into pieces of one length.
pub(super) struct Pieces {
    source: BoxStream<'static, io::Result<Bytes>>,
    length: usize,
    /// How many bytes are to come still.
    missing: u64,
    /// What came last, and is not in a piece yet.
    chunk: Bytes,
    /// A piece that is being put together.
    begun: BytesMut,
}

impl Pieces {
    /// Of `bytes` bytes in all.
    pub(super) fn new(source: BoxStream<'static, io::Result<Bytes>>, length: usize, bytes: u64) -> Self {
        Self { source, length, missing: bytes, chunk: Bytes::new(), begun: BytesMut::new() }
    }

    /// The next piece: all have the same length but the last one. A chunk that holds a piece is not copied. Dropping it loses nothing.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let length = usize::try_from(self.missing).map_or(self.length, |missing| missing.min(self.length));
            if length > 0 && self.begun.is_empty() && self.chunk.len() >= length {
                self.missing -= length as u64;
                return Some(Ok(self.chunk.split_to(length)));
            }
            if !self.chunk.is_empty() {
                if length == 0 {
                    return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "there are more bytes than the shape says")));
                }
                self.begun.reserve(length - self.begun.len());
                let taken = self.chunk.split_to(self.chunk.len().min(length - self.begun.len()));
                self.begun.extend_from_slice(&taken);
                if self.begun.len() == length {
                    self.missing -= length as u64;
                    return Some(Ok(self.begun.split().freeze()));
                }
            }
            match self.source.next().await {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => return Some(Err(error)),
                None if self.missing == 0 => return None,
                None => {
                    let missing = self.missing - self.begun.len() as u64;
                    let message = format!("there are {missing} bytes less than the shape says");
                    return Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[Bytes], length: usize, bytes: u64) -> io::Result<Vec<Bytes>> {
        let source = stream::iter(chunks.to_vec()).map(Ok).boxed();
        let mut pieces = Pieces::new(source, length, bytes);
        futures::executor::block_on(async {
            let mut cut = Vec::new();
            while let Some(piece) = pieces.next().await {
                cut.push(piece?);
            }
            Ok(cut)
        })
    }

    proptest! {
        #[test]
        fn whatever_the_chunks_the_pieces_have_their_length_and_the_same_bytes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from), 0..20),
            length in 1_usize..60,
        ) {
            let whole = chunks.concat();
            let pieces = cut(&chunks, length, whole.len() as u64).unwrap();
            prop_assert_eq!(pieces.concat(), whole.clone());
            let expected: Vec<usize> = whole.chunks(length).map(<[u8]>::len).collect();
            prop_assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn too_few_bytes_and_too_many_are_told() {
        let chunks = [Bytes::from_static(b"0123456789")];
        assert_eq!(cut(&chunks, 4, 11).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(cut(&chunks, 4, 9).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(cut(&chunks, 4, 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_chunk_that_holds_a_piece_is_not_copied() {
        let chunk = Bytes::from(vec![7; 100]);
        let pieces = cut(std::slice::from_ref(&chunk), 40, 100).unwrap();
        assert_eq!(pieces.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>(), [0, 40, 80].map(|at| chunk[at..].as_ptr()));
    }
}
