//! The way through the host's memory: the source fills one chunk of a ring while this side takes another.

use std::{ops::Range, pin::pin, sync::Arc};

use data_link::{Refused, RefusedBecause};
use devices::{HostBytes, SharedMemory, SharedPart};
use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, join},
    stream::{self, FuturesOrdered},
};
use protocol::{Checksum, TensorRecord};

use super::{
    Sums, TryFailure, in_time, pieces,
    pieces::{AT_ONCE, overlapped},
    source::Source,
};
use crate::{
    Arriving, Tensor,
    plane::Shared,
    socket::{Answer, Connection, Request, Ring, Taken, Wanted},
};

/// Bytes of a chunk, a multiple of eight.
const CHUNK_BYTES: u64 = 4 << 20;
/// Chunks of a ring: as many as both sides are at.
const CHUNKS: u64 = 4;
/// Chunks that either side is at: one is copied while another is summed.
const CHUNKS_AT_ONCE: usize = 2;
/// How often a chunk may come corrupted before the try fails.
const TRIES: u32 = 3;

/// The ring that a tensor of so many bytes needs.
const fn ring_for(bytes: u64) -> Ring {
    // A small tensor needs no more than its own bytes; `max` is not const.
    let chunk_bytes = if bytes >= CHUNK_BYTES { CHUNK_BYTES } else { bytes.next_multiple_of(8) };
    let chunk_bytes = if chunk_bytes == 0 { 8 } else { chunk_bytes };
    let needed = bytes.div_ceil(chunk_bytes);
    let chunks = if needed >= CHUNKS {
        CHUNKS
    } else if needed == 0 {
        1
    } else {
        needed
    };
    Ring { chunk_bytes, chunks }
}

/// Brings it from another process, and gives the sums of what its GPU has and of what arrived.
pub(super) async fn carry(shared: &Shared, from: &TensorRecord, arriving: &Arriving) -> Result<Sums, TryFailure> {
    let stall = shared.options.limits.stall;
    let wanted = Wanted::new(from)?;
    let ring = ring_for(from.bytes);
    let memory = Arc::new(SharedMemory::allocate(ring.bytes())?);
    let mut connection = in_time(stall, Connection::open(wanted.socket)).await?;
    in_time(stall, connection.send_with(&Request::Staged(wanted.tensor, ring), &*memory)).await?;
    let emptying = Emptying { shared, arriving, bytes: from.bytes, ring, memory };
    let mut taking = Taking::new();
    let taken = emptying.take_all(&mut connection, &mut taking).await;
    // No copy goes on into memory that is to be used again.
    while taking.next().await.is_some() {}
    taken
}

/// Chunks that are being taken, in their order, each with the sums on both sides.
type Taking<'a> = FuturesOrdered<BoxFuture<'a, Result<Sums, TryFailure>>>;

/// The side that takes chunks out of the ring.
struct Emptying<'a> {
    shared: &'a Shared,
    arriving: &'a Arriving,
    bytes: u64,
    ring: Ring,
    memory: Arc<SharedMemory>,
}

impl Emptying<'_> {
    /// Takes all chunks, some at once and each begun in its order. One that came corrupted comes again, and those after it. What is under way when this fails is left to the caller.
    async fn take_all<'a>(&'a self, connection: &mut Connection, taking: &mut Taking<'a>) -> Result<Sums, TryFailure> {
        let stall = self.shared.options.limits.stall;
        let (words, mut speaking) = connection.halves::<Answer>();
        let mut words = pin!(words);
        let count = self.bytes.div_ceil(self.ring.chunk_bytes);
        let (mut next, mut taken, mut refused, mut sums) = (0, 0, 0, Sums::default());
        while taken < count {
            tokio::select! {
                biased;
                Some(of_chunk) = taking.next() => match of_chunk?.agreed() {
                    Ok(of_chunk) => {
                        let piece = self.ring.piece_of(taken, self.bytes);
                        self.arriving.came(piece.end - piece.start);
                        (taken, sums) = (taken + 1, sums.with(of_chunk));
                        in_time(stall, speaking.send(&Taken::Well)).await?;
                    }
                    Err(corrupted) => {
                        // Before their chunks are filled again.
                        while taking.next().await.is_some() {}
                        refused += 1;
                        if refused >= TRIES {
                            return Err(corrupted);
                        }
                        in_time(stall, speaking.send(&Taken::AgainFrom(taken))).await?;
                        next = taken;
                    }
                },
                word = in_time(stall, said(&mut words)), if next < count && taking.len() < CHUNKS_AT_ONCE => match word? {
                    Answer::Filled { chunk, checksum } if chunk == next => {
                        taking.push_back(self.take(chunk, checksum).boxed());
                        next += 1;
                    }
                    // What was filled before this side asked for a chunk again comes again, in its order.
                    Answer::Filled { chunk, .. } if chunk > next && refused > 0 => {}
                    Answer::Refused(refused) => return Err(refused.into()),
                    answer => return Err(answer.unexpected()),
                },
            }
        }
        Ok(sums)
    }

    /// Copies a chunk to the GPU, and sums what arrived: the GPUs' own sums, so that what changed on either side of the shared memory is found, too.
    async fn take(&self, chunk: u64, sent: Checksum) -> Result<Sums, TryFailure> {
        let piece = self.ring.piece_of(chunk, self.bytes);
        let part = SharedPart { memory: Arc::clone(&self.memory), range: self.ring.place_of(chunk, piece.end - piece.start) };
        let stall = self.shared.options.limits.stall;
        in_time(stall, self.arriving.write(piece.start, HostBytes::Shared(part))).await?;
        let arrived = in_time(stall, self.shared.memory()?.checksum(self.arriving.buffer(), piece)).await?;
        Ok(Sums { sent, arrived })
    }
}

