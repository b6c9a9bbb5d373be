//! What tests of moving tensors use: GPUs that are bytes, a table that is a map, and planes made of them.

mod directory;
mod gpu;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use data_link::{DataServer, FetchOrder, NewTensor, Opened, Refused, RefusedBecause, Served, Writing};
use devices::Device;
use protocol::{
    DType, Environment, GpuId, IfExists, Incarnation, TensorName, TensorPlace, TensorRecord, TensorRef, TensorShape,
    environment::{Clock, Job, Random, Spawn},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    directory::{TableOf, TestDirectory},
    gpu::{Fault, TestGpu},
};
use crate::{Content, DataError, DataMetrics, DataOptions, DataParts, DataPlane, Destination, Keep, Tensor, TensorBounds, TransferLimits};

pub(crate) fn name(name: &str) -> TensorName {
    TensorName::new(name).unwrap()
}

pub(crate) fn gpu(gpu_id: &str) -> GpuId {
    GpuId::new(gpu_id).unwrap()
}

/// A copy of a tensor that nobody reaches.
pub(crate) fn record(tensor: &str, version: u64, gpu_id: &str, bytes: u64) -> TensorRecord {
    TensorRecord {
        name: name(tensor),
        version,
        shape: TensorShape::of_bytes(bytes as usize),
        bytes,
        owner: "test".to_owned(),
        made_ms: 1,
        last_used_ms: 1,
        ttl_ms: 3_600_000,
        gpu_id: gpu(gpu_id),
        incarnation: Incarnation::new(format!("nobody-{gpu_id}")).unwrap(),
        place: TensorPlace::Gpu,
        port: None,
    }
}

pub(crate) fn destination(gpu_id: &str, host: &str) -> Destination {
    Destination {
        gpu_id: gpu(gpu_id),
        incarnation: Incarnation::new(format!("nobody-{gpu_id}")).unwrap(),
        host: host.to_owned(),
        port: None,
        links: Vec::new(),
        numa_node: None,
    }
}

/// Bytes that differ from place to place.
pub(crate) fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at.wrapping_mul(31) ^ (at >> 9)) as u8).collect()
}

/// Until it is so. What it waits for is done by jobs, which go on meanwhile.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(120), waited).await.is_ok(), "it never came to this: {what}");
}

struct TestEnvironment {
    started: Instant,
    next: AtomicU64,
}

impl Clock for TestEnvironment {
    fn now_us(&self) -> u64 {
        1_767_225_600_000_000 + u64::try_from(self.started.elapsed().as_micros()).unwrap()
    }
}

