//! The GPU of this process that a transfer reads from.

use std::{ops::Range, sync::Arc, time::Duration};

use futures::future::join;
use protocol::{Checksum, TensorRecord};

use super::{Sums, TryFailure, in_time};
use crate::{
    Tensor,
    plane::{Shared, here},
};

/// A tensor on another GPU of this process.
pub(super) struct Source {
    pub(super) plane: Arc<Shared>,
    pub(super) tensor: Arc<Tensor>,
    /// The sum over all of it, where that is known already.
    sum: Option<Checksum>,
    stall: Duration,
}

impl Source {
    /// The one that a record is of.
    ///
    /// # Errors
    /// [`TryFailure::Gone`], and where it cannot be brought back from the host's memory.
    pub(super) async fn find(shared: &Shared, record: &TensorRecord) -> Result<Self, TryFailure> {
        let plane = here::find(&record.incarnation, &record.gpu_id).ok_or(TryFailure::Gone)?;
        let stall = shared.options.limits.stall;
        let tensor = in_time(stall, plane.store.get(&record.name, Some(record.version))).await?.ok_or(TryFailure::Gone)?;
        Ok(Self { sum: tensor.sum(), plane, tensor, stall })
    }

    /// Has a piece moved, which gives the sum over what arrived, and sums it here beside that. Where the sum over all is known it is not summed again: only the whole can be compared then.
    pub(super) async fn summed_beside(
        &self,
        piece: Range<u64>,
        moved: impl Future<Output = Result<Checksum, TryFailure>>,
    ) -> Result<Sums, TryFailure> {
        if self.sum.is_some() {
            return Ok(Sums { sent: Checksum::default(), arrived: moved.await? });
        }
        let memory = self.plane.memory()?;
        let (arrived, sent) = join(moved, in_time(self.stall, memory.checksum(self.tensor.buffer(), piece))).await;
        Sums { sent: sent?, arrived: arrived? }.agreed()
    }

    /// The sums over the whole, of those over all pieces.
    pub(super) fn whole(&self, pieces: Sums) -> Sums {
        if let Some(sent) = self.sum {
            return Sums { sent, ..pieces };
        }
        self.tensor.keep_sum(pieces.sent);
        pieces
    }
}
