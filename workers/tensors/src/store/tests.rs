use std::{
    future::Future,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use devices::HostBytes;
use protocol::{DType, IfExists, TensorShape};

use super::*;
use crate::doubles::TestGpu;

mod coming;
mod going;
mod together;

/// A store on a GPU of a test.
struct World {
    gpu: Arc<TestGpu>,
    store: Arc<TensorStore>,
    now_ms: Arc<AtomicU64>,
}

/// A GPU has 1,000 bytes, of which tensors may take 100, and 100 of the host's.
const BOUNDS: TensorBounds = TensorBounds { gpu_bytes: 100, host_bytes: 100, tensors: 10 };

impl World {
    fn new(bounds: TensorBounds) -> Self {
        let (gpu, now_ms) = (TestGpu::of(1_000), Arc::new(AtomicU64::new(1_000)));
        let clock = Arc::clone(&now_ms);
        let device: Arc<dyn Device> = Arc::<TestGpu>::clone(&gpu);
        let store = Arc::new(TensorStore::new(device, bounds, Arc::new(move || clock.load(Ordering::SeqCst))));
        Self { gpu, store, now_ms }
    }

    fn pass(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Puts a tensor of `bytes` bytes, which are those of its name and version.
    async fn put_version(&self, name: &str, version: u64, bytes: usize) -> Result<Arc<Tensor>, KeepError> {
        let arriving = self.store.begin(about(name, version, bytes), IfExists::Replace).await?;
        arriving.write(0, HostBytes::Own(content(name, version, bytes))).await?;
        arriving.finish()
    }

    async fn put(&self, name: &str, bytes: usize) -> Result<Arc<Tensor>, KeepError> {
        self.put_version(name, 1, bytes).await
    }

    async fn get(&self, of: &str) -> Option<Arc<Tensor>> {
        self.store.get(&name(of), None).await.expect("room")
    }

    /// The tensors that are here, with an `h` behind those in the host's memory.
    fn here(&self) -> Vec<String> {
        let mark = |stored: &Stored| if stored.place == TensorPlace::Host { "h" } else { "" };
        self.store.list().iter().map(|stored| format!("{}{}{}", stored.about.name, stored.about.version, mark(stored))).collect()
    }

    fn gone(&self) -> Vec<String> {
        self.store.gone().iter().map(|(name, version)| format!("{name}{version}")).collect()
    }

    fn assert_whole(&self, tensor: &Tensor) {
        let about = tensor.about();
        let read = self.gpu.peek(tensor.buffer());
        let whole = content(about.name.as_str(), about.version, about.bytes() as usize);
        assert_eq!(read[..whole.len()], whole, "{about:?}");
    }
}

fn name(name: &str) -> TensorName {
    TensorName::new(name).expect("a name")
}

fn about(of: &str, version: u64, bytes: usize) -> TensorAbout {
    let (name, shape) = (name(of), TensorShape { dtype: DType::U8, shape: vec![bytes] });
    TensorAbout { name, version, shape, owner: format!("task of {of}{version}"), made_ms: 1_000, ttl_ms: 60_000 }
}

/// No two tensors of the tests have the same bytes.
fn content(name: &str, version: u64, bytes: usize) -> Bytes {
    let seed = name.bytes().fold(version, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    (0..bytes as u64).map(|at| (seed.wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

/// Polls once.
fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
