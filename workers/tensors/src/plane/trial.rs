//! The trial of the ways between the GPUs of a host, at a plane's start: so that it is known how fast they are, and which of them work, before the first task needs one.
//!
//! Each pair is tried once, both directions one after the other, with a tensor that no table hears of, and for which nothing that is kept makes way. Who starts later tries; a pair of which something is known is
//! passed over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use devices::HostBytes;
use protocol::{TensorName, TensorShape, TransferWay};

use super::{Shared, asking::limited, within};
use crate::{DataError, Destination, Tensor, TensorAbout};

/// Its tensors' names begin with this.
const NAMED: &str = "gpufleet.trial.";
/// Between two looks for the row of this GPU, which is there once its worker serves; up to half as long again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for.
const LOOKS: u32 = 60;
/// Between two pairs: what tasks have to move comes between them.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long what a trial that was given up has left is kept, in ms.
const TTL_MS: u64 = 10_000;

/// Whether a tensor is one of a trial: nobody is to find it, and what it takes counts nowhere.
pub(crate) fn is_of_trial(name: &TensorName) -> bool {
    name.as_str().starts_with(NAMED)
}

/// Tries the ways between this GPU and the others of its host, one after the other, once its worker serves.
pub(crate) async fn run(shared: Arc<Shared>) {
    let trial = async {
        for other in neighbours(&shared).await {
            if shared.ways.gb_s(&other.gpu_id, &TransferWay::ALL).is_some() {
                continue;
            }
            if let Err(reason) = shared.try_ways_of(&other).await {
                tracing::debug!(gpu_id = %shared.gpu_id, other = %other.gpu_id, reason, "the ways between two GPUs were not tried to the end");
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    shared.ended.run_until_cancelled(trial).await;
}

/// The other GPUs of this one's host, once the table knows this one. None where it does not within a minute.
async fn neighbours(shared: &Shared) -> Vec<Destination> {
    for _ in 0..LOOKS {
        // Those that start at the same time do not all try at the same time.
        tokio::time::sleep(LOOK_EVERY.mul_f64(1.0 + 0.5 * shared.environment.random.unit())).await;
        let Ok(mut all) = limited(shared.directory.destinations()).await else { continue };
        let is_own = |destination: &Destination| destination.gpu_id == shared.gpu_id && destination.incarnation == shared.incarnation;
        if let Some(host) = all.iter().find(|destination| is_own(destination)).map(|own| own.host.clone()) {
            all.retain(|destination| destination.host == host && destination.gpu_id != shared.gpu_id);
            return all;
        }
    }
    Vec::new()
}

impl Shared {
    /// The other one reads a tensor of this GPU, and then this one reads it back. Each remembers what its way carried.
    async fn try_ways_of(self: &Arc<Self>, other: &Destination) -> Result<(), String> {
        let limit = self.options.limits.for_bytes(self.options.trial_bytes);
        let tensor = self.made_for_trial().await.map_err(|error| error.to_string())?;
        let name = tensor.about().name.clone();
        let there = self.order(other, self.record_of(&tensor), limit).await;
        drop(tensor);
        self.store.free(&name, None);
        let there = there?;
        let here = self.fetch_from(&there, limit).await.map(drop).map_err(|error| error.to_string());
        self.store.free(&name, None);
        let freed = self.free_there(&there).await;
        here.and(freed.map(drop))
    }

    async fn made_for_trial(&self) -> Result<Arc<Tensor>, DataError> {
        let number = self.environment.random.next_u64();
        let bytes = usize::try_from(self.options.trial_bytes).unwrap_or(usize::MAX);
        let name = TensorName::new(format!("{NAMED}{number:016x}")).map_err(|error| DataError::Invalid { problem: error.to_string() })?;
        let about = TensorAbout {
            name,
            version: 1,
            shape: TensorShape::of_bytes(bytes),
            owner: "trial".to_owned(),
            made_ms: self.environment.clock.now_ms(),
            ttl_ms: TTL_MS,
        };
        let made = async {
            let arriving = self.store.begin_beside(about).await?;
            arriving.write(0, HostBytes::Own(Bytes::from(vec![0x5A; bytes]))).await?;
            arriving.finish()
        };
        Ok(within(self.options.limits.for_bytes(self.options.trial_bytes), made).await?)
    }
}