impl Random for TestEnvironment {
    fn next_u64(&self) -> u64 {
        let mixed = self.next.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        (mixed ^ (mixed >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }
}

impl Spawn for TestEnvironment {
    fn spawn(&self, _name: &'static str, job: Job) {
        tokio::spawn(job);
    }
}

/// A fleet of planes with one table.
pub(crate) struct TestFleet {
    pub(crate) directory: Arc<TestDirectory>,
    pub(crate) options: DataOptions,
    pub(crate) registry: prometheus::Registry,
    metrics: Arc<DataMetrics>,
    environment: Environment,
}

/// One plane of it.
pub(crate) struct TestPlane {
    pub(crate) gpu: Arc<TestGpu>,
    pub(crate) plane: Arc<DataPlane>,
}

/// Tells fleets of one process apart, whose sockets and starts must not be the same.
static FLEETS: AtomicU64 = AtomicU64::new(1);

impl TestFleet {
    pub(crate) fn new() -> Self {
        let seed = u64::from(std::process::id()) << 32 | FLEETS.fetch_add(1, Ordering::SeqCst) << 16;
        let environment = Arc::new(TestEnvironment { started: Instant::now(), next: AtomicU64::new(seed) });
        let registry = prometheus::Registry::new();
        Self {
            directory: Arc::default(),
            options: DataOptions {
                listen: None,
                advertise: None,
                bounds: TensorBounds { gpu_bytes: 1 << 30, host_bytes: 1 << 30, tensors: 1_000 },
                pool_mb: None,
                ttl: Duration::from_secs(3_600),
                limits: TransferLimits {
                    timeout: Duration::from_secs(30),
                    stall: Duration::from_secs(5),
                    demotion: Duration::from_secs(30),
                },
                trial_bytes: 0,
            },
            metrics: Arc::new(DataMetrics::new(&registry).unwrap()),
            registry,
            environment: Environment { clock: environment.clone(), random: environment.clone(), spawner: environment, traces: None },
        }
    }

    /// One whose planes other processes reach.
    pub(crate) fn listening() -> Self {
        let mut fleet = Self::new();
        fleet.options.listen = Some("127.0.0.1:0".to_owned());
        fleet
    }

    /// A plane of this process.
    pub(crate) async fn plane(&self, gpu_id: &str) -> TestPlane {
        let gpu = TestGpu::new(gpu_id);
        let plane = DataPlane::start(self.parts(gpu.clone())).await;
        self.join(gpu, plane)
    }

    /// A plane that others take for one of another process.
    pub(crate) async fn apart(&self, gpu_id: &str) -> TestPlane {
        let gpu = TestGpu::new(gpu_id);
        let plane = DataPlane::open(self.parts(gpu.clone())).await;
        self.join(gpu, plane)
    }

    fn parts(&self, device: Arc<dyn Device>) -> DataParts {
        DataParts {
            directory: Arc::new(TableOf(self.directory.clone(), device.description().gpu_id.clone())),
            device,
            incarnation: self.environment.fresh_incarnation(),
            environment: self.environment.clone(),
            options: self.options.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// A plane of this process on another kind of GPU.
    pub(crate) async fn plane_on(&self, gpu: Arc<dyn Device>) -> Arc<DataPlane> {
        let plane = DataPlane::start(self.parts(gpu)).await;
        self.add(&plane);
        plane
    }

    fn join(&self, gpu: Arc<TestGpu>, plane: Arc<DataPlane>) -> TestPlane {
        self.add(&plane);
        TestPlane { gpu, plane }
    }

    fn add(&self, plane: &DataPlane) {
        let shared = &plane.shared;
        self.directory.add(Destination {
            incarnation: shared.incarnation.clone(),
            port: shared.port.get().cloned(),
            ..destination(shared.gpu_id.as_str(), "host")
        });
    }

    /// What a counter counts.
    pub(crate) fn counted(&self, metric: &str, labels: &[&str]) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == metric);
        let metrics = family.into_iter().flat_map(|family| family.get_metric());
        let values = |metric: &prometheus::proto::Metric| -> Vec<String> {
            metric.get_label().iter().map(|label| label.value().to_owned()).collect()
        };
        metrics.filter(|metric| values(metric) == labels).map(|metric| metric.get_counter().get_value() as u64).sum()
    }
}

impl TestPlane {
    /// Keeps bytes here.
    pub(crate) async fn keep(&self, tensor: &str, bytes: &Bytes) -> TensorRef {
        let kept = self.plane.keep(keep(tensor, bytes.len()), Content::Host(bytes.clone())).await.unwrap();
        TensorRef { tensor: kept.tensor, version: Some(kept.version) }
    }

    /// Finds a tensor and has it here.
    pub(crate) async fn fetch(&self, reference: &TensorRef) -> Result<Arc<Tensor>, DataError> {
        let copies = self.plane.find(std::slice::from_ref(reference)).await?;
        self.plane.fetch(reference, &copies, &CancellationToken::new()).await
    }

    pub(crate) async fn bytes(&self, tensor: &Tensor) -> Bytes {
        self.plane.read(tensor, 0..tensor.about().bytes()).await.unwrap()
    }

    pub(crate) fn gpu_id(&self) -> GpuId {
        self.plane.shared.gpu_id.clone()
    }
}

pub(crate) fn keep(tensor: &str, bytes: usize) -> Keep {
    Keep {
        name: name(tensor),
        shape: TensorShape { dtype: DType::U8, shape: vec![bytes] },
        owner: "test".to_owned(),
        version: None,
        ttl: None,
        if_exists: IfExists::Replace,
    }
}

/// A data port whose every operation takes for ever.
pub(crate) struct Silent;

#[async_trait::async_trait]
impl Served for Silent {
    async fn open(&self, _name: &TensorName, _version: Option<u64>) -> Result<Opened, Refused> {
        std::future::pending().await
    }

    async fn write(&self, _new: NewTensor) -> Result<Box<dyn Writing>, Refused> {
        Err(Refused::new(RefusedBecause::Unsupported, "a test"))
    }

    async fn free(&self, _name: &TensorName, _version: Option<u64>) -> Result<bool, Refused> {
        std::future::pending().await
    }

    async fn fetch(&self, _order: FetchOrder) -> Result<TensorRecord, Refused> {
        std::future::pending().await
    }
}

impl Silent {
    /// Its address, and what ends it.
    pub(crate) async fn serve(key: &str) -> (String, tokio_util::sync::DropGuard) {
        let (server, address) = DataServer::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(Arc::new(Self), key.to_owned(), stop.clone()));
        (address.to_string(), stop.drop_guard())
    }
}
