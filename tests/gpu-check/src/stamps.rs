//! Executors that note when they are called, in this process's own clock: how long a task was under way before the GPU worked on it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use devices::{
    Cuda, CudaError,
    nvidia::cuda::{Argument, Grid, Lane, Module, Scalar},
};
use executors::{Executor, Failure, Run};
use protocol::{Json, Kind};

use crate::{bare::small_bytes, speed::COUNT};

/// The last moment that was noted.
#[derive(Clone, Default)]
pub struct Stamp(Arc<Mutex<Option<Instant>>>);

impl Stamp {
    fn note(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Milliseconds from then to the noted moment.
    pub fn since(&self, then: Instant) -> Option<f64> {
        let at = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(at.saturating_duration_since(then).as_secs_f64() * 1e3)
    }
}

/// An executor that notes when it is called.
pub struct Stamped {
    pub executor: Arc<dyn Executor>,
    pub called: Stamp,
}

#[async_trait]
impl Executor for Stamped {
    fn kind(&self) -> Kind {
        self.executor.kind()
    }

    async fn run(&self, run: Run<'_>) -> Result<protocol::Framed, Failure> {
        self.called.note(Instant::now());
        self.executor.run(run).await
    }
}

/// The small kernel without a payload: its numbers are here already. It notes when it launches the kernel.
pub struct Launch {
    pub module: Module,
    pub launched: Stamp,
}

impl Launch {
    pub const KIND: &str = "launch";

    fn work(module: &Module, lane: &Lane) -> Result<Instant, CudaError> {
        let (function, numbers) = (module.function("saxpy")?, small_bytes());
        let (x, y) = (lane.upload(&numbers)?, lane.upload(&numbers)?);
        let arguments =
            [Argument::Scalar(Scalar::U32(COUNT as u32)), Argument::Scalar(Scalar::F32(2.0)), Argument::Buffer(&x), Argument::Buffer(&y)];
        let launched = Instant::now();
        lane.launch(&function, Grid { blocks: (4, 1, 1), threads: (256, 1, 1), shared_bytes: 0 }, &arguments)?;
        lane.download(&y)?;
        Ok(launched)
    }
}

#[async_trait]
impl Executor for Launch {
    fn kind(&self) -> Kind {
        Kind::new(Self::KIND).expect("a literal that keeps the rule")
    }

    async fn run(&self, run: Run<'_>) -> Result<protocol::Framed, Failure> {
        let cuda: &Cuda = run.device.cuda().ok_or_else(|| Failure::transient("no CUDA"))?;
        let module = self.module.clone();
        let ran = cuda.run(move |lane: &Lane| Self::work(&module, lane)).await.map_err(|error| Failure::transient(error.to_string()))?;
        self.launched.note(run.usage.add(ran));
        Ok(Json::null().into())
    }
}
