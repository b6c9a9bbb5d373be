//! What the data port of a GPU serves: its store, and transfers to it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use data_link::{FetchOrder, NewTensor, Opened, Reading, Refused, RefusedBecause, Served, Writing};
use devices::HostBytes;
use futures::future::try_join;
use protocol::{Checksum, IfExists, TensorName, TensorRecord, TensorRef};
use tokio_util::sync::CancellationToken;

use crate::{
    Arriving, DataError, KeepError, Tensor,
    plane::{Keep, Shared},
};

/// A plane, as its ports serve it.
pub(crate) struct ServedPlane(pub(crate) Arc<Shared>);

#[async_trait]
impl Served for ServedPlane {
    async fn open(&self, name: &TensorName, version: Option<u64>) -> Result<Opened, Refused> {
        let Self(shared) = self;
        let tensor = shared.stored(name, version).await.map_err(|error| refusal(&error.into()))?;
        let Some(tensor) = tensor else { return Err(refusal(&DataError::Missing { name: name.clone(), version })) };
        let record = shared.record_of(&tensor);
        Ok(Arc::new(OpenTensor { shared: Arc::clone(shared), tensor, record }))
    }

    async fn write(&self, new: NewTensor) -> Result<Box<dyn Writing>, Refused> {
        let keep = Keep {
            name: new.name,
            shape: new.shape,
            owner: new.owner,
            version: None,
            ttl: new.ttl_ms.map(Duration::from_millis),
            if_exists: new.if_exists,
        };
        let if_exists = keep.if_exists;
        let arriving = self.0.begin(keep).await.map_err(|error| refusal(&error))?;
        Ok(Box::new(ArrivingTensor { shared: Arc::clone(&self.0), arriving, if_exists, written: 0 }))
    }

    async fn free(&self, name: &TensorName, version: Option<u64>) -> Result<bool, Refused> {
        self.0.free_here(name, version).await.map_err(|error| refusal(&error))
    }

    async fn fetch(&self, order: FetchOrder) -> Result<TensorRecord, Refused> {
        let limit = Duration::from_millis(order.timeout_ms);
        let fetched = self.0.fetch_from(&order.from, limit).await;
        fetched.map(|tensor| self.0.record_of(&tensor)).map_err(|error| refusal(&error))
    }
}

impl Shared {
    /// Brings one copy here that somebody else found.
    ///
    /// # Errors
    /// [`DataError`].
    pub(crate) async fn fetch_from(self: &Arc<Self>, from: &TensorRecord, limit: Duration) -> Result<Arc<Tensor>, DataError> {
        let reference = TensorRef { tensor: from.name.clone(), version: Some(from.version) };
        let cancel = CancellationToken::new();
        let fetched = tokio::time::timeout(limit, self.fetch(&reference, std::slice::from_ref(from), &cancel, None)).await;
        fetched.unwrap_or_else(|_| {
            let reason = format!("it did not come within {} ms", limit.as_millis());
            Err(DataError::Transfer { name: from.name.clone(), to: self.gpu_id.clone(), reason })
        })
    }
}

struct OpenTensor {
    shared: Arc<Shared>,
    tensor: Arc<Tensor>,
    record: TensorRecord,
}

#[async_trait]
impl Reading for OpenTensor {
    fn record(&self) -> &TensorRecord {
        &self.record
    }

    async fn read(&self, at: u64, bytes: usize) -> Result<(Bytes, Checksum), Refused> {
        let end = at.checked_add(bytes as u64).filter(|end| *end <= self.record.bytes);
        let Some(end) = end.filter(|_| at.is_multiple_of(8)) else {
            let message = format!("{bytes} bytes at {at} of {}: a piece begins at a multiple of 8 and ends within it", self.record.bytes);
            return Err(Refused::new(RefusedBecause::Invalid, message));
        };
        let read = async {
            let memory = self.shared.memory()?;
            // The GPU's own sum: what changes on the way to the host is found by the one who reads.
            try_join(memory.read(self.tensor.buffer(), at, bytes), memory.checksum(self.tensor.buffer(), at..end)).await
        };
        read.await.map_err(|error| refusal(&DataError::from(KeepError::Memory(error))))
    }
}

struct ArrivingTensor {
    shared: Arc<Shared>,
    arriving: Arriving,
    if_exists: IfExists,
    written: u64,
}

#[async_trait]
impl Writing for ArrivingTensor {
    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), Refused> {
        let room = self.arriving.buffer().len() - self.written;
        if at != self.written || bytes.len() as u64 > room {
            let message = format!("{} bytes at {at}, where {room} from {} on are missing", bytes.len(), self.written);
            return Err(Refused::new(RefusedBecause::Invalid, message));
        }
        self.written += bytes.len() as u64;
        self.arriving.write(at, HostBytes::Own(bytes)).await.map_err(|error| refusal(&error.into()))
    }

    async fn finish(self: Box<Self>) -> Result<TensorRecord, Refused> {
        let Self { shared, arriving, if_exists, written } = *self;
        if written != arriving.buffer().len() {
            let message = format!("{written} bytes came of {}", arriving.buffer().len());
            return Err(Refused::new(RefusedBecause::Invalid, message));
        }
        let tensor = shared.publish(arriving, if_exists).await.map_err(|error| refusal(&error))?;
        Ok(shared.record_of(&tensor))
    }
}

/// An error, as the other side hears it.
pub(crate) fn refusal(error: &DataError) -> Refused {
    let because = match error {
        DataError::Missing { .. } => RefusedBecause::Missing,
        DataError::Keep(KeepError::Exists { .. }) => RefusedBecause::Exists,
        DataError::Keep(KeepError::Full { .. } | KeepError::TooMany { .. }) => RefusedBecause::Full,
        DataError::Keep(KeepError::Memory(devices::MemoryError::Full { .. })) => RefusedBecause::Full,
        DataError::Keep(KeepError::Memory(devices::MemoryError::Unsupported { .. })) => RefusedBecause::Unsupported,
        DataError::Invalid { .. } => RefusedBecause::Invalid,
        DataError::Keep(KeepError::Memory(_))
        | DataError::Transfer { .. }
        | DataError::Directory(_)
        | DataError::NoDestination { .. }
        | DataError::Cancelled => RefusedBecause::Failed,
    };
    Refused::new(because, error.to_string())
}
