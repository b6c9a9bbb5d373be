//! Letting go of tensors, wherever they are.

use std::collections::BTreeSet;

use protocol::{GpuId, TensorName, TensorRecord, TensorRef};

use super::{Shared, here};
use crate::{DataError, DirectoryError};

/// How often it is looked for copies: once, and once or twice more for those that came meanwhile.
const LOOKS: usize = 3;

impl Shared {
    /// See [`DataPlane::free`](super::DataPlane::free). Without a version, copies of older versions go too: else one of them would be the latest.
    pub(crate) async fn free(&self, reference: &TensorRef) -> Result<Vec<GpuId>, DataError> {
        let mut found = self.copies_meant(reference).await?;
        let mut freed: Vec<GpuId> = Vec::new();
        if self.free_here(&reference.tensor, reference.version).await? {
            freed.push(self.gpu_id.clone());
        }
        let (mut trouble, mut asked) = (None, BTreeSet::new());
        for _ in 0..LOOKS {
            let others = found.iter().filter(|record| !self.is_own(record));
            let outcomes = futures::future::join_all(others.map(async |record| (record, self.free_there(record).await))).await;
            for (record, outcome) in outcomes {
                match outcome {
                    Ok(true) => freed.push(record.gpu_id.clone()),
                    Ok(false) => {}
                    Err(reason) => trouble = trouble.or(Some((record.gpu_id.clone(), reason))),
                }
            }
            if found.is_empty() {
                break;
            }
            // A copy that was on its way then may have come since.
            asked.extend(found.into_iter().map(|record| (record.gpu_id, record.version)));
            found = self.copies_meant(reference).await?;
            found.retain(|record| !asked.contains(&(record.gpu_id.clone(), record.version)));
        }
        freed.sort();
        freed.dedup();
        match trouble {
            Some((gpu_id, reason)) => {
                Err(DataError::NoDestination { gpu_id, reason: format!("it does not let go of {}: {reason}", reference.tensor) })
            }
            None if freed.is_empty() => Err(DataError::Missing { name: reference.tensor.clone(), version: reference.version }),
            None => Ok(freed),
        }
    }

    /// The copies that are to go, as the table knows them.
    async fn copies_meant(&self, reference: &TensorRef) -> Result<Vec<TensorRecord>, DirectoryError> {
        let mut found = self.ask(std::slice::from_ref(&reference.tensor)).await?;
        found.retain(|record| record.name == reference.tensor && reference.version.is_none_or(|version| record.version == version));
        Ok(found)
    }

    /// Lets go of the copy that is here, or on its way; whether there was one. Who uses it, or waits for it, has it all the same.
    ///
    /// # Errors
    /// [`DataError::Directory`]: the table does not know yet. It is told again by the duty.
    pub(crate) async fn free_here(&self, name: &TensorName, version: Option<u64>) -> Result<bool, DataError> {
        // Before the store: what arrives between the two is let go of by who brings it.
        let is_any_coming = self.flights.free(name, version);
        let Some(freed) = self.store.free(name, version) else { return Ok(is_any_coming) };
        let mut untold = Untold { shared: self, copy: Some((name.clone(), freed)) };
        self.withdraw(untold.copy.as_slice()).await?;
        untold.copy = None;
        Ok(true)
    }

    pub(super) async fn free_there(&self, record: &TensorRecord) -> Result<bool, String> {
        if let Some(plane) = here::find(&record.incarnation, &record.gpu_id) {
            return plane.free_here(&record.name, Some(record.version)).await.map_err(|error| error.to_string());
        }
        let Some(port) = &record.port else { return Err("other processes do not reach it (data.listen)".to_owned()) };
        let freed = async { self.client(port, self.options.limits.stall).await?.free(&record.name, Some(record.version)).await };
        freed.await.map_err(|error| crate::error::whole(&error))
    }
}

/// A copy that is gone, and of which the table is being told. Dropped before it knows, also where whoever freed it waits no more, it is told by the duty: else it would name the copy for as long as this
/// worker lives.
struct Untold<'a> {
    shared: &'a Shared,
    /// `None`: the table knows.
    copy: Option<(TensorName, u64)>,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.take() {
            self.shared.tell_later([copy]);
        }
    }
}