/// The next word of the other side, which says words until the connection ends.
async fn said<T>(words: &mut (impl Stream<Item = Result<T, TryFailure>> + Unpin)) -> Result<T, TryFailure> {
    words.next().await.unwrap_or_else(|| Err(TryFailure::Failed("the other side said nothing".to_owned())))
}

/// The other side of it: fills the ring, at most as many chunks ahead as it has, and some at once.
pub(crate) async fn serve(
    shared: &Shared,
    tensor: Arc<Tensor>,
    (ring, memory): (Ring, SharedMemory),
    connection: &mut Connection,
) -> Result<(), TryFailure> {
    Filling { shared, tensor, ring, memory: Arc::new(memory) }.fill_all(connection).await?;
    connection.ended().await;
    Ok(())
}

/// The side that fills the ring.
struct Filling<'a> {
    shared: &'a Shared,
    tensor: Arc<Tensor>,
    ring: Ring,
    memory: Arc<SharedMemory>,
}

impl Filling<'_> {
    async fn fill_all(&self, connection: &mut Connection) -> Result<(), TryFailure> {
        let (words, mut speaking) = connection.halves::<Taken>();
        let mut words = pin!(words);
        let mut filling = FuturesOrdered::new();
        let count = self.tensor.buffer().len().div_ceil(self.ring.chunk_bytes);
        let (mut next, mut taken) = (0, 0);
        while taken < count {
            while next < count && next - taken < self.ring.chunks && filling.len() < CHUNKS_AT_ONCE {
                filling.push_back(self.fill(next));
                next += 1;
            }
            tokio::select! {
                biased;
                Some((chunk, filled)) = filling.next() => match filled {
                    Ok(checksum) => speaking.send(&Answer::Filled { chunk, checksum }).await?,
                    Err(failure) => {
                        let refused = Refused::new(RefusedBecause::Failed, format!("read from its GPU: {failure}"));
                        return speaking.send(&Answer::Refused(refused)).await;
                    }
                },
                word = said(&mut words) => match word? {
                    Taken::Well if taken < next => taken += 1,
                    Taken::AgainFrom(chunk) if chunk == taken => {
                        // Before their chunks are filled again.
                        while filling.next().await.is_some() {}
                        next = chunk;
                    }
                    word => return Err(TryFailure::Failed(format!("the other side says {word:?} where {taken} chunks were taken"))),
                },
            }
        }
        Ok(())
    }

    /// Copies a chunk to its place in the ring, and gives the GPU's sum of it.
    async fn fill(&self, chunk: u64) -> (u64, Result<Checksum, TryFailure>) {
        let buffer = self.tensor.buffer();
        let piece = self.ring.piece_of(chunk, buffer.len());
        let part = SharedPart { memory: Arc::clone(&self.memory), range: self.ring.place_of(chunk, piece.end - piece.start) };
        let stall = self.shared.options.limits.stall;
        let filled = async {
            let memory = self.shared.memory()?;
            let (read, summed) =
                join(in_time(stall, memory.read_to(buffer, piece.start, part)), in_time(stall, memory.checksum(buffer, piece.clone())))
                    .await;
            read.and(summed)
        };
        (chunk, filled.await)
    }
}

/// Brings it from another GPU of this process that has no way of its own to this one: reads one piece while it writes another.
pub(super) async fn carry_here(shared: &Shared, from: &TensorRecord, arriving: &Arriving) -> Result<Sums, TryFailure> {
    let source = Source::find(shared, from).await?;
    let stall = shared.options.limits.stall;
    let (there, here) = (source.plane.memory()?, shared.memory()?);
    let (read_from, to) = (source.tensor.buffer(), arriving.buffer());
    let moved = |piece: Range<u64>| async move {
        // A chunk's length fits into memory.
        let bytes = in_time(stall, there.read(read_from, piece.start, (piece.end - piece.start) as usize)).await?;
        in_time(stall, here.write(to, piece.start, HostBytes::Own(bytes))).await?;
        let sum = in_time(stall, here.checksum(to, piece.clone())).await?;
        arriving.came(piece.end - piece.start);
        Ok(sum)
    };
    let steps = stream::iter(pieces(from.bytes, CHUNK_BYTES)).map(|piece| Ok(source.summed_beside(piece.clone(), moved(piece))));
    Ok(source.whole(overlapped(AT_ONCE, steps).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_no_larger_than_what_goes_through_it() {
        let of = |bytes| {
            let Ring { chunk_bytes, chunks } = ring_for(bytes);
            (chunk_bytes, chunks)
        };
        assert_eq!(of(0), (8, 1));
        assert_eq!(of(13), (16, 1));
        assert_eq!(of(CHUNK_BYTES + 1), (CHUNK_BYTES, 2));
        assert_eq!(of(CHUNK_BYTES * 100), (CHUNK_BYTES, CHUNKS));
    }
}
