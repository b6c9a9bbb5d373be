//! This process's context on a GPU, and the lanes in it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cudarc::driver::{CudaContext, DriverError, result, sys};
use protocol::GpuId;
use tokio::sync::watch;

use super::{super::account::Account, CudaError, Lane, Ran, job, lane::LaneThread, wanted::WantedWork};

/// How long work may go on after its task has ended. A kernel cannot be stopped: beyond this only the end of the process stops it.
const OVERTIME: Duration = Duration::from_secs(20);

/// How much freed memory the driver keeps for the next buffers, in bytes; on a small GPU it is less.
const KEPT_BYTES: u64 = 32 << 20;
/// The part of a GPU's memory of which it is never more.
const KEPT_PART: u64 = 128;

/// Memory of the GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Not in use by any process.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// One GPU in this process. Clones share it; after the last one its lanes end.
#[derive(Clone)]
pub struct Cuda {
    shared: Arc<Shared>,
    _until_the_last: Arc<LanesEnd>,
}

/// Lanes hold what they share, and that holds the idle ones: somebody outside must end them.
struct LanesEnd(Arc<Shared>);

impl Drop for LanesEnd {
    fn drop(&mut self) {
        self.0.lanes().clear();
    }
}

/// What the lanes share.
pub(super) struct Shared {
    pub(super) context: Arc<CudaContext>,
    pub(super) account: Arc<Account>,
    pub(super) wanted: WantedWork,
    lanes: Mutex<Vec<LaneThread>>,
    started: AtomicUsize,
    lost: watch::Sender<Option<CudaError>>,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cuda").field("account", &self.shared.account).finish_non_exhaustive()
    }
}

impl Cuda {
    /// Makes the context on the GPU with this UUID. Blocks for as long as the driver takes (a second or so on a cold GPU).
    ///
    /// # Errors
    /// [`CudaError`]: no driver, no such GPU in `CUDA_VISIBLE_DEVICES`, or the driver refuses.
    pub fn open(gpu_id: &GpuId) -> Result<Self, CudaError> {
        Self::open_counting(gpu_id, Arc::default())
    }

    /// As [`open`](Self::open); `account` always tells what this process has of the GPU's memory.
    pub(in crate::nvidia) fn open_counting(gpu_id: &GpuId, account: Arc<Account>) -> Result<Self, CudaError> {
        driver_present()?;
        guarded("open the GPU", || {
            result::init().map_err(|error| CudaError::of("initialise CUDA", error))?;
            let ordinal = ordinal_of(gpu_id)?;
            wait_briefly(ordinal)?;
            let context = CudaContext::new(ordinal).map_err(|error| CudaError::of("make a CUDA context", error))?;
            if let Err(error) = keep_memory(&context) {
                tracing::warn!(%gpu_id, %error, "memory is mapped anew for every task");
            }
            // SAFETY: buffers never leave the lane, and so the stream, that made them (see `Buffer`): there is nothing to synchronise between streams.
            unsafe { context.disable_event_tracking() };
            let shared = Arc::new(Shared {
                context,
                account,
                wanted: WantedWork::default(),
                lanes: Mutex::default(),
                started: AtomicUsize::new(0),
                lost: watch::Sender::new(None),
            });
            Ok(Self { _until_the_last: Arc::new(LanesEnd(Arc::clone(&shared))), shared })
        })
    }

    /// Runs work on a lane of its own. Dropping the future does not stop it: the work ends, unseen, and the lane is free again. Work that goes on for longer than
    /// 20 s after that holds the GPU for nobody: the context then counts as [lost](Self::lost). Time in which somebody waits for work that began before does not
    /// count: it may only be queued behind that.
    ///
    /// # Errors
    /// What the work gave; what a late error of its stream showed once it was through; [`CudaError::Lost`] once the context is.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Lane) -> Result<T, CudaError> + Send + 'static,
    ) -> Result<Ran<T>, CudaError> {
        if let Some(lost) = self.is_lost() {
            return Err(lost);
        }
        let idle = self.shared.lanes().pop();
        let lane = match idle {
            Some(lane) => lane,
            None => LaneThread::start(&self.shared, self.shared.started.fetch_add(1, Ordering::Relaxed))?,
        };
        job::run(&self.shared, lane, work, OVERTIME).await
    }

    /// Free and total memory, over all processes. A round trip to the driver, on a lane.
    ///
    /// # Errors
    /// [`CudaError`] if the driver refuses.
    pub async fn memory(&self) -> Result<Memory, CudaError> {
        let ask = |lane: &Lane| lane.shared.check("ask for free memory", lane.shared.context.mem_get_info());
        let (free, total) = self.run(ask).await?.value;
        Ok(Memory { free: free as u64, total: total as u64 })
    }

    /// Bytes that buffers of this process hold, and what stays between tasks.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.shared.account.buffers() + self.shared.account.resident()
    }

    /// The error that ended the context, if one did.
    #[must_use]
    pub fn is_lost(&self) -> Option<CudaError> {
        self.shared.lost.borrow().clone()
    }

    /// Waits until the context is lost, and says why.
    pub async fn lost(&self) -> CudaError {
        let mut lost = self.shared.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

fn gone() -> CudaError {
    CudaError::Failed { operation: "watch the context", cause: "it is gone".to_owned() }
}

impl Shared {
    pub(super) fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    pub(super) fn lanes(&self) -> MutexGuard<'_, Vec<LaneThread>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads an answer of the driver, and takes note of one that ends the context.
    pub(super) fn check<T>(&self, operation: &'static str, answer: Result<T, DriverError>) -> Result<T, CudaError> {
        answer.map_err(|error| self.noted(CudaError::of(operation, error)))
    }

    pub(super) fn noted(&self, error: CudaError) -> CudaError {
        if error.is_lost() {
            self.lost.send_if_modified(|lost| {
                let first = lost.is_none();
                lost.get_or_insert_with(|| error.clone());
                first
            });
        }
        error
    }
}

/// Whether there is a driver: without one every call of cudarc panics.
pub(super) fn driver_present() -> Result<(), CudaError> {
    // SAFETY: only loads a library, whose initialisers are the driver's own.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(CudaError::Missing { library: "libcuda.so.1", package: "the NVIDIA driver" })
}

/// cudarc panics where the driver lacks a function that it was built for: that must not end the worker without a word.
pub(super) fn guarded<T>(operation: &'static str, work: impl FnOnce() -> Result<T, CudaError>) -> Result<T, CudaError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(CudaError::Failed { operation, cause: words.unwrap_or_else(|| "the CUDA bindings panicked".to_owned()) })
    })
}

