//! The way within a process: one device copies from the other.

use protocol::{Checksum, TensorRecord};

use super::{TryFailure, in_time, pieces};
use crate::{
    Arriving,
    plane::{Shared, here},
};

/// Large enough that the pauses between pieces do not show, small enough that it can be ended.
const PIECE_BYTES: u64 = 64 << 20;

/// Brings it, and gives the sum of what was read.
pub(super) async fn carry(shared: &Shared, from: &TensorRecord, arriving: &Arriving) -> Result<Checksum, TryFailure> {
    let source = here::find(&from.incarnation, &from.gpu_id).ok_or(TryFailure::Gone)?;
    let stall = shared.options.limits.stall;
    let tensor = in_time(stall, source.store.get(&from.name, Some(from.version))).await?.ok_or(TryFailure::Gone)?;
    let (there, here) = (source.memory()?, shared.memory()?);
    let mut sum = Checksum::default();
    for piece in pieces(from.bytes, PIECE_BYTES) {
        let (at, bytes) = (piece.start, piece.end - piece.start);
        sum = sum.with(in_time(stall, there.checksum(tensor.buffer(), piece)).await?);
        in_time(stall, here.copy((tensor.buffer(), at), (arriving.buffer(), at), bytes)).await?;
    }
    Ok(sum)
}
