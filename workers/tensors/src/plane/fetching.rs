//! Having a tensor here.

use std::sync::Arc;

use protocol::{TensorRecord, TensorRef};
use tokio_util::sync::CancellationToken;

use super::{Shared, finding::version_meant};
use crate::{DataError, TellMoving, Tensor};

impl Shared {
    /// See [`DataPlane::fetch_telling`](super::DataPlane::fetch_telling).
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        reference: &TensorRef,
        copies: &[TensorRecord],
        cancel: &CancellationToken,
        tell: Option<TellMoving<'_>>,
    ) -> Result<Arc<Tensor>, DataError> {
        let name = &reference.tensor;
        let missing = || DataError::Missing { name: name.clone(), version: reference.version };
        let here = self.store.look(name).map(|stored| stored.about.version);
        // Without a version, what was made here since the table was asked is the latest.
        let version = reference.version.or_else(|| version_meant(reference, copies).max(here)).ok_or_else(missing)?;
        let found = cancel.run_until_cancelled(self.stored(name, Some(version))).await.ok_or(DataError::Cancelled)??;
        if let Some(tensor) = found {
            return Ok(tensor);
        }
        // A record that contradicts itself would leave bytes of the tensor unwritten.
        let is_sound = |record: &TensorRecord| record.shape.bytes() == Some(record.bytes);
        let is_meant =
            |record: &&TensorRecord| record.name == *name && record.version == version && !self.is_own(record) && is_sound(record);
        let copies: Vec<_> = copies.iter().filter(is_meant).cloned().collect();
        if copies.is_empty() {
            return Err(missing());
        }
        self.bring(copies, cancel, tell).await
    }
}
