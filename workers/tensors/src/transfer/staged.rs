//! The way through the host's memory: the source fills one chunk of a ring while this side takes another.

use std::{ops::Range, sync::Arc};

use data_link::{Refused, RefusedBecause};
use devices::{HostBytes, SharedMemory, SharedPart};
use futures::future::try_join;
use protocol::{Checksum, TensorRecord};

use super::{TryFailure, in_time, pieces};
use crate::{
    Arriving, Tensor,
    plane::{Shared, here},
    socket::{Answer, Connection, Request, Ring, Taken, Wanted},
};

/// Bytes of a chunk, a multiple of eight.
const CHUNK_BYTES: u64 = 4 << 20;
/// Chunks of a ring. With two, one is filled while the other is taken; the others even out what either side waits for.
const CHUNKS: u64 = 4;
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

/// Brings it from another process, and gives the sum of what its GPU has.
pub(super) async fn carry(shared: &Shared, from: &TensorRecord, arriving: &Arriving) -> Result<Checksum, TryFailure> {
    let stall = shared.options.limits.stall;
    let wanted = Wanted::new(from)?;
    let ring = ring_for(from.bytes);
    let memory = Arc::new(SharedMemory::allocate(ring.bytes())?);
    let mut connection = in_time(stall, Connection::open(wanted.socket)).await?;
    in_time(stall, connection.send_with(&Request::Staged(wanted.tensor, ring), &*memory)).await?;
    let mut sum = Checksum::default();
    let mut refused = 0;
    for (number, piece) in (0..).zip(pieces(from.bytes, ring.chunk_bytes)) {
        loop {
            let checksum = match in_time(stall, connection.receive::<Answer>()).await? {
                Answer::Filled { chunk, checksum } if chunk == number => checksum,
                // What was filled before this side asked for a chunk again comes again, in its order.
                Answer::Filled { chunk, .. } if chunk > number && refused > 0 => continue,
                Answer::Refused(refused) => return Err(refused.into()),
                answer => return Err(answer.unexpected()),
            };
            let part = SharedPart { memory: Arc::clone(&memory), range: ring.place_of(number, piece.end - piece.start) };
            in_time(stall, arriving.write(piece.start, HostBytes::Shared(part))).await?;
            // The GPUs' own sums: what changed on either side of the shared memory is found, too.
            if in_time(stall, shared.memory()?.checksum(arriving.buffer(), piece.clone())).await? == checksum {
                sum = sum.with(checksum);
                in_time(stall, connection.send(&Taken::Well)).await?;
                break;
            }
            refused += 1;
            if refused >= TRIES {
                return Err(TryFailure::Corrupted);
            }
            in_time(stall, connection.send(&Taken::AgainFrom(number))).await?;
        }
    }
    Ok(sum)
}

/// The other side of it: fills the ring, at most as many chunks ahead as it has.
pub(crate) async fn serve(
    shared: &Shared,
    tensor: Arc<Tensor>,
    (ring, memory): (Ring, SharedMemory),
    connection: &mut Connection,
) -> Result<(), TryFailure> {
    let source = Source { shared, tensor, ring, memory: Arc::new(memory) };
    let count = source.tensor.buffer().len().div_ceil(ring.chunk_bytes);
    let (mut next, mut taken) = (0, 0);
    while taken < count {
        if next < count && next - taken < ring.chunks {
            match source.fill(next).await {
                Ok(checksum) => connection.send(&Answer::Filled { chunk: next, checksum }).await?,
                Err(failure) => {
                    let refused = Refused::new(RefusedBecause::Failed, format!("read from its GPU: {failure}"));
                    return connection.send(&Answer::Refused(refused)).await;
                }
            }
            next += 1;
            continue;
        }
        match connection.receive::<Taken>().await? {
            Taken::Well => taken += 1,
            Taken::AgainFrom(chunk) if chunk == taken => next = chunk,
            Taken::AgainFrom(chunk) => return Err(TryFailure::Failed(format!("chunk {chunk} was asked for again, {taken} were taken"))),
        }
    }
    connection.ended().await;
    Ok(())
}

struct Source<'a> {
    shared: &'a Shared,
    tensor: Arc<Tensor>,
    ring: Ring,
    memory: Arc<SharedMemory>,
}

impl Source<'_> {
    /// Copies a chunk to its place in the ring, and gives the GPU's sum of it.
    async fn fill(&self, chunk: u64) -> Result<Checksum, TryFailure> {
        let buffer = self.tensor.buffer();
        let start = chunk * self.ring.chunk_bytes;
        let piece = start..(start + self.ring.chunk_bytes).min(buffer.len());
        let part = SharedPart { memory: Arc::clone(&self.memory), range: self.ring.place_of(chunk, piece.end - piece.start) };
        let stall = self.shared.options.limits.stall;
        let memory = self.shared.memory()?;
        in_time(stall, memory.read_to(buffer, piece.start, part)).await?;
        in_time(stall, memory.checksum(buffer, piece)).await
    }
}

/// Brings it from another GPU of this process that has no way of its own to this one: reads one piece while it writes another.
pub(super) async fn carry_here(shared: &Shared, from: &TensorRecord, arriving: &Arriving) -> Result<Checksum, TryFailure> {
    let source = here::find(&from.incarnation, &from.gpu_id).ok_or(TryFailure::Gone)?;
    let stall = shared.options.limits.stall;
    let tensor = in_time(stall, source.store.get(&from.name, Some(from.version))).await?.ok_or(TryFailure::Gone)?;
    let there = source.memory()?;
    let read = async |piece: Range<u64>| {
        let checksum = in_time(stall, there.checksum(tensor.buffer(), piece.clone())).await?;
        // A chunk's length fits into memory.
        let bytes = in_time(stall, there.read(tensor.buffer(), piece.start, (piece.end - piece.start) as usize)).await?;
        Ok::<_, TryFailure>((piece.start, bytes, checksum))
    };
    let mut sum = Checksum::default();
    let mut waiting = None;
    for piece in pieces(from.bytes, CHUNK_BYTES) {
        let (next, ()) = try_join(read(piece), write(stall, arriving, waiting)).await?;
        let (at, bytes, checksum) = next;
        sum = sum.with(checksum);
        waiting = Some((at, bytes));
    }
    write(stall, arriving, waiting).await?;
    Ok(sum)
}

async fn write(stall: std::time::Duration, arriving: &Arriving, piece: Option<(u64, bytes::Bytes)>) -> Result<(), TryFailure> {
    match piece {
        Some((at, bytes)) => in_time(stall, arriving.write(at, HostBytes::Own(bytes))).await,
        None => Ok(()),
    }
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
