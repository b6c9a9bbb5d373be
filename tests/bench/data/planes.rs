//! Data planes of simulated GPUs without workers: their table is a map.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use devices::simulated::{LinkSpeed, SimulatedGpu, SimulatedOptions, Sleeper};
use prometheus::Registry;
use protocol::{GpuId, IfExists, TensorName, TensorRecord, TensorRef, TensorShape, config::DataSection};
use tensors::{Content, DataMetrics, DataOptions, DataParts, DataPlane, Destination, Directory, DirectoryError, Draw, Keep};

use crate::{Fault, namespace::environment};

/// What tensors may take of a GPU, in MB.
const USABLE_MB: u64 = 20_000;
/// What content repeats.
const BLOCK: usize = 1 << 20;

/// What planes are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlanesPlan {
    /// The first part of their GPUs' ids.
    pub(super) name: &'static str,
    pub(super) gpus: usize,
    pub(super) host_link: LinkSpeed,
    pub(super) peer_link: Option<LinkSpeed>,
    /// Where other processes reach them.
    pub(super) listen: Option<&'static str>,
}

/// Planes of one process.
pub(super) struct Planes {
    table: Arc<Table>,
    all: Vec<Arc<DataPlane>>,
}

impl Planes {
    pub(super) async fn start(plan: PlanesPlan) -> Result<Self, Fault> {
        let mut planes = Self { table: Arc::default(), all: Vec::new() };
        let metrics = Arc::new(DataMetrics::new(&Registry::new())?);
        for number in 0..plan.gpus {
            planes.add(plan, GpuId::new(format!("{}-{number}", plan.name))?, &metrics).await;
        }
        Ok(planes)
    }

    async fn add(&mut self, plan: PlanesPlan, gpu_id: GpuId, metrics: &Arc<DataMetrics>) {
        let PlanesPlan { host_link, peer_link, listen, .. } = plan;
        let simulated = SimulatedOptions { sleeper: Sleeper::Precise, host_link, peer_link, ..SimulatedOptions::new(gpu_id.clone()) };
        let section = DataSection { listen: listen.map(str::to_owned), trial_mb: 0, ..DataSection::default() };
        let environment = environment();
        let incarnation = environment.fresh_incarnation();
        let parts = DataParts {
            device: Arc::new(SimulatedGpu::new(simulated)),
            directory: Arc::new(TableOf { table: Arc::clone(&self.table), gpu_id: gpu_id.clone() }),
            incarnation: incarnation.clone(),
            environment,
            options: DataOptions::of(&section, USABLE_MB),
            metrics: Arc::clone(metrics),
        };
        let plane = DataPlane::start(parts).await;
        let port = plane.state().data_port;
        lock(&self.table.destinations).push(Destination {
            gpu_id,
            incarnation,
            host: "here".to_owned(),
            port,
            links: Vec::new(),
            numa_node: None,
        });
        self.all.push(plane);
    }

    /// That of the GPU of this number.
    pub(super) fn plane(&self, number: usize) -> &DataPlane {
        &self.all[number]
    }

    /// Keeps bytes on the first GPU.
    pub(super) async fn keep(&self, name: &str, content: Bytes) -> Result<TensorRef, Fault> {
        let keep = Keep {
            name: TensorName::new(name)?,
            shape: TensorShape::of_bytes(content.len()),
            owner: "bench".to_owned(),
            version: None,
            ttl: None,
            if_exists: IfExists::Replace,
        };
        let kept = self.plane(0).keep(keep, Content::Host(content)).await?;
        Ok(TensorRef { tensor: kept.tensor, version: Some(kept.version) })
    }

    pub(super) async fn stop(self) {
        for plane in self.all {
            plane.stop().await;
        }
    }
}

/// So many bytes, all values among them.
pub(super) fn content(bytes: usize) -> Bytes {
    let block: Vec<u8> = (0..BLOCK).map(|place| (place * 31 % 251) as u8).collect();
    let mut content = block.repeat(bytes.div_ceil(BLOCK));
    content.truncate(bytes);
    content.into()
}

#[derive(Default)]
struct Table {
    records: Mutex<Vec<TensorRecord>>,
    destinations: Mutex<Vec<Destination>>,
}

/// The table, as the plane of one GPU asks it.
struct TableOf {
    table: Arc<Table>,
    gpu_id: GpuId,
}

#[async_trait]
impl Directory for TableOf {
    async fn find(&self, names: &[TensorName]) -> Result<Vec<TensorRecord>, DirectoryError> {
        Ok(lock(&self.table.records).iter().filter(|record| names.contains(&record.name)).cloned().collect())
    }

    async fn draw_version(&self, draw: &Draw<'_>) -> Result<u64, DirectoryError> {
        let records = lock(&self.table.records);
        let latest = records.iter().filter(|record| record.name == *draw.name).map(|record| record.version).max();
        Ok(draw.wanted().max(latest.map_or(0, |latest| latest.saturating_add(1))))
    }

    async fn announce(&self, announced: &[TensorRecord]) -> Result<(), DirectoryError> {
        let mut records = lock(&self.table.records);
        for record in announced {
            records.retain(|known| (&known.name, &known.gpu_id) != (&record.name, &record.gpu_id));
            records.push(record.clone());
        }
        Ok(())
    }

    async fn withdraw(&self, copies: &[(TensorName, u64)]) -> Result<(), DirectoryError> {
        let is_meant = |record: &TensorRecord| copies.iter().any(|(name, version)| (name, *version) == (&record.name, record.version));
        lock(&self.table.records).retain(|record| record.gpu_id != self.gpu_id || !is_meant(record));
        Ok(())
    }

    async fn destinations(&self) -> Result<Vec<Destination>, DirectoryError> {
        Ok(lock(&self.table.destinations).clone())
    }

    async fn pool_mb(&self) -> Result<u64, DirectoryError> {
        Ok(0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
