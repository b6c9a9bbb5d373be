//! A model in memory: loaded, tried, and proved to run where it is to run.

use std::{
    env,
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use devices::{Device, Use};
use ort::session::{Session, builder::SessionBuilder};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    OnnxError, OnnxPlace, OnnxRuntime,
    axis::Axis,
    directory::{Content, ModelFile, Stamp},
    port::Port,
    profile::Steps,
    session::{self, RunError, RunFault, Tensors},
    trial,
};
use crate::{Failure, occupy::occupy};

/// How much more than its inputs and outputs a run takes while it goes on: what lies between the steps. A guess that is right within a few times.
const BETWEEN_STEPS: u64 = 8;

/// A model.
pub struct OnnxModel {
    pub(super) file: ModelFile,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    /// The axis along which payloads run together. `None`: each runs alone.
    pub(super) axis: Option<Axis>,
    pub(super) place: OnnxPlace,
    /// Whether its memory is the device's.
    pub(super) is_on_device: bool,
    session: Arc<Mutex<Session>>,
    /// What it takes of memory, in MB.
    pub(super) memory_mb: u64,
}

/// What a model is loaded with.
#[derive(Debug, Clone)]
pub(super) struct Loader {
    pub(super) runtime: OnnxRuntime,
    pub(super) place: OnnxPlace,
    pub(super) is_on_device: bool,
}

impl Loader {
    /// Loads a model, tries it, and proves that it runs where it is to run. Blocks, for seconds perhaps. `axis`: the configured one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn load(&self, file: ModelFile, axis: Option<&str>) -> Result<OnnxModel, OnnxError> {
        let content = file.read()?;
        let wrong = |why: String| OnnxError::Model { name: file.name.clone(), version: file.version.clone(), why };
        let mut session = self.session(&file, &content).map_err(wrong)?;
        let ports = |outlets: &[ort::value::Outlet]| outlets.iter().map(Port::of).collect::<Result<Vec<_>, _>>();
        let inputs = ports(session.inputs()).map_err(wrong)?;
        let outputs = ports(session.outputs()).map_err(wrong)?;
        let size = self.proved(&mut session, &inputs).map_err(wrong)?;
        let axis = usable_axis(&mut session, (&inputs, &outputs), size, axis).map_err(|why| {
            tracing::debug!(model = file.name, why, "payloads of this model do not run together");
        });
        let (memory_mb, session) = (memory_mb(file.bytes()), Arc::new(Mutex::new(session)));
        Ok(OnnxModel { file, inputs, outputs, axis: axis.ok(), place: self.place, is_on_device: self.is_on_device, session, memory_mb })
    }

    fn session(&self, file: &ModelFile, content: &Content) -> Result<Session, String> {
        let mut builder = self.builder()?;
        let session = if content.has_more_beside {
            let session = builder.commit_from_file(&file.path).map_err(|error| error.to_string())?;
            // Its parts are read one by one.
            if !file.is_unchanged() {
                return Err("it was changed while it was loaded".to_owned());
            }
            session
        } else {
            builder.commit_from_memory(&content.bytes).map_err(|error| error.to_string())?
        };
        Ok(session)
    }

    fn builder(&self) -> Result<SessionBuilder, String> {
        let builder = self.place.builder(&self.runtime)?;
        match self.place {
            OnnxPlace::Cpu => Ok(builder),
            OnnxPlace::Cuda { .. } => builder.with_profiling(profile_prefix()).map_err(|error| error.to_string()),
        }
    }

    /// Tries the model; on CUDA, what ONNX Runtime recorded of the trial has to show that it ran there.
    fn proved(&self, session: &mut Session, inputs: &[Port]) -> Result<usize, String> {
        let tried = trial::run(session, inputs);
        if let OnnxPlace::Cuda { .. } = self.place {
            let record = session.end_profiling().map_err(|error| error.to_string())?;
            let steps = Steps::take(record.as_ref()).map_err(|error| error.to_string())?;
            tried.as_ref().map_err(Clone::clone)?;
            steps.prove_cuda()?;
            tracing::info!(on_cuda = steps.on_cuda, elsewhere = steps.elsewhere, "the steps of a model's trial");
        }
        tried
    }

    /// Tries the provider with a small model of our own.
    ///
    /// # Errors
    /// [`OnnxError::Provider`].
    pub(super) fn try_provider(&self) -> Result<(), OnnxError> {
        let trial = || {
            let mut session = self.builder()?.commit_from_memory(&super::graph::product()).map_err(|error| error.to_string())?;
            let inputs = session.inputs().iter().map(Port::of).collect::<Result<Vec<_>, _>>()?;
            self.proved(&mut session, &inputs).map(drop)
        };
        trial().map_err(|why| OnnxError::Provider { provider: self.place.name(), why })
    }
}

fn usable_axis(
    session: &mut Session,
    (inputs, outputs): (&[Port], &[Port]),
    size: usize,
    configured: Option<&str>,
) -> Result<Axis, String> {
    let axis = Axis::of(inputs, outputs, configured)?;
    axis.prove(session, inputs, size)?;
    Ok(axis)
}

/// What a model of so many bytes takes of memory, in MB: some weights are kept twice, in the form that the processor likes best.
pub(super) const fn memory_mb(bytes: u64) -> u64 {
    bytes.saturating_mul(2).div_ceil(1_000_000)
}

/// A name for the record of one session, in a folder for what is temporary.
fn profile_prefix() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("gpufleet-onnx-{}-{number}", process::id()))
}

impl OnnxModel {
    pub(super) const fn stamp(&self) -> Stamp {
        self.file.stamp
    }

    /// Runs it. `keeps` lives until the run has really ended, also after a cancel.
    ///
    /// # Errors
    /// `cancelled`, `out_of_memory`, `invalid_payload` or another fault of the run.
    pub(super) async fn run<K: Send + 'static>(
        &self,
        inputs: Tensors,
        device: &dyn Device,
        cancel: &CancellationToken,
        keeps: K,
    ) -> Result<Tensors, Failure> {
        let bytes: u64 = inputs.values().map(|tensor| tensor.bytes() as u64).sum();
        let memory_mb = if self.is_on_device { bytes.saturating_mul(BETWEEN_STEPS).div_ceil(1_000_000) } else { 0 };
        let work = occupy(device, Use { memory_mb, compute_share: 1.0 })?;
        let answer = session::run(&self.session, inputs, cancel, (keeps, work)).await?;
        answer.map_err(|error| self.failure(error, memory_mb))
    }

    /// The same numbers give the same fault again on the CPU; a GPU may be at fault itself.
    fn failure(&self, error: RunError, memory_mb: u64) -> Failure {
        let message = format!("model {}: {}", self.file.name, error.message);
        match error.what {
            RunFault::Memory => Failure { memory_mb: Some(memory_mb).filter(|mb| *mb > 0), ..Failure::out_of_memory(message) },
            RunFault::Arguments => Failure::invalid("payload.inputs", message),
            RunFault::Other => Failure { retry: matches!(self.place, OnnxPlace::Cuda { .. }), ..Failure::transient(message) },
        }
    }
}
