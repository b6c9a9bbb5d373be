//! What the table hears of the tensors that are here, again and again: it may be emptied at any time, and then nobody finds them.
//!
//! A tensor is announced when it is kept. This duty tells of all of them once more: with every tenth heartbeat, and while the table has not heard of workers for a lease without a gap, which is what it looks like
//! after it was emptied. It is a duty of its own, so that many tensors hold up no heartbeat; a GPU that has none asks the table nothing.

use std::sync::Arc;

use tensors::DataPlane;

use crate::{
    context::{Context, Gpu},
    me::{Me, Signals},
    ports::Ports,
};

/// How many looks pass between two tellings to a table that is steady.
const TELL_EVERY: u64 = 10;

/// What tells.
pub(crate) struct Teller {
    ports: Ports,
    me: Arc<Me>,
    gpu: Arc<Gpu>,
    signals: Arc<Signals>,
}

impl Teller {
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            ports: context.ports.clone(),
            me: Arc::clone(&context.me),
            gpu: Arc::clone(&context.gpu),
            signals: Arc::clone(&context.signals),
        }
    }

    /// Looks as often as the heart beats, until the last beat. Ends at once where the GPU keeps no tensors.
    pub(crate) async fn run(self) {
        let Some(data) = self.gpu.data.get() else { return };
        let mut looks: u64 = 0;
        loop {
            tokio::select! {
                biased;
                () = self.signals.last_beat.cancelled() => return,
                () = self.next_look(&data.plane) => {}
            }
            looks += 1;
            if looks.is_multiple_of(TELL_EVERY) || self.may_have_been_emptied().await {
                self.tell(&data.plane).await;
            }
        }
    }

    /// A GPU that has nothing waits until it has.
    async fn next_look(&self, plane: &DataPlane) {
        plane.store().until_any().await;
        tokio::time::sleep(self.me.options.lease / 3).await;
    }

    /// A table that does not answer is told once it does.
    async fn may_have_been_emptied(&self) -> bool {
        match self.ports.table.steady(&self.me.options.pool).await {
            Ok(steady) => steady < self.me.options.lease,
            Err(error) => {
                tracing::debug!(%error, "the table does not say whether it knows of the tensors here");
                false
            }
        }
    }

    async fn tell(&self, plane: &DataPlane) {
        let told = tokio::select! {
            biased;
            () = self.signals.last_beat.cancelled() => return,
            told = plane.announce_all() => told,
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the table was not told of all tensors here; it is told again");
        }
    }
}
