//! A GPU that is bytes, whose operations can be made to fail.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use devices::{Device, DeviceBuffer, DeviceMemory, HostBytes, MemoryError, OutOfMemory, PeerHandle, SharedPart, Use, WorkOn};
use protocol::{Checksum, GpuDescription, GpuId, GpuSample, Health};
use tokio::sync::Notify;

/// What an operation comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, and may go well again.
    Fails,
    /// There is no such operation.
    Unsupported,
    /// Its bytes change on the way.
    Corrupts,
    /// It never ends.
    Hangs,
    /// It waits for [`TestGpu::go_on`].
    Waits,
    /// The program is wrong.
    Panics,
}

type Memory = Mutex<Vec<u8>>;

/// What was exported, by any GPU of the process.
static EXPORTED: Mutex<BTreeMap<u64, Weak<Memory>>> = Mutex::new(BTreeMap::new());
static EXPORTS: AtomicU64 = AtomicU64::new(1);

pub(crate) struct TestGpu {
    description: GpuDescription,
    /// By operation: what the next so many come to.
    faults: Mutex<BTreeMap<&'static str, (usize, Fault)>>,
    calls: Mutex<BTreeMap<&'static str, usize>>,
    capacity: AtomicU64,
    yields: AtomicUsize,
    changed: Notify,
    goes_on: Notify,
    resident: Mutex<Vec<Weak<Memory>>>,
}

impl TestGpu {
    pub(crate) fn new(gpu_id: &str) -> Arc<Self> {
        let description = GpuDescription {
            gpu_id: GpuId::new(gpu_id).unwrap(),
            name: "test".to_owned(),
            memory_total_mb: 1_000,
            compute_capability: protocol::task::ComputeCapability { major: 9, minor: 0 },
            hardware: protocol::gpu::Hardware::default(),
        };
        Arc::new(Self {
            description,
            faults: Mutex::default(),
            calls: Mutex::default(),
            capacity: AtomicU64::new(1 << 30),
            yields: AtomicUsize::new(1),
            changed: Notify::new(),
            goes_on: Notify::new(),
            resident: Mutex::default(),
        })
    }

    /// With so much memory, in bytes.
    pub(crate) fn of(capacity: u64) -> Arc<Self> {
        let gpu = Self::new("test-0");
        gpu.set_capacity(capacity);
        gpu
    }

    /// From now on reads and writes wait for [`go_on`](Self::go_on).
    pub(crate) fn stall(&self) {
        self.inject("read", usize::MAX, Fault::Waits);
        self.inject("write", usize::MAX, Fault::Waits);
    }

    /// Operations let others go first up to so many times, in turn; at first each does so once.
    pub(crate) fn set_yields(&self, yields: usize) {
        self.yields.store(yields, Ordering::SeqCst);
    }

    /// What is in a buffer, whatever is to go wrong.
    pub(crate) fn peek(&self, buffer: &DeviceBuffer) -> Vec<u8> {
        memory_of(buffer).lock().unwrap().clone()
    }

    /// How many reads and writes there were.
    pub(crate) fn moves(&self) -> (usize, usize) {
        (self.calls("read"), self.calls("write"))
    }

    /// The next so many operations of this name come to this.
    pub(crate) fn inject(&self, operation: &'static str, count: usize, fault: Fault) {
        self.faults.lock().unwrap().insert(operation, (count, fault));
    }

    /// Nothing is to go wrong any more, and what waits goes on.
    pub(crate) fn go_on(&self) {
        self.faults.lock().unwrap().clear();
        self.goes_on.notify_waiters();
    }

    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.capacity.store(bytes, Ordering::SeqCst);
    }

    /// How many operations of this name there were.
    pub(crate) fn calls(&self, operation: &'static str) -> usize {
        self.calls.lock().unwrap().get(operation).copied().unwrap_or(0)
    }

    /// Until so many operations of this name have begun.
    pub(crate) async fn until_called(&self, operation: &'static str, calls: usize) {
        loop {
            let changed = self.changed.notified();
            if self.calls(operation) >= calls {
                return;
            }
            changed.await;
        }
    }

    /// Whether the bytes are to be changed.
    async fn pass(&self, operation: &'static str) -> Result<bool, MemoryError> {
        let calls = {
            let mut calls = self.calls.lock().unwrap();
            *calls.entry(operation).or_default() += 1;
            calls.values().sum::<usize>()
        };
        self.changed.notify_waiters();
        let yields = self.yields.load(Ordering::SeqCst);
        let times = if yields == 1 { 1 } else { yields.min(calls % 5) };
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
        match self.fault(operation) {
            None => Ok(false),
            Some(Fault::Corrupts) => Ok(true),
            Some(Fault::Fails) => Err(MemoryError::Failed { operation, reason: "as injected".to_owned() }),
            Some(Fault::Unsupported) => Err(MemoryError::Unsupported { operation, reason: "as injected".to_owned() }),
            Some(Fault::Panics) => panic!("as injected"),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::Waits) => {
                self.goes_on.notified().await;
                Ok(false)
            }
        }
    }

    fn fault(&self, operation: &'static str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (left, fault) = faults.get_mut(operation)?;
        *left = left.checked_sub(1)?;
        Some(*fault)
    }

    fn take(&self, bytes: Arc<Memory>) -> DeviceBuffer {
        let length = bytes.lock().unwrap().len() as u64;
        DeviceBuffer::new(self.description.gpu_id.clone(), length, bytes)
    }
}

