//! `kernel`: a CUDA C++ kernel from the operator's directory of modules, compiled for the GPU at hand and kept.
//!
//! ```json
//! {"module": "saxpy", "kernel": "saxpy", "blocks": 4, "threads": 256,
//!  "arguments": [{"u32": 1000}, {"f32": 2.0}, {"in": {"f32": [1, 2, 3]}}, {"inout": {"f32": [4, 5, 6]}}, {"out": {"f64": 10}}]}
//! ```
//! `module` is a file `<module>.cu` of `kernel.directory`; `kernel` (default: the module's name) a function in it that is declared `extern "C" __global__`. Numbers are `i32`, `u32`,
//! `i64`, `u64`, `f32` or `f64`; `in` is a pointer to a copy of the numbers, `inout` also gives them back, `out` is a pointer to that many zeros and gives them back. Gives `{"outputs": [...]}`, one
//! list for each `inout` and `out`, in order; infinities and NaN are `null`. `blocks` and `threads` are numbers or lists of up to three.
//!
//! ```json
//! {"module": "saxpy", "blocks": 4, "threads": 256, "outputs": "segments",
//!  "arguments": [{"u32": 1000}, {"f32": 2.0}, {"in": {"$segment": 0, "dtype": "f32"}}, {"inout": {"$segment": 1, "dtype": "f32", "shape": [10, 100]}}]}
//! ```
//! In place of a list, `in` and `inout` take raw bytes (`schemas/frame.md`): numbers of any type, or bytes of none. With `"outputs": "segments"` all that is given back is raw bytes as well,
//! `{"$segment": 0, "dtype": "f32", "shape": [10, 100]}`; that is so where any argument was. `"outputs": "numbers"` asks for lists in any case.
//!
//! `in` and `inout` also take a tensor, `{"in": {"tensor": "weights"}}`. The kernel reads that of an `in` where it lies, and must not write it: other tasks read it too. Of an `inout` it gets a copy. With `keep_as` what is given back stays on the
//! GPU, each `inout` and `out` under its name, and may be of any size that the GPU has memory for: `{"outputs": [{"tensor": "sums", ...}]}`.
//!
//! A module whose file changes is compiled anew within a second. The operator allows the modules, and trusts them as far as a kernel can go: it shares the GPU's memory with the other tasks of the same
//! worker, and one that faults takes them all down with it (each is then tried again alone).

mod arguments;
mod modules;
mod outputs;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use devices::{
    Device, DeviceBuffer, Use,
    nvidia::cuda::{Argument, Lane},
};
use protocol::{Framed, Json, Kind};

use self::{
    arguments::{Asked, Given},
    modules::Modules,
    outputs::{Listed, Outputs, Written},
};
use crate::{
    Executor, Failure, Run, TakesTensors,
    cuda::{cuda_of, failure},
    occupy::occupy,
    schemas,
    tensor_inputs::{self, Inputs},
};

struct Kernel {
    modules: Modules,
}

/// The executor of the kind `kernel`, with the modules of `directory`. It needs a GPU with CUDA, and NVRTC.
#[must_use]
pub fn kernel(directory: PathBuf) -> Arc<dyn Executor> {
    Arc::new(Kernel { modules: Modules::of(directory) })
}

#[async_trait]
impl Executor for Kernel {
    fn kind(&self) -> Kind {
        Kind::new("kernel").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "runs a CUDA kernel of the operator's directory of modules".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::KERNEL))
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::OnGpu
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let Asked { module, kernel, grid, arguments, outputs } = Asked::read(run.payload, &Inputs::of(&run))?;
        let cuda = cuda_of(run.device.as_ref())?;
        let keeps = outputs == Outputs::Kept;
        let memory_mb = arguments.iter().map(|given| given.bytes_taken(keeps)).sum::<u64>().div_ceil(1_000_000);
        let _memory = occupy(run.device.as_ref(), Use { memory_mb, compute_share: 1.0 })?;
        let module = self.modules.get(cuda, run.device.description(), &module).await?;
        let kept = if keeps { rooms(&run, &arguments).await? } else { vec![None; arguments.len()] };
        let lasting = kept.clone();
        let work = move |lane: &Lane| {
            let function = module.function(&kernel)?;
            let all = arguments.iter().zip(&lasting);
            let buffers = all.map(|(given, kept)| given.on(lane, kept.as_ref())).collect::<Result<Vec<_>, _>>()?;
            let passed: Vec<Argument<'_, '_>> =
                arguments.iter().zip(&buffers).map(|(given, buffer)| given.passed(buffer.as_ref())).collect();
            lane.timed(|| lane.launch(&function, grid, &passed))?;
            arguments
                .iter()
                .zip(&buffers)
                .filter_map(|(given, buffer)| given.read_back(lane, buffer.as_ref()?, keeps))
                .collect::<Result<Vec<Written>, _>>()
        };
        let ran = cuda.run(work).await.map_err(|error| failure(&error, Some(memory_mb)))?;
        let written = run.usage.add(ran);
        if keeps { keep(&run, written, kept).await } else { Ok(outputs.written(written)) }
    }

    async fn evict(&self, _device: &dyn Device) -> bool {
        self.modules.forget().await
    }
}

/// Memory for what is to stay of each argument.
async fn rooms(run: &Run<'_>, arguments: &[Given]) -> Result<Vec<Option<DeviceBuffer>>, Failure> {
    let mut rooms = Vec::with_capacity(arguments.len());
    for given in arguments {
        let room = if given.is_given_back() { Some(tensor_inputs::room_for(run, given.bytes()).await?) } else { None };
        rooms.push(room);
    }
    Ok(rooms)
}

/// Leaves the outputs on the GPU; the result says where.
async fn keep(run: &Run<'_>, written: Vec<Written>, kept: Vec<Option<DeviceBuffer>>) -> Result<Framed, Failure> {
    let mut outputs = Vec::with_capacity(written.len());
    for (output, (Written { back, .. }, buffer)) in written.into_iter().zip(kept.into_iter().flatten()).enumerate() {
        let shape = tensor_inputs::shape_of(back.dtype, back.shape, buffer.len() as usize);
        outputs.push(tensor_inputs::keep(run, output, shape, buffer).await?);
    }
    Ok(Json::of(&Listed { outputs }).into())
}
