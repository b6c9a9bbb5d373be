//! Data ports over memory: GPUs that hold tensors, as far as a gateway sees them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use data_link::{DataServer, FetchOrder, NewTensor, Opened, Reading, Refused, RefusedBecause, Served, Writing};
use gpu_table::GpuTable;
use protocol::{Checksum, DataPort, GpuId, IfExists, Incarnation, PoolName, TensorName, TensorPlace, TensorRecord};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fleet::heartbeat;

/// The key of every port.
pub const KEY: &str = "the-key-of-the-ports";

/// A GPU with a data port. It ends with this.
pub struct DataGpu {
    pub held: Arc<Held>,
    _serving: DropGuard,
}

/// What a GPU holds.
pub struct Held {
    gpu_id: GpuId,
    table: Arc<dyn GpuTable>,
    port: OnceLock<DataPort>,
    tensors: Mutex<BTreeMap<TensorName, (TensorRecord, Bytes)>>,
    versions: AtomicU64,
    /// There is no room for anything.
    pub full: AtomicBool,
    /// Readings fail from this byte on.
    pub breaks_at: AtomicU64,
}

impl DataGpu {
    /// A GPU of 80 GB of which so many MB are used, with its row in the table.
    pub async fn start(table: &Arc<dyn GpuTable>, id: &str, memory_used_mb: u64) -> Self {
        let (server, address) = DataServer::bind("127.0.0.1:0").await.expect("a free port");
        let port = DataPort { address: Some(address.to_string()), socket: None, system: "test".to_owned(), key: KEY.to_owned() };
        let held = Arc::new(Held {
            gpu_id: GpuId::new(id).expect("valid"),
            table: Arc::clone(table),
            port: OnceLock::from(port.clone()),
            tensors: Mutex::default(),
            versions: AtomicU64::new(1),
            full: AtomicBool::default(),
            breaks_at: AtomicU64::new(u64::MAX),
        });
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(Arc::new(Port(Arc::clone(&held))), KEY.to_owned(), stop.clone()));
        let mut beat = heartbeat(id, &["echo"]);
        beat.row.sample.memory_used_mb = memory_used_mb;
        beat.row.data.data_port = Some(port);
        table.heartbeat(&beat).await.expect("a table");
        Self { held, _serving: stop.drop_guard() }
    }
}

impl Held {
    /// The bytes of a tensor that is here.
    pub fn bytes(&self, name: &str) -> Option<Bytes> {
        let name = TensorName::new(name).expect("valid");
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner).get(&name).map(|(_, bytes)| bytes.clone())
    }

    /// Takes a copy of what another GPU has.
    pub async fn copies(&self, other: &Self, name: &str) {
        let name = TensorName::new(name).expect("valid");
        let (record, bytes) = other.look(&name).expect("it has it");
        self.take(TensorRecord { gpu_id: self.gpu_id.clone(), port: self.port.get().cloned(), ..record }, bytes).await;
    }

    fn look(&self, name: &TensorName) -> Option<(TensorRecord, Bytes)> {
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    async fn take(&self, record: TensorRecord, bytes: Bytes) {
        self.table.announce_tensors(&PoolName::default(), std::slice::from_ref(&record)).await.expect("a table");
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner).insert(record.name.clone(), (record, bytes));
    }
}

struct Whole {
    record: TensorRecord,
    bytes: Bytes,
    held: Arc<Held>,
}

#[async_trait]
impl Reading for Whole {
    fn record(&self) -> &TensorRecord {
        &self.record
    }

    async fn read(&self, at: u64, bytes: usize) -> Result<(Bytes, Checksum), Refused> {
        if at >= self.held.breaks_at.load(Ordering::Relaxed) {
            return Err(Refused::new(RefusedBecause::Failed, "the GPU is lost"));
        }
        let from = usize::try_from(at).expect("small");
        let piece = self.bytes.slice(from..from + bytes);
        let checksum = Checksum::of(&piece, at);
        Ok((piece, checksum))
    }
}

struct Arriving {
    new: NewTensor,
    bytes: BytesMut,
    held: Arc<Held>,
}

#[async_trait]
impl Writing for Arriving {
    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), Refused> {
        assert_eq!(at, self.bytes.len() as u64, "pieces come in order");
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<TensorRecord, Refused> {
        let Self { new: NewTensor { name, shape, owner, ttl_ms, .. }, bytes, held } = *self;
        let record = TensorRecord {
            name,
            version: held.versions.fetch_add(1, Ordering::Relaxed),
            shape,
            bytes: bytes.len() as u64,
            owner,
            made_ms: 1_000,
            last_used_ms: 1_000,
            ttl_ms: ttl_ms.unwrap_or(3_600_000),
            gpu_id: held.gpu_id.clone(),
            incarnation: Incarnation::new("i1").expect("valid"),
            place: TensorPlace::Gpu,
            port: held.port.get().cloned(),
        };
        held.take(record.clone(), bytes.freeze()).await;
        Ok(record)
    }
}

/// The port of a GPU.
struct Port(Arc<Held>);

#[async_trait]
impl Served for Port {
    async fn open(&self, name: &TensorName, version: Option<u64>) -> Result<Opened, Refused> {
        let (record, bytes) = self.0.look(name).ok_or_else(|| Refused::new(RefusedBecause::Missing, format!("it has no {name}")))?;
        if version.is_some_and(|version| version != record.version) {
            return Err(Refused::new(RefusedBecause::Missing, format!("it has another version of {name}")));
        }
        Ok(Arc::new(Whole { record, bytes, held: Arc::clone(&self.0) }))
    }

    async fn write(&self, new: NewTensor) -> Result<Box<dyn Writing>, Refused> {
        if self.0.full.load(Ordering::Relaxed) {
            return Err(Refused::new(RefusedBecause::Full, "no room among the tensors of the GPU"));
        }
        if new.if_exists == IfExists::Fail && self.0.look(&new.name).is_some() {
            return Err(Refused::new(RefusedBecause::Exists, format!("there is a tensor {} already", new.name)));
        }
        Ok(Box::new(Arriving { new, bytes: BytesMut::new(), held: Arc::clone(&self.0) }))
    }

    async fn free(&self, name: &TensorName, _version: Option<u64>) -> Result<bool, Refused> {
        let freed = self.0.tensors.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some((record, _)) = freed else { return Ok(false) };
        let copies = [(record.name, record.version)];
        self.0.table.withdraw_tensors(&PoolName::default(), &self.0.gpu_id, &record.incarnation, &copies).await.expect("a table");
        Ok(true)
    }

    async fn fetch(&self, _order: FetchOrder) -> Result<TensorRecord, Refused> {
        Err(Refused::new(RefusedBecause::Unsupported, "nobody moves tensors here"))
    }
}
