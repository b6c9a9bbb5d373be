//! One NVIDIA GPU, as a worker sees it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use protocol::{GpuDescription, GpuId, GpuSample, Health};
use tokio::sync::{Mutex, mpsc};

use super::{
    Found, Host, NvidiaError,
    account::Account,
    blame,
    cuda::{Canary, Cuda, CudaError, CudaMemory},
    host::megabytes,
    sampler::Sampler,
};
use crate::{Consequence, Device, DeviceMemory, OutOfMemory, Trouble, Use, WorkOn};

/// How long a GPU that CUDA cannot use shows in the table, with the reason, before a new process tries again.
const BROKEN_PAUSE: Duration = Duration::from_secs(10);
/// How long a look at our own context may take.
const LOOK: Duration = Duration::from_secs(5);
/// Troubles that wait to be told.
const TROUBLES_MAX: usize = 64;

/// How a GPU is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NvidiaOptions {
    /// Tasks may use the GPU's memory up to this share of it.
    pub memory_threshold: f64,
}

/// One GPU in this process, the only one that it uses.
pub struct NvidiaGpu {
    description: GpuDescription,
    options: NvidiaOptions,
    sampler: Sampler,
    troubles: Mutex<mpsc::Receiver<Trouble>>,
    reserved_mb: Arc<AtomicU64>,
    account: Arc<Account>,
    probes: AtomicU64,
    work: Result<Working, String>,
}

struct Working {
    cuda: Cuda,
    canary: Canary,
    memory: CudaMemory,
}

impl NvidiaGpu {
    /// Takes the GPU: samples, CUDA, and its canary. A GPU that CUDA cannot use, or whose canary fails, is there all the same: quarantined, with the reason, until a new
    /// process may try again. Blocks for a second or so: not for the async runtime's threads.
    ///
    /// # Errors
    /// [`NvidiaError`] if not even NVML answers for it.
    pub fn open(host: &Host, found: Found, options: NvidiaOptions) -> Result<Self, NvidiaError> {
        let (tell, troubles) = mpsc::channel(TROUBLES_MAX);
        let description = found.description;
        let account = Arc::default();
        let sampler = Sampler::start(host, &description.gpu_id, Arc::clone(&account), tell)?;
        let work = working(&description.gpu_id, Arc::clone(&account)).map_err(|error| error.to_string());
        if let Err(reason) = &work {
            tracing::error!(gpu_id = %description.gpu_id, reason, "CUDA cannot use this GPU");
        }
        Ok(Self {
            description,
            options,
            sampler,
            troubles: Mutex::new(troubles),
            reserved_mb: Arc::default(),
            account,
            probes: AtomicU64::new(0),
            work,
        })
    }

    /// Probes the GPU once, before the first task. What it finds wrong quarantines the GPU until a new process may try again.
    pub async fn proved(mut self) -> Self {
        if self.work.is_ok()
            && let Err(problem) = self.probe().await
        {
            let reason = format!("its canary failed at the start: {problem}");
            tracing::error!(gpu_id = %self.description.gpu_id, reason, "GPU quarantined");
            self.work = Err(reason);
        }
        self
    }

    /// The trouble that a Xid for some process on the GPU means for this one: its own context knows.
    async fn looked_into(&self, trouble: Trouble) -> Trouble {
        let Ok(working) = &self.work else { return trouble };
        if trouble.what != Consequence::Suspected {
            return trouble;
        }
        // A driver that hangs must not keep us from hearing of worse.
        match tokio::time::timeout(LOOK, working.cuda.run(|lane| lane.wait())).await {
            Ok(Err(lost)) if lost.is_lost() => blame::joined(blame::lost(&lost), trouble),
            _ => trouble,
        }
    }

    async fn enough_memory(&self, working: &Working) -> Result<(), String> {
        let memory = working.cuda.memory().await.map_err(|error| error.to_string())?;
        let wanted = memory.total as f64 * (1.0 - self.options.memory_threshold);
        // What stays here between tasks is no other process's.
        let free_of_others = memory.free.saturating_add(self.account.resident());
        if free_of_others as f64 >= wanted {
            return Ok(());
        }
        let mb = |bytes: u64| bytes / 1_000_000;
        Err(format!(
            "only {} MB of its {} MB are free: another process uses the GPU, or an ended one has not given its memory back",
            mb(memory.free),
            mb(memory.total)
        ))
    }
}

