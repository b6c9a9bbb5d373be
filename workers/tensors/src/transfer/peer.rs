//! The way between two processes of a host from GPU to GPU: the other process exports the buffer, and this one copies from it.

use std::sync::Arc;

use data_link::{Refused, RefusedBecause};
use devices::{DeviceBuffer, PeerHandle};
use protocol::{Checksum, TensorRecord};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{TryFailure, in_time, pieces};
use crate::{
    Arriving, Tensor,
    plane::Shared,
    socket::{Answer, Connection, Request, Wanted},
};

const PIECE_BYTES: u64 = 64 << 20;

/// Brings it, and gives the sum that the other GPU has of it.
///
/// The copy is a job of its own: whoever does not wait for it any more ends it between two pieces, and the other process holds the buffer until then.
pub(super) async fn carry(shared: &Arc<Shared>, from: &TensorRecord, arriving: &Arriving) -> Result<Checksum, TryFailure> {
    let stall = shared.options.limits.stall;
    let wanted = Wanted::new(from)?;
    let mut connection = in_time(stall, Connection::open(wanted.socket)).await?;
    in_time(stall, connection.send(&Request::Peer(wanted.tensor))).await?;
    let (handle, sum) = match in_time(stall, connection.receive::<Answer>()).await? {
        Answer::Exported { handle, checksum } => (PeerHandle(handle), checksum),
        Answer::Refused(refused) => return Err(refused.into()),
        answer => return Err(answer.unexpected()),
    };
    let opened = in_time(stall, shared.memory()?.open(&handle, &from.gpu_id, from.bytes)).await?;
    let stop = CancellationToken::new();
    let _stops_with_the_caller = stop.clone().drop_guard();
    let copying = Copying { shared: Arc::clone(shared), opened, connection, to: arriving.buffer().clone(), stop };
    let (done, outcome) = oneshot::channel();
    // Where nobody waits any more, nobody wants to know.
    shared.spawn("peer copy", async move { drop(done.send(copying.run().await)) });
    outcome.await.map_err(|_| TryFailure::Failed("the copy was ended".to_owned()))??;
    Ok(sum)
}

struct Copying {
    shared: Arc<Shared>,
    opened: DeviceBuffer,
    connection: Connection,
    to: DeviceBuffer,
    stop: CancellationToken,
}

impl Copying {
    async fn run(self) -> Result<(), TryFailure> {
        let Self { shared, opened, connection, to, stop } = self;
        let copied = async {
            for piece in pieces(opened.len(), PIECE_BYTES) {
                if stop.is_cancelled() || shared.ended.is_cancelled() {
                    return Err(TryFailure::Failed("the copy was ended".to_owned()));
                }
                let (at, bytes) = (piece.start, piece.end - piece.start);
                in_time(shared.options.limits.stall, shared.memory()?.copy((&opened, at), (&to, at), bytes)).await?;
            }
            Ok(())
        };
        let copied = copied.await;
        // In this order: the other process lets go of the buffer when the connection ends.
        drop(opened);
        drop(connection);
        copied
    }
}

/// The other side of it: exports the tensor and holds it until the one who reads it ends the connection.
pub(crate) async fn serve(shared: &Shared, tensor: Arc<Tensor>, connection: &mut Connection) -> Result<(), TryFailure> {
    let exported = async {
        let memory = shared.memory()?;
        let handle = memory.export(tensor.buffer())?;
        let mut checksum = Checksum::default();
        for piece in pieces(tensor.buffer().len(), PIECE_BYTES) {
            checksum = checksum.with(memory.checksum(tensor.buffer(), piece).await?);
        }
        Ok::<_, TryFailure>((handle, checksum))
    };
    let answer = match exported.await {
        Ok((PeerHandle(handle), checksum)) => Answer::Exported { handle, checksum },
        Err(TryFailure::Unsupported(reason)) => Answer::Refused(Refused::new(RefusedBecause::Unsupported, reason)),
        Err(failure) => Answer::Refused(Refused::new(RefusedBecause::Failed, failure.to_string())),
    };
    connection.send(&answer).await?;
    connection.ended().await;
    Ok(())
}
