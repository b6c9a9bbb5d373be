//! What a check works with: the GPU, opened as it needs it.

use devices::{
    Device, NvidiaGpu,
    nvidia::{Found, Host, NvidiaOptions},
};
use protocol::GpuId;

use crate::{Fault, arguments::Scale};

/// What every check is given.
#[derive(Clone)]
pub struct Bench {
    pub gpu_id: GpuId,
    pub seed: u64,
    pub scale: Scale,
}

impl Bench {
    /// The GPU, opened as a worker opens it, and proved.
    pub async fn open(&self) -> Result<NvidiaGpu, Fault> {
        self.open_up_to(0.9).await
    }

    /// As [`open`](Self::open), for tasks that may use this share of its memory.
    pub async fn open_up_to(&self, memory_threshold: f64) -> Result<NvidiaGpu, Fault> {
        let opened = self.unproved(memory_threshold).await?.proved().await;
        let (health, reason) = opened.health();
        if health.takes_tasks() { Ok(opened) } else { Err(reason.into()) }
    }

    /// The GPU as NVML alone shows it: where CUDA shows this process no GPU, it has samples and makes no context.
    pub async fn watch(&self) -> Result<NvidiaGpu, Fault> {
        self.unproved(0.9).await
    }

    async fn unproved(&self, memory_threshold: f64) -> Result<NvidiaGpu, Fault> {
        let bench = self.clone();
        let opening = move || -> Result<NvidiaGpu, Fault> {
            let host = Host::open()?;
            let found = bench.found_on(&host)?;
            Ok(NvidiaGpu::open(&host, found, NvidiaOptions { memory_threshold })?)
        };
        tokio::task::spawn_blocking(opening).await?
    }

    /// What NVML says that it is.
    pub async fn found(&self) -> Result<Found, Fault> {
        let bench = self.clone();
        tokio::task::spawn_blocking(move || bench.found_on(&Host::open()?)).await?
    }

    fn found_on(&self, host: &Host) -> Result<Found, Fault> {
        Ok(host.gpu(&self.gpu_id)?.ok_or_else(|| format!("NVML gives no answer for {}", self.gpu_id))?)
    }
}
