//! The way within a process: one device copies from the other.

use std::{ops::Range, time::Duration};

use devices::DeviceMemory;
use futures::{StreamExt, stream};
use protocol::TensorRecord;

use super::{
    Sums, TryFailure, in_time, pieces,
    pieces::{AT_ONCE, copied_at_once, overlapped},
    source::Source,
};
use crate::{Arriving, plane::Shared};

/// Brings it, and gives the sums on both sides.
pub(super) async fn carry(shared: &Shared, from: &TensorRecord, arriving: &Arriving) -> Result<Sums, TryFailure> {
    let source = Source::find(shared, from).await?;
    let copying = Copying { stall: shared.options.limits.stall, source: &source, memory: shared.memory()?, arriving };
    let steps = stream::iter(pieces(from.bytes, copied_at_once(from.bytes))).map(|piece| Ok(copying.piece(piece)));
    Ok(source.whole(overlapped(AT_ONCE, steps).await?))
}

struct Copying<'a> {
    stall: Duration,
    source: &'a Source,
    memory: &'a dyn DeviceMemory,
    arriving: &'a Arriving,
}

impl Copying<'_> {
    async fn piece(&self, piece: Range<u64>) -> Result<Sums, TryFailure> {
        let (from, to) = (self.source.tensor.buffer(), self.arriving.buffer());
        let (at, bytes) = (piece.start, piece.end - piece.start);
        let copied = async {
            in_time(self.stall, self.memory.copy((from, at), (to, at), bytes)).await?;
            in_time(self.stall, self.memory.checksum(to, piece.clone())).await
        };
        let sums = self.source.summed_beside(piece.clone(), copied).await?;
        self.arriving.came(bytes);
        Ok(sums)
    }
}
