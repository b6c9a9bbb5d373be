//! Keeping what is made here.

use bytes::Bytes;
use devices::HostBytes;
use protocol::{IfExists, KeptTensor, TensorName, TensorShape};

use super::{Content, Keep, Shared, within};
use crate::{Arriving, DataError, KeepError, Tensor, TensorAbout, transfer::pieces};

/// In pieces of this many bytes what is on the host goes to the GPU, so that others get at it between them.
const PIECE_BYTES: u64 = 16 << 20;
const MB: u64 = 1_000_000;

impl Shared {
    /// See [`DataPlane::keep`](super::DataPlane::keep).
    pub(crate) async fn keep(&self, keep: Keep, content: Content) -> Result<KeptTensor, DataError> {
        let given = match &content {
            Content::Host(bytes) => bytes.len() as u64,
            Content::Gpu(buffer) => buffer.len(),
        };
        if length_of(&keep.shape)? != given {
            let problem =
                format!("the tensor {} has {given} bytes, and its shape says {:?} of {:?}", keep.name, keep.shape.shape, keep.shape.dtype);
            return Err(DataError::Invalid { problem });
        }
        let if_exists = keep.if_exists;
        let about = self.admit(keep).await?;
        let limit = self.options.limits.for_bytes(given);
        let tensor = match content {
            Content::Gpu(buffer) => within(limit, self.store.adopt(about, if_exists, buffer)).await?,
            Content::Host(bytes) => within(limit, self.fill(about, if_exists, bytes)).await?,
        };
        self.publish(&tensor).await?;
        let about = tensor.about();
        Ok(KeptTensor {
            tensor: about.name.clone(),
            version: about.version,
            gpu_id: self.gpu_id.clone(),
            shape: about.shape.clone(),
            bytes: about.bytes(),
        })
    }

    /// Takes room for a tensor that arrives in pieces.
    ///
    /// # Errors
    /// [`DataError`].
    pub(crate) async fn begin(&self, keep: Keep) -> Result<Arriving, DataError> {
        let limit = self.options.limits.for_bytes(length_of(&keep.shape)?);
        let if_exists = keep.if_exists;
        let about = self.admit(keep).await?;
        Ok(within(limit, self.store.begin(about, if_exists)).await?)
    }

    /// Announces a tensor that was made here. What nobody would find is not kept.
    ///
    /// # Errors
    /// [`DataError::Directory`].
    pub(crate) async fn publish(&self, tensor: &Tensor) -> Result<(), DataError> {
        let announced = self.announce(&[self.record_of(tensor)]).await;
        if announced.is_err()
            && let Some(freed) = self.store.free(&tensor.about().name, Some(tensor.about().version))
        {
            // The table may have taken it and only not have said so.
            self.tell_later([(tensor.about().name.clone(), freed)]);
        }
        self.tell_gone();
        Ok(announced?)
    }

    /// Checks what holds for the whole pool, and gives the tensor its version.
    async fn admit(&self, keep: Keep) -> Result<TensorAbout, DataError> {
        let wanted_bytes = length_of(&keep.shape)?;
        self.check_pool(wanted_bytes).await?;
        if keep.if_exists == IfExists::Fail {
            self.check_name(&keep.name, &keep.owner).await?;
        }
        let here = self.store.look(&keep.name).map_or(0, |stored| stored.about.version);
        let clock = &self.environment.clock;
        let ttl = keep.ttl.unwrap_or(self.options.ttl);
        Ok(TensorAbout {
            version: keep.version.unwrap_or_else(|| clock.now_us().max(here.saturating_add(1))),
            name: keep.name,
            shape: keep.shape,
            owner: keep.owner,
            made_ms: clock.now_ms(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn check_pool(&self, wanted_bytes: u64) -> Result<(), DataError> {
        let Some(pool_mb) = self.options.pool_mb else { return Ok(()) };
        let used_bytes = super::asking::limited(self.directory.pool_mb()).await?.saturating_mul(MB);
        let bound_bytes = pool_mb.saturating_mul(MB);
        if used_bytes.saturating_add(wanted_bytes) <= bound_bytes {
            return Ok(());
        }
        Err(KeepError::Full { wanted_bytes, used_bytes, bound_bytes, what: "all tensors of the pool (data.pool_mb)" }.into())
    }

    /// The store knows only of this GPU.
    async fn check_name(&self, name: &TensorName, owner: &str) -> Result<(), DataError> {
        let found = self.ask(std::slice::from_ref(name)).await?;
        let latest = found.into_iter().filter(|record| record.name == *name).max_by_key(|record| record.version);
        match latest {
            Some(record) if record.owner != owner => Err(KeepError::Exists { name: record.name, version: record.version }.into()),
            _ => Ok(()),
        }
    }

    async fn fill(&self, about: TensorAbout, if_exists: IfExists, bytes: Bytes) -> Result<std::sync::Arc<Tensor>, KeepError> {
        let arriving = self.store.begin(about, if_exists).await?;
        for piece in pieces(bytes.len() as u64, PIECE_BYTES) {
            let part = bytes.slice(piece.start as usize..piece.end as usize);
            arriving.write(piece.start, HostBytes::Own(part)).await?;
        }
        arriving.finish()
    }
}

fn length_of(shape: &TensorShape) -> Result<u64, DataError> {
    shape.bytes().ok_or_else(|| DataError::Invalid {
        problem: format!("a tensor of the shape {:?} has more bytes than can be counted", shape.shape),
    })
}
