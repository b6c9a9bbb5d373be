//! Joining tensors into one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use devices::{DeviceBuffer, MemoryError};
use protocol::{KeptTensor, TensorName, TensorRecord, TensorRef, TensorShape};
use tokio_util::sync::CancellationToken;

use super::{Content, Keep, Shared, within};
use crate::{DataError, Moving, TellMoving, Tensor};

/// How many parts are brought at once: each takes a connection and some pieces in memory, here and where it comes from.
const BROUGHT_AT_ONCE: usize = 8;

impl Shared {
    /// See [`DataPlane::gather`](super::DataPlane::gather).
    pub(crate) async fn gather(
        self: &Arc<Self>,
        parts: &[TensorRef],
        mut keep: Keep,
        cancel: &CancellationToken,
        tell: Option<TellMoving<'_>>,
    ) -> Result<KeptTensor, DataError> {
        let mut copies: BTreeMap<_, Vec<TensorRecord>> = BTreeMap::new();
        for copy in self.find(parts).await? {
            copies.entry(copy.name.clone()).or_default().push(copy);
        }
        let copies_of = |part: &TensorRef| copies.get(&part.tensor).map_or(&[][..], Vec::as_slice);
        // Before anything is brought here for nothing.
        let shapes = parts.iter().map(|part| shape_of(part, copies_of(part))).collect::<Result<Vec<_>, _>>()?;
        keep.shape = joined(parts, &shapes)?;
        let bringing =
            Bringing { name: &keep.name, bytes: keep.shape.bytes().unwrap_or(0), came: shapes.iter().map(|_| 0.into()).collect(), tell };
        let mut tensors = Vec::with_capacity(parts.len());
        for (some, came) in parts.chunks(BROUGHT_AT_ONCE).zip(bringing.came.chunks(BROUGHT_AT_ONCE)) {
            let each = some.iter().zip(came);
            let fetched = each.map(|(part, came)| self.bring_part((part, copies_of(part)), cancel, (&bringing, came)));
            tensors.extend(futures::future::try_join_all(fetched).await?);
        }
        if tensors.iter().map(|tensor| &tensor.about().shape).ne(&shapes) {
            let problem = "a tensor was written again with another shape while it was gathered; gather it again".to_owned();
            return Err(DataError::Invalid { problem });
        }
        let bytes = tensors.iter().map(|tensor| tensor.buffer().len()).sum();
        let joined = within(self.options.limits.for_bytes(bytes), async { Ok(self.join(&tensors, bytes).await?) });
        let joined = cancel.run_until_cancelled(joined).await.ok_or(DataError::Cancelled)??;
        self.keep(keep, Content::Gpu(joined)).await
    }

    async fn bring_part(
        self: &Arc<Self>,
        (part, copies): (&TensorRef, &[TensorRecord]),
        cancel: &CancellationToken,
        (bringing, came): (&Bringing<'_>, &AtomicU64),
    ) -> Result<Arc<Tensor>, DataError> {
        let told = |moving: &Moving| {
            came.store(moving.done_bytes, Ordering::Relaxed);
            bringing.tell();
        };
        let tell: TellMoving<'_> = &told;
        let tensor = self.fetch(part, copies, cancel, bringing.tell.is_some().then_some(tell)).await?;
        came.store(tensor.about().bytes(), Ordering::Relaxed);
        Ok(tensor)
    }

    async fn join(&self, tensors: &[Arc<Tensor>], bytes: u64) -> Result<DeviceBuffer, MemoryError> {
        let memory = self.memory()?;
        let joined = match memory.allocate(bytes).await {
            Err(MemoryError::Full { free_bytes, .. }) if self.store.make_room_for(bytes, free_bytes).await => {
                memory.allocate(bytes).await?
            }
            allocated => allocated?,
        };
        let mut at = 0;
        for tensor in tensors {
            memory.copy((tensor.buffer(), 0), (&joined, at), tensor.buffer().len()).await?;
            at += tensor.buffer().len();
        }
        Ok(joined)
    }
}

/// Parts that are brought, for those who want to know how far that is.
struct Bringing<'a> {
    name: &'a TensorName,
    bytes: u64,
    /// Of each part.
    came: Vec<AtomicU64>,
    tell: Option<TellMoving<'a>>,
}

impl Bringing<'_> {
    fn tell(&self) {
        let Some(tell) = self.tell else { return };
        let done_bytes = self.came.iter().map(|came| came.load(Ordering::Relaxed)).sum();
        tell(&Moving { name: self.name.clone(), from: None, done_bytes, bytes: self.bytes });
    }
}

fn shape_of(part: &TensorRef, copies: &[TensorRecord]) -> Result<TensorShape, DataError> {
    let version = super::finding::version_meant(part, copies);
    let copy = copies.iter().find(|copy| copy.name == part.tensor && Some(copy.version) == version);
    copy.map(|copy| copy.shape.clone()).ok_or_else(|| DataError::Missing { name: part.tensor.clone(), version: part.version })
}

/// The shape of what tensors of these shapes are together.
fn joined(parts: &[TensorRef], shapes: &[TensorShape]) -> Result<TensorShape, DataError> {
    let invalid = |problem: String| Err(DataError::Invalid { problem });
    let Some(first) = shapes.first() else { return invalid("there is nothing to gather; name at least one tensor".to_owned()) };
    let mut shape = first.clone();
    let mut along = 0_usize;
    for (part, other) in parts.iter().zip(shapes) {
        let Some((side, rest)) = other.shape.split_first() else {
            return invalid(format!("{} has no dimension along which it could be joined", part.tensor));
        };
        if other.dtype != first.dtype || first.shape.get(1..) != Some(rest) {
            return invalid(format!(
                "{} is {:?} of {:?} and {} is {:?} of {:?}; they must be alike but for the first dimension",
                parts[0].tensor, first.shape, first.dtype, part.tensor, other.shape, other.dtype
            ));
        }
        let Some(sum) = along.checked_add(*side) else { return invalid("together they are too many".to_owned()) };
        along = sum;
    }
    shape.shape[0] = along;
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use protocol::DType;

    use super::*;
    use crate::doubles::name;

    fn join(shapes: &[(DType, &[usize])]) -> Result<TensorShape, String> {
        let shapes: Vec<_> = shapes.iter().map(|(dtype, shape)| TensorShape { dtype: *dtype, shape: shape.to_vec() }).collect();
        let parts: Vec<_> = (0..shapes.len()).map(|number| TensorRef::latest(name(&format!("t{number}")))).collect();
        joined(&parts, &shapes).map_err(|error| error.to_string())
    }

    #[test]
    fn tensors_that_are_alike_but_for_their_first_dimension_are_joined_along_it() {
        let shape = join(&[(DType::F32, &[2, 5]), (DType::F32, &[3, 5]), (DType::F32, &[0, 5])]).unwrap();
        assert_eq!(shape, TensorShape { dtype: DType::F32, shape: vec![5, 5] });
    }

    #[test]
    fn others_are_refused_with_what_differs() {
        let error = join(&[(DType::F32, &[2, 5]), (DType::F32, &[2, 6])]).unwrap_err();
        assert!(error.contains("t0 is [2, 5]") && error.contains("t1 is [2, 6]"), "{error}");
        assert!(join(&[(DType::F32, &[2]), (DType::F64, &[2])]).is_err());
        assert!(join(&[(DType::F32, &[])]).unwrap_err().contains("no dimension"));
        assert!(join(&[]).is_err());
        assert!(join(&[(DType::U8, &[usize::MAX]), (DType::U8, &[1])]).is_err());
    }
}
