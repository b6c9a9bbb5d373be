//! Keeping what is made here.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use devices::HostBytes;
use protocol::{IfExists, KeptTensor, TensorName, TensorRecord, TensorShape};

use super::{Content, Keep, Shared, trial::is_of_trial, within};
use crate::{Arriving, DataError, Draw, KeepError, Tensor, TensorAbout, store::Replaced, transfer::pieces};

/// In pieces of this many bytes what is on the host goes to the GPU, so that others get at it between them.
const PIECE_BYTES: u64 = 16 << 20;
const MB: u64 = 1_000_000;
/// How long who keeps a name that is not to be replaced waits for another one, who did so at the same time and is to let go of it.
const LETS_GO: Duration = Duration::from_millis(500);

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
        let arriving = match content {
            Content::Gpu(buffer) => within(limit, self.store.arrived(about, if_exists, buffer)).await?,
            Content::Host(bytes) => within(limit, self.fill(about, if_exists, bytes)).await?,
        };
        let tensor = self.publish(arriving, if_exists).await?;
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

    /// Announces a tensor that was made here. What nobody would find is not kept, nor what is not to replace another owner's that came under the same name on another GPU meanwhile: what it replaced here is there again.
    ///
    /// # Errors
    /// [`DataError::Directory`]; [`KeepError::Exists`].
    pub(crate) async fn publish(&self, arriving: Arriving, if_exists: IfExists) -> Result<Arc<Tensor>, DataError> {
        let (tensor, replaced) = arriving.finish_beside()?;
        let mut unpublished = Unpublished { shared: self, tensor: Arc::clone(&tensor), replaced: Some(replaced) };
        let mut published = self.announce(&[self.record_of(&tensor)]).await.map_err(DataError::from);
        if published.is_ok() && if_exists == IfExists::Fail {
            published = self.check_alone(tensor.about()).await;
        }
        if published.is_ok() {
            unpublished.replaced = None;
        }
        drop(unpublished);
        self.tell_gone();
        published.map(|()| tensor)
    }

    /// Looks whether another owner has kept the name, too, since this one asked for it. Each looks after it has announced its own, so at least one of two sees the other: the one with the higher version lets go at
    /// once, and the other one where that does not happen.
    async fn check_alone(&self, about: &TensorAbout) -> Result<(), DataError> {
        let exists = |version| Err(KeepError::Exists { name: about.name.clone(), version }.into());
        match self.others(about).await? {
            None => return Ok(()),
            Some(version) if version <= about.version => return exists(version),
            Some(_) => tokio::time::sleep(LETS_GO).await,
        }
        self.others(about).await?.map_or(Ok(()), exists)
    }

    /// The lowest version that another owner has of a name.
    async fn others(&self, about: &TensorAbout) -> Result<Option<u64>, DataError> {
        let found = self.ask(std::slice::from_ref(&about.name)).await?;
        let others = found.into_iter().filter(|record| record.name == about.name && record.owner != about.owner);
        Ok(others.map(|record| record.version).min())
    }

    /// Checks what holds for the whole pool, and gives the tensor its version.
    async fn admit(&self, keep: Keep) -> Result<TensorAbout, DataError> {
        if is_of_trial(&keep.name) {
            return Err(DataError::Invalid { problem: format!("the name {} is one of the fleet's own; take another one", keep.name) });
        }
        let wanted_bytes = length_of(&keep.shape)?;
        self.check_pool(wanted_bytes).await?;
        if keep.if_exists == IfExists::Fail
            && let Some(there) = self.latest(&keep.name).await?
            && there.owner != keep.owner
        {
            return Err(KeepError::Exists { name: keep.name, version: there.version }.into());
        }
        let clock = &self.environment.clock;
        // What is here counts, too, where the table does not know of it yet.
        let above_here = self.store.look(&keep.name).map_or(0, |stored| stored.about.version.saturating_add(1));
        let now_us = clock.now_us().max(above_here);
        let version = self.draw(&Draw { name: &keep.name, owner: &keep.owner, token: keep.version, now_us }).await?;
        let ttl = keep.ttl.unwrap_or(self.options.ttl);
        Ok(TensorAbout {
            version,
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

    /// Whether the pool has room for one more copy. Where the table does not say, it has: what is in a living copy's place can be brought also while the table is away.
    ///
    /// # Errors
    /// [`KeepError::Full`].
    pub(crate) async fn check_pool_for_copy(&self, record: &TensorRecord) -> Result<(), DataError> {
        match self.check_pool(record.bytes).await {
            Err(DataError::Directory(error)) => {
                tracing::debug!(tensor = %record.name, %error, "a copy is brought without knowing what the pool has");
                Ok(())
            }
            checked => checked,
        }
    }

    /// What the table has as the latest of a name: the store knows only of this GPU.
    async fn latest(&self, name: &TensorName) -> Result<Option<TensorRecord>, DataError> {
        let found = self.ask(std::slice::from_ref(name)).await?;
        Ok(found.into_iter().filter(|record| record.name == *name).max_by_key(|record| record.version))
    }

    async fn fill(&self, about: TensorAbout, if_exists: IfExists, bytes: Bytes) -> Result<Arriving, KeepError> {
        let arriving = self.store.begin(about, if_exists).await?;
        for piece in pieces(bytes.len() as u64, PIECE_BYTES) {
            let part = bytes.slice(piece.start as usize..piece.end as usize);
            arriving.write(piece.start, HostBytes::Own(part)).await?;
        }
        Ok(arriving)
    }
}

/// A tensor that is here and of which nobody else knows yet. Dropped before it is published, it goes, and what it replaced is there again.
struct Unpublished<'a> {
    shared: &'a Shared,
    tensor: Arc<Tensor>,
    /// `None`: it is published.
    replaced: Option<Replaced>,
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        let Some(replaced) = self.replaced.take() else { return };
        if self.shared.store.take_back(&self.tensor, replaced) {
            let about = self.tensor.about();
            // The table may have taken it and only not have said so. Once it knows that this one is gone, it hears anew what the name is.
            self.shared.told.forget([about.name.clone()]);
            self.shared.tell_later([(about.name.clone(), about.version)]);
        }
    }
}

fn length_of(shape: &TensorShape) -> Result<u64, DataError> {
    shape.bytes().ok_or_else(|| DataError::Invalid {
        problem: format!("a tensor of the shape {:?} has more bytes than can be counted", shape.shape),
    })
}
