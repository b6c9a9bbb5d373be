//! A GPU for tests: plain bytes, with knobs to make it full, slow or broken.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use devices::{Device, DeviceBuffer, DeviceMemory, HostBytes, MemoryError, OutOfMemory, PeerHandle, SharedPart, Use, WorkOn};
use protocol::{Checksum, GpuDescription, GpuId, GpuSample, Health};
use tokio::sync::watch;

/// A GPU that is memory and nothing else.
pub(crate) struct TestGpu {
    description: GpuDescription,
    capacity: AtomicU64,
    resident: Arc<AtomicU64>,
    is_open: watch::Sender<bool>,
    yields: AtomicUsize,
    failing_reads: AtomicUsize,
    reads: AtomicUsize,
    writes: AtomicUsize,
}

/// What a buffer is made of.
struct Memory {
    bytes: Mutex<Vec<u8>>,
    resident: Arc<AtomicU64>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.resident.fetch_sub(self.bytes.get_mut().unwrap().len() as u64, Ordering::SeqCst);
    }
}

impl TestGpu {
    /// With so much memory, in bytes.
    pub(crate) fn of(capacity: u64) -> Arc<Self> {
        let description = GpuDescription {
            gpu_id: GpuId::new("test-0").unwrap(),
            name: "test".to_owned(),
            memory_total_mb: 1,
            compute_capability: protocol::task::ComputeCapability { major: 9, minor: 0 },
            hardware: protocol::gpu::Hardware::default(),
        };
        Arc::new(Self {
            description,
            capacity: AtomicU64::new(capacity),
            resident: Arc::default(),
            is_open: watch::Sender::new(true),
            yields: AtomicUsize::new(0),
            failing_reads: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
        })
    }

    /// Memory that something else takes, or no longer does.
    pub(crate) fn set_capacity(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::SeqCst);
    }

    /// From now on reads and writes wait.
    pub(crate) fn stall(&self) {
        self.is_open.send_replace(false);
    }

    /// What waits goes on.
    pub(crate) fn go_on(&self) {
        self.is_open.send_replace(true);
    }

    /// Each operation lets others go first, up to so many times, in turn.
    pub(crate) fn set_yields(&self, yields: usize) {
        self.yields.store(yields, Ordering::SeqCst);
    }

    /// The next so many reads fail.
    pub(crate) fn fail_reads(&self, count: usize) {
        self.failing_reads.store(count, Ordering::SeqCst);
    }

    /// What is in a buffer, whatever the knobs say.
    pub(crate) fn peek(&self, buffer: &DeviceBuffer) -> Vec<u8> {
        buffer.memory::<Memory>().unwrap().bytes.lock().unwrap().clone()
    }

    /// How many reads and writes there were.
    pub(crate) fn moves(&self) -> (usize, usize) {
        (self.reads.load(Ordering::SeqCst), self.writes.load(Ordering::SeqCst))
    }

    async fn pass(&self, operations: &AtomicUsize) {
        let operation = operations.fetch_add(1, Ordering::SeqCst);
        for _ in 0..self.yields.load(Ordering::SeqCst).min(operation % 5) {
            tokio::task::yield_now().await;
        }
        self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
    }

    fn outside(&self, operation: &'static str, at: u64, end: u64, bytes: u64) -> MemoryError {
        MemoryError::Outside { operation, at, end, bytes, gpu_id: self.description.gpu_id.clone() }
    }

    fn part(&self, of: &DeviceBuffer, operation: &'static str, at: u64, bytes: usize) -> Result<Range<usize>, MemoryError> {
        let end = at + bytes as u64;
        if end > of.len() { Err(self.outside(operation, at, end, of.len())) } else { Ok(at as usize..end as usize) }
    }
}

#[async_trait]
impl Device for TestGpu {
    fn description(&self) -> &GpuDescription {
        &self.description
    }

    fn sample(&self) -> GpuSample {
        GpuSample::default()
    }

    fn health(&self) -> (Health, String) {
        (Health::default(), String::new())
    }

    fn begin(&self, _wanted: Use) -> Result<WorkOn, OutOfMemory> {
        Ok(WorkOn::new(Box::new(())))
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        Some(self)
    }
}

#[async_trait]
impl DeviceMemory for TestGpu {
    async fn allocate(&self, bytes: u64) -> Result<DeviceBuffer, MemoryError> {
        let free_bytes = self.capacity.load(Ordering::SeqCst).saturating_sub(self.resident_bytes());
        if bytes > free_bytes {
            return Err(MemoryError::Full { wanted_bytes: bytes, free_bytes });
        }
        self.resident.fetch_add(bytes, Ordering::SeqCst);
        let memory = Memory { bytes: Mutex::new(vec![0; bytes as usize]), resident: Arc::clone(&self.resident) };
        Ok(DeviceBuffer::new(self.description.gpu_id.clone(), bytes, Arc::new(memory)))
    }

    async fn write(&self, to: &DeviceBuffer, at: u64, from: HostBytes) -> Result<(), MemoryError> {
        self.pass(&self.writes).await;
        let part = self.part(to, "write", at, from.len())?;
        let HostBytes::Own(from) = from else { panic!("tests of the store share no memory") };
        to.memory::<Memory>().unwrap().bytes.lock().unwrap()[part].copy_from_slice(&from);
        Ok(())
    }

    async fn read(&self, from: &DeviceBuffer, at: u64, bytes: usize) -> Result<Bytes, MemoryError> {
        self.pass(&self.reads).await;
        let fails = self.failing_reads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() {
            return Err(MemoryError::Failed { operation: "read", reason: "as asked".to_owned() });
        }
        let part = self.part(from, "read", at, bytes)?;
        Ok(Bytes::copy_from_slice(&from.memory::<Memory>().unwrap().bytes.lock().unwrap()[part]))
    }

    async fn read_to(&self, _from: &DeviceBuffer, _at: u64, _to: SharedPart) -> Result<(), MemoryError> {
        panic!("tests of the store share no memory")
    }

    async fn copy(&self, _from: (&DeviceBuffer, u64), _to: (&DeviceBuffer, u64), _bytes: u64) -> Result<(), MemoryError> {
        panic!("tests of the store copy nothing")
    }

    async fn checksum(&self, _of: &DeviceBuffer, _part: Range<u64>) -> Result<Checksum, MemoryError> {
        panic!("tests of the store check no sums")
    }

    fn export(&self, _buffer: &DeviceBuffer) -> Result<PeerHandle, MemoryError> {
        Err(MemoryError::Unsupported { operation: "export", reason: "a test".to_owned() })
    }

    async fn open(&self, _handle: &PeerHandle, _gpu_id: &GpuId, _bytes: u64) -> Result<DeviceBuffer, MemoryError> {
        Err(MemoryError::Unsupported { operation: "open", reason: "a test".to_owned() })
    }

    fn resident_bytes(&self) -> u64 {
        self.resident.load(Ordering::SeqCst)
    }
}
