//! Tensors in memory, and faults that are asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use data_link::{FetchOrder, NewTensor, Opened, Reading, Refused, RefusedBecause, Served, Writing};
use protocol::{Checksum, GpuId, IfExists, Incarnation, TensorName, TensorPlace, TensorRecord, TensorShape};

/// What goes wrong.
#[derive(Debug, Default)]
pub struct Knobs {
    /// The readings, counted from zero over all tensors, whose bytes are not those of their checksum.
    pub corrupt: Mutex<BTreeSet<usize>>,
    /// The readings that are never answered.
    pub stall: Mutex<BTreeSet<usize>>,
    /// The readings that are refused as failed.
    pub fail: Mutex<BTreeSet<usize>>,
    /// Nothing is fetched, ever.
    pub fetch_hangs: Mutex<bool>,
    /// How many bytes there is room for.
    pub room: Mutex<Option<u64>>,
    /// How many pieces were read.
    pub read: AtomicUsize,
    /// How many writings are under way.
    pub writings: AtomicUsize,
    /// How many orders to fetch are under way.
    pub fetches: AtomicUsize,
}

#[derive(Default)]
pub struct Memory {
    tensors: Mutex<BTreeMap<TensorName, Arc<Tensor>>>,
    versions: AtomicUsize,
    pub knobs: Arc<Knobs>,
    me: std::sync::Weak<Self>,
}

pub struct Tensor {
    pub record: TensorRecord,
    pub bytes: Bytes,
    knobs: Arc<Knobs>,
}

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), ..Self::default() })
    }

    pub fn with(name: &str, bytes: &Bytes) -> Arc<Self> {
        let memory = Self::new();
        memory.put(&super::new_tensor(name, bytes.len()), bytes.clone());
        memory
    }

    pub fn put(&self, new: &NewTensor, bytes: Bytes) -> TensorRecord {
        let record = TensorRecord {
            name: new.name.clone(),
            version: self.versions.fetch_add(1, Ordering::SeqCst) as u64 + 1,
            shape: new.shape.clone(),
            bytes: bytes.len() as u64,
            owner: new.owner.clone(),
            made_ms: 1,
            last_used_ms: 1,
            ttl_ms: new.ttl_ms.unwrap_or(1_000),
            gpu_id: GpuId::new("gpu-1").unwrap(),
            incarnation: Incarnation::new("one").unwrap(),
            place: TensorPlace::Gpu,
            port: None,
        };
        let tensor = Tensor { record: record.clone(), bytes, knobs: self.knobs.clone() };
        self.tensors.lock().unwrap().insert(new.name.clone(), Arc::new(tensor));
        record
    }

    pub fn get(&self, name: &str) -> Option<Arc<Tensor>> {
        self.tensors.lock().unwrap().get(&super::name(name)).cloned()
    }

    fn find(&self, name: &TensorName, version: Option<u64>) -> Option<Arc<Tensor>> {
        self.tensors.lock().unwrap().get(name).filter(|tensor| version.is_none_or(|version| version == tensor.record.version)).cloned()
    }
}

#[async_trait]
impl Served for Memory {
    async fn open(&self, name: &TensorName, version: Option<u64>) -> Result<Opened, Refused> {
        match self.find(name, version) {
            Some(tensor) => Ok(tensor),
            None => Err(Refused::new(RefusedBecause::Missing, format!("{name} is not here"))),
        }
    }

    async fn write(&self, new: NewTensor) -> Result<Box<dyn Writing>, Refused> {
        if new.if_exists == IfExists::Fail && self.find(&new.name, None).is_some() {
            return Err(Refused::new(RefusedBecause::Exists, format!("{} is taken", new.name)));
        }
        if self.knobs.room.lock().unwrap().is_some_and(|room| new.shape.bytes().unwrap() > room) {
            return Err(Refused::new(RefusedBecause::Full, "there is no room"));
        }
        self.knobs.writings.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(InWriting { new, bytes: Vec::new(), memory: self.me.upgrade().unwrap() }))
    }

    async fn free(&self, name: &TensorName, version: Option<u64>) -> Result<bool, Refused> {
        Ok(self.find(name, version).is_some_and(|_| self.tensors.lock().unwrap().remove(name).is_some()))
    }

    async fn fetch(&self, order: FetchOrder) -> Result<TensorRecord, Refused> {
        self.knobs.fetches.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(&self.knobs.fetches);
        if *self.knobs.fetch_hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let new = NewTensor {
            name: order.from.name,
            shape: TensorShape::of_bytes(8),
            owner: order.from.owner,
            ttl_ms: None,
            if_exists: IfExists::default(),
        };
        Ok(self.put(&new, super::pattern(8)))
    }
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Reading for Tensor {
    fn record(&self) -> &TensorRecord {
        &self.record
    }

    async fn read(&self, at: u64, bytes: usize) -> Result<(Bytes, Checksum), Refused> {
        let turn = self.knobs.read.fetch_add(1, Ordering::SeqCst);
        let piece = self.bytes.slice(at as usize..at as usize + bytes);
        let checksum = Checksum::of(&piece, at);
        if self.knobs.fail.lock().unwrap().contains(&turn) {
            return Err(Refused::new(RefusedBecause::Failed, "the GPU is lost"));
        }
        if self.knobs.stall.lock().unwrap().contains(&turn) {
            std::future::pending::<()>().await;
        }
        if self.knobs.corrupt.lock().unwrap().contains(&turn) {
            let mut changed = piece.to_vec();
            changed[bytes / 2] ^= 16;
            return Ok((changed.into(), checksum));
        }
        Ok((piece, checksum))
    }
}

struct InWriting {
    new: NewTensor,
    bytes: Vec<u8>,
    memory: Arc<Memory>,
}

#[async_trait]
impl Writing for InWriting {
    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), Refused> {
        assert_eq!(at, self.bytes.len() as u64, "pieces come in order, without gaps");
        // The room may have become less since.
        if self.memory.knobs.room.lock().unwrap().is_some_and(|room| at + bytes.len() as u64 > room) {
            return Err(Refused::new(RefusedBecause::Full, "there is no room any more"));
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<TensorRecord, Refused> {
        let bytes = std::mem::take(&mut self.bytes).into();
        Ok(self.memory.put(&self.new, bytes))
    }
}

impl Drop for InWriting {
    fn drop(&mut self) {
        self.memory.knobs.writings.fetch_sub(1, Ordering::SeqCst);
    }
}