fn memory_of(buffer: &DeviceBuffer) -> &Memory {
    buffer.memory::<Memory>().unwrap()
}

fn put(to: &DeviceBuffer, at: u64, mut bytes: Vec<u8>, is_changed: bool) {
    if is_changed && let Some(first) = bytes.first_mut() {
        *first ^= 0x40;
    }
    let at = at as usize;
    memory_of(to).lock().unwrap()[at..at + bytes.len()].copy_from_slice(&bytes);
}

fn part_of(buffer: &DeviceBuffer, at: u64, bytes: usize) -> Vec<u8> {
    memory_of(buffer).lock().unwrap()[at as usize..at as usize + bytes].to_vec()
}

fn host(bytes: &HostBytes) -> Vec<u8> {
    match bytes {
        HostBytes::Own(bytes) => bytes.to_vec(),
        HostBytes::Shared(part) => {
            let mut read = vec![0; part.range.len()];
            part.memory.read_at(part.range.start, &mut read);
            read
        }
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
        self.pass("allocate").await?;
        let free_bytes = self.capacity.load(Ordering::SeqCst).saturating_sub(self.resident_bytes());
        if bytes > free_bytes {
            return Err(MemoryError::Full { wanted_bytes: bytes, free_bytes });
        }
        let memory = Arc::new(Mutex::new(vec![0xEE; bytes as usize]));
        self.resident.lock().unwrap().push(Arc::downgrade(&memory));
        Ok(self.take(memory))
    }

    async fn write(&self, to: &DeviceBuffer, at: u64, from: HostBytes) -> Result<(), MemoryError> {
        let is_changed = self.pass("write").await?;
        put(to, at, host(&from), is_changed);
        Ok(())
    }

    async fn read(&self, from: &DeviceBuffer, at: u64, bytes: usize) -> Result<Bytes, MemoryError> {
        let mut read = if self.pass("read").await? { vec![0x55; bytes] } else { part_of(from, at, bytes) };
        read.truncate(bytes);
        Ok(read.into())
    }

    async fn read_to(&self, from: &DeviceBuffer, at: u64, to: SharedPart) -> Result<(), MemoryError> {
        let is_changed = self.pass("read_to").await?;
        let mut read = part_of(from, at, to.range.len());
        if is_changed {
            read[0] ^= 1;
        }
        to.memory.write_at(to.range.start, &read);
        Ok(())
    }

    async fn copy(&self, from: (&DeviceBuffer, u64), to: (&DeviceBuffer, u64), bytes: u64) -> Result<(), MemoryError> {
        let is_changed = self.pass("copy").await?;
        put(to.0, to.1, part_of(from.0, from.1, bytes as usize), is_changed);
        Ok(())
    }

    async fn checksum(&self, of: &DeviceBuffer, part: Range<u64>) -> Result<Checksum, MemoryError> {
        self.pass("checksum").await?;
        Ok(Checksum::of(&part_of(of, part.start, (part.end - part.start) as usize), part.start))
    }

    fn export(&self, buffer: &DeviceBuffer) -> Result<PeerHandle, MemoryError> {
        if self.fault("export").is_some() {
            return Err(MemoryError::Unsupported { operation: "export", reason: "as injected".to_owned() });
        }
        let memory =
            self.resident.lock().unwrap().iter().filter_map(Weak::upgrade).find(|memory| std::ptr::eq(&**memory, memory_of(buffer)));
        let number = EXPORTS.fetch_add(1, Ordering::SeqCst);
        EXPORTED.lock().unwrap().insert(number, Arc::downgrade(&memory.unwrap()));
        Ok(PeerHandle(number.to_le_bytes().to_vec()))
    }

    async fn open(&self, handle: &PeerHandle, gpu_id: &GpuId, bytes: u64) -> Result<DeviceBuffer, MemoryError> {
        self.pass("open").await?;
        let number = u64::from_le_bytes(handle.0[..].try_into().unwrap());
        let memory = EXPORTED.lock().unwrap()[&number].upgrade().unwrap();
        assert_eq!(memory.lock().unwrap().len() as u64, bytes);
        Ok(DeviceBuffer::new(gpu_id.clone(), bytes, memory))
    }

    fn resident_bytes(&self) -> u64 {
        let mut resident = self.resident.lock().unwrap();
        resident.retain(|memory| memory.strong_count() > 0);
        resident.iter().filter_map(Weak::upgrade).map(|memory| memory.lock().unwrap().len() as u64).sum()
    }
}