/// CUDA's number of the GPU in this process: its order is CUDA's own, and `CUDA_VISIBLE_DEVICES` filters it.
fn ordinal_of(gpu_id: &GpuId) -> Result<usize, CudaError> {
    let refused = |error| CudaError::of("list the GPUs", error);
    let count = result::device::get_count().map_err(refused)?;
    let mut there = Vec::new();
    for ordinal in 0..count {
        let device = result::device::get(ordinal).map_err(refused)?;
        let uuid = result::device::get_uuid(device).map_err(refused)?;
        let uuid = hexadecimal(&uuid.bytes.map(|byte| byte as u8));
        if gpu_id.as_str().to_ascii_lowercase().ends_with(&uuid) {
            return usize::try_from(ordinal).map_err(|_| CudaError::Refused(format!("{ordinal} is no number of a GPU")));
        }
        there.push(uuid);
    }
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").map_or_else(|_| "is not set".to_owned(), |value| format!("is {value:?}"));
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    Err(CudaError::Refused(format!("CUDA shows no GPU {gpu_id} to this process; there are: {there}; CUDA_VISIBLE_DEVICES {visible}")))
}

/// As NVML writes a UUID, without its prefix.
fn hexadecimal(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// How the driver waits inside of its own calls: a thread that sleeps there is woken by an interrupt, which takes longer than a small task's whole work. What tasks wait for long, they wait for in
/// [`Lane::wait`], asleep. That leaves the unloading of modules, which is rare. Without memory pools every buffer that is freed waits for all that runs: there the driver sleeps.
fn wait_briefly(ordinal: usize) -> Result<(), CudaError> {
    let ordinal = i32::try_from(ordinal).map_err(|_| CudaError::Refused(format!("{ordinal} is no number of a GPU")))?;
    let device = result::device::get(ordinal).map_err(|error| CudaError::of("find the GPU", error))?;
    let pools = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
    // SAFETY: `device` is a device that the driver just gave.
    let pools = unsafe { result::device::get_attribute(device, pools) }.map_err(|error| CudaError::of("ask for memory pools", error))?;
    let flag = if pools > 0 { sys::CUctx_flags::CU_CTX_SCHED_YIELD } else { sys::CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC };
    // SAFETY: `device` is a device that the driver just gave; the flag is one that the call takes.
    let set = unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(device, flag as u32) };
    set.result().map_err(|error| CudaError::of("set the context's flags", error))
}

/// Lets the driver keep a little of the memory that buffers gave back. It would hand all of it back at every wait, and map it anew for the next task: some 100 µs each.
fn keep_memory(context: &CudaContext) -> Result<(), CudaError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let total = context.total_mem().map_err(|error| CudaError::of("ask for the GPU's memory", error))?;
    let mut bytes = KEPT_BYTES.min(total as u64 / KEPT_PART);
    // SAFETY: the device is the context's; the attribute is a 64-bit number, and lives until the call is over.
    let kept = unsafe {
        result::device::get_mem_pool(context.cu_device()).and_then(|pool| {
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, threshold, (&raw mut bytes).cast())
        })
    };
    kept.map_err(|error| CudaError::of("set what the memory pool keeps", error))
}

/// Lets the driver's pool hand back what no buffer holds. It keeps a little for the next ones, which others then lack.
pub(super) fn empty_pool(context: &CudaContext) -> Result<(), DriverError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    // SAFETY: the device is the context's, and the pool its own.
    unsafe { result::device::get_mem_pool(context.cu_device()).and_then(|pool| result::mem_pool::trim_to(pool, 0)) }
}

/// What the driver's pool has of the GPU's memory, in bytes. Without one it is nothing.
pub(super) fn pool_bytes(context: &CudaContext) -> Result<u64, DriverError> {
    if !context.has_async_alloc() {
        return Ok(0);
    }
    let mut bytes = 0_u64;
    // SAFETY: the device is the context's; the attribute is a 64-bit number, for which there is room.
    unsafe {
        let pool = result::device::get_mem_pool(context.cu_device())?;
        result::mem_pool::get_attribute(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, (&raw mut bytes).cast())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvml_writes_it() {
        let bytes: [u8; 16] = std::array::from_fn(|at| at as u8 * 17);
        assert_eq!(hexadecimal(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn a_panic_of_the_bindings_becomes_an_error() {
        let error = guarded::<()>("open the GPU", || panic!("Missing symbol {}", "cuX")).unwrap_err();
        assert_eq!(error.to_string(), "open the GPU: Missing symbol cuX");
    }
}