fn working(gpu_id: &GpuId, account: Arc<Account>) -> Result<Working, CudaError> {
    let cuda = Cuda::open_counting(gpu_id, account)?;
    let canary = Canary::load(&cuda)?;
    let memory = CudaMemory::new(cuda.clone(), gpu_id.clone());
    Ok(Working { cuda, canary, memory })
}

#[async_trait]
impl Device for NvidiaGpu {
    fn description(&self) -> &GpuDescription {
        &self.description
    }

    fn sample(&self) -> GpuSample {
        self.sampler.sample()
    }

    fn health(&self) -> (Health, String) {
        match &self.work {
            Err(reason) => (Health::Quarantined, reason.clone()),
            Ok(working) => match (working.cuda.is_lost(), self.sampler.stale()) {
                (Some(lost), _) => (Health::Quarantined, lost.to_string()),
                (None, Some(stale)) => (Health::Suspect, stale),
                (None, None) => (Health::Healthy, String::new()),
            },
        }
    }

    /// In use is what others held when NVML looked last, what stays between tasks, and what tasks have reserved, allocated or not. Work that goes on after its task has ended holds memory that
    /// nobody reserves any more: what is allocated counts where it is more.
    fn begin(&self, wanted: Use) -> Result<WorkOn, OutOfMemory> {
        let total_mb = self.description.memory_total_mb;
        let bound_mb = (total_mb as f64 * self.options.memory_threshold) as u64;
        let others_mb = self.sampler.others_mb();
        let resident_mb = megabytes(self.account.resident());
        let allocated_mb = megabytes(self.account.buffers());
        let refused = |reserved_mb: u64| {
            let in_use_mb = others_mb.saturating_add(resident_mb).saturating_add(reserved_mb.max(allocated_mb));
            (wanted.memory_mb > 0 && in_use_mb.saturating_add(wanted.memory_mb) > bound_mb).then(|| OutOfMemory {
                wanted_mb: wanted.memory_mb,
                free_mb: bound_mb.saturating_sub(in_use_mb),
                total_mb,
            })
        };
        let take = |reserved_mb: u64| refused(reserved_mb).is_none().then_some(reserved_mb + wanted.memory_mb);
        match self.reserved_mb.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => Ok(WorkOn::new(Box::new(Reserved { reserved_mb: Arc::clone(&self.reserved_mb), memory_mb: wanted.memory_mb }))),
            Err(reserved_mb) => Err(refused(reserved_mb).unwrap_or(OutOfMemory { wanted_mb: wanted.memory_mb, free_mb: 0, total_mb })),
        }
    }

    async fn probe(&self) -> Result<(), String> {
        let working = self.work.as_ref().map_err(Clone::clone)?;
        self.enough_memory(working).await?;
        let seed = self.probes.fetch_add(1, Ordering::Relaxed) as u32;
        working.canary.run(&working.cuda, seed.wrapping_mul(2_654_435_761)).await
    }

    async fn trouble(&self) -> Trouble {
        let working = match &self.work {
            Ok(working) => working,
            Err(reason) => {
                tokio::time::sleep(BROKEN_PAUSE).await;
                return Trouble { what: Consequence::Lost { by_a_task: false }, reason: reason.clone(), xid: None };
            }
        };
        let mut troubles = self.troubles.lock().await;
        tokio::select! {
            biased;
            Some(trouble) = troubles.recv() => self.looked_into(trouble).await,
            lost = working.cuda.lost() => blame::blamed(&lost, &mut troubles).await,
        }
    }

    fn is_lost(&self) -> bool {
        self.cuda().is_some_and(|cuda| cuda.is_lost().is_some())
    }

    fn cuda(&self) -> Option<&Cuda> {
        self.work.as_ref().ok().map(|working| &working.cuda)
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        self.work.as_ref().ok().map(|working| &working.memory as &dyn DeviceMemory)
    }
}

/// Memory that a task has reserved.
struct Reserved {
    reserved_mb: Arc<AtomicU64>,
    memory_mb: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.reserved_mb.fetch_sub(self.memory_mb, Ordering::AcqRel);
    }
}
