//! The way between two processes of a host from GPU to GPU: the other process exports the buffer, and this one copies from it.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use data_link::{Refused, RefusedBecause};
use devices::{DeviceBuffer, PeerHandle};
use futures::{StreamExt, stream};
use protocol::{Checksum, TensorRecord};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Sums, TryFailure, in_time, pieces,
    pieces::{AT_ONCE, copied_at_once, overlapped},
};
use crate::{
    Arriving, Tensor,
    plane::Shared,
    socket::{Answer, Connection, Request, Wanted},
};

/// In pieces of this many bytes a tensor is summed whose sum is not known.
const SUMMED_BYTES: u64 = 64 << 20;

/// Brings it, and gives the sum that the other GPU has of it, and that of what arrived.
///
/// The copy is a job of its own: whoever does not wait for it any more ends it between two pieces, and the other process holds the buffer until then.
pub(super) async fn carry(shared: &Arc<Shared>, from: &TensorRecord, arriving: &Arriving) -> Result<Sums, TryFailure> {
    let stall = shared.options.limits.stall;
    let wanted = Wanted::new(from)?;
    let mut connection = in_time(stall, Connection::open(wanted.socket)).await?;
    in_time(stall, connection.send(&Request::Peer(wanted.tensor))).await?;
    let handle = match in_time(stall, connection.receive::<Answer>()).await? {
        Answer::Exported { handle } => PeerHandle(handle),
        Answer::Refused(refused) => return Err(refused.into()),
        answer => return Err(answer.unexpected()),
    };
    let opened = in_time(stall, shared.memory()?.open(&handle, &from.gpu_id, from.bytes)).await?;
    let stop = CancellationToken::new();
    let _stops_with_the_caller = stop.clone().drop_guard();
    let copying =
        Copying { shared: Arc::clone(shared), opened, connection, to: arriving.buffer().clone(), came: Arc::clone(arriving.count()), stop };
    let (done, outcome) = oneshot::channel();
    // Where nobody waits any more, nobody wants to know.
    shared.spawn("peer copy", async move { drop(done.send(copying.run().await)) });
    outcome.await.map_err(|_| TryFailure::Failed("the copy was ended".to_owned()))?
}

struct Copying {
    shared: Arc<Shared>,
    opened: DeviceBuffer,
    connection: Connection,
    to: DeviceBuffer,
    came: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Copying {
    async fn run(mut self) -> Result<Sums, TryFailure> {
        let copied = self.copied().await;
        // In this order: the other process lets go of the buffer when the connection ends.
        drop(self.opened);
        drop(self.connection);
        copied
    }

    /// Copies all of it. Beside that the other side sums it.
    async fn copied(&mut self) -> Result<Sums, TryFailure> {
        let bytes = self.opened.len();
        let steps = stream::iter(pieces(bytes, copied_at_once(bytes))).map(|piece| Ok(self.piece(piece)));
        let Sums { arrived, .. } = overlapped(AT_ONCE, steps).await?;
        match in_time(self.shared.options.limits.stall, self.connection.receive::<Answer>()).await? {
            Answer::Summed { checksum: sent } => Ok(Sums { sent, arrived }),
            Answer::Refused(refused) => Err(refused.into()),
            answer => Err(answer.unexpected()),
        }
    }

    /// Copies a piece, and sums what arrived.
    async fn piece(&self, piece: Range<u64>) -> Result<Sums, TryFailure> {
        let Self { shared, opened, to, came, stop, .. } = self;
        if stop.is_cancelled() || shared.ended.is_cancelled() {
            return Err(TryFailure::Failed("the copy was ended".to_owned()));
        }
        let (memory, stall) = (shared.memory()?, shared.options.limits.stall);
        let bytes = piece.end - piece.start;
        in_time(stall, memory.copy((opened, piece.start), (to, piece.start), bytes)).await?;
        let arrived = in_time(stall, memory.checksum(to, piece)).await?;
        came.fetch_add(bytes, Ordering::Relaxed);
        Ok(Sums { sent: Checksum::default(), arrived })
    }
}

/// The other side of it: exports the tensor, sums it beside the copy, and holds it until the one who reads it ends the connection.
pub(crate) async fn serve(shared: &Shared, tensor: Arc<Tensor>, connection: &mut Connection) -> Result<(), TryFailure> {
    let exported = shared.memory().map_err(TryFailure::from).and_then(|memory| Ok(memory.export(tensor.buffer())?));
    let answer = exported.map_or_else(refused, |PeerHandle(handle)| Answer::Exported { handle });
    connection.send(&answer).await?;
    if matches!(answer, Answer::Exported { .. }) {
        let answer = summed(shared, &tensor).await.map_or_else(refused, |checksum| Answer::Summed { checksum });
        connection.send(&answer).await?;
    }
    connection.ended().await;
    Ok(())
}

/// The sum over all of a tensor, which is computed once.
async fn summed(shared: &Shared, tensor: &Tensor) -> Result<Checksum, TryFailure> {
    if let Some(sum) = tensor.sum() {
        return Ok(sum);
    }
    let memory = shared.memory()?;
    let mut sum = Checksum::default();
    for piece in pieces(tensor.buffer().len(), SUMMED_BYTES) {
        sum = sum.with(memory.checksum(tensor.buffer(), piece).await?);
    }
    tensor.keep_sum(sum);
    Ok(sum)
}

fn refused(failure: TryFailure) -> Answer {
    let because = if matches!(failure, TryFailure::Unsupported(_)) { RefusedBecause::Unsupported } else { RefusedBecause::Failed };
    Answer::Refused(Refused::new(because, failure.to_string()))
}
