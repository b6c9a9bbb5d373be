//! Kernels: modules of machine code, their functions, and launching one.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use cudarc::{
    driver::{CudaFunction, CudaModule, DriverError, LaunchConfig, PushKernelArg, sys},
    nvrtc::Ptx,
};
use protocol::task::ComputeCapability;

use super::{
    Buffer, Cuda, CudaError, Lane, Source, Version,
    compile::{compile, nvrtc_version},
};

/// How many threads a kernel is launched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: (u32, u32, u32),
    /// Threads of a block in x, y and z.
    pub threads: (u32, u32, u32),
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

impl fmt::Display for Grid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks: (bx, by, bz), threads: (tx, ty, tz), shared_bytes } = self;
        write!(formatter, "{bx} × {by} × {bz} blocks of {tx} × {ty} × {tz} threads and {shared_bytes} bytes of shared memory")
    }
}

/// A number as a kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    /// `int`.
    I32(i32),
    /// `unsigned int`.
    U32(u32),
    /// `long long`.
    I64(i64),
    /// `unsigned long long`.
    U64(u64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
}

impl Scalar {
    const fn bytes(self) -> usize {
        match self {
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
            Self::I64(_) | Self::U64(_) | Self::F64(_) => 8,
        }
    }
}

/// One argument of a kernel.
pub enum Argument<'a, 'lane> {
    /// A number.
    Scalar(Scalar),
    /// A pointer to memory of the GPU.
    Buffer(&'a Buffer<'lane, u8>),
}

impl Argument<'_, '_> {
    const fn bytes(&self) -> usize {
        match self {
            Self::Scalar(scalar) => scalar.bytes(),
            Self::Buffer(_) => size_of::<sys::CUdeviceptr>(),
        }
    }
}

/// Machine code on the GPU. It stays until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Module {
    module: Arc<CudaModule>,
}

/// A kernel of a module.
#[derive(Debug, Clone)]
pub struct Function {
    function: CudaFunction,
    name: String,
}

/// Dynamic shared memory of a block that every kernel may ask for, in bytes.
const SHARED_BYTES_FREE: u32 = 48 << 10;
/// The first CUDA whose drivers tell a kernel's parameters.
const TELLS_PARAMETERS: Version = Version { major: 12, minor: 4 };

type ParameterInfo = unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> sys::CUresult;

/// The driver's function that tells the place and size of a kernel's nth parameter.
fn parameter_info() -> Result<ParameterInfo, CudaError> {
    // Looked up once: it is asked for before every launch.
    static INFO: OnceLock<Option<ParameterInfo>> = OnceLock::new();
    if let Some(Some(info)) = INFO.get() {
        return Ok(*info);
    }
    let serves = Version::of_driver()?;
    let look = || {
        // SAFETY: the driver is there; the name has had this signature since its first version.
        let info = unsafe { sys::culib().get::<ParameterInfo>(b"cuFuncGetParamInfo") };
        info.ok().map(|info| *info).filter(|_| serves >= TELLS_PARAMETERS)
    };
    INFO.get_or_init(look).ok_or_else(|| {
        let cause = format!(
            "this driver, which serves CUDA {serves}, does not tell a kernel's parameters, so no argument can be checked; install one that \
             serves CUDA {TELLS_PARAMETERS} or newer"
        );
        CudaError::Failed { operation: "look for cuFuncGetParamInfo", cause }
    })
}

/// Whether kernels with arguments of strangers can run here; NVRTC's version.
///
/// # Errors
/// [`CudaError`], with what lacks: the driver, NVRTC, or a driver that is new enough. It needs no GPU.
pub fn kernels_here() -> Result<Version, CudaError> {
    parameter_info()?;
    nvrtc_version()
}

impl Cuda {
    /// Compiles a module and brings it to the GPU. The compiler runs on a thread of its own and takes no lane: it needs no GPU, and however long it takes says nothing
    /// of one. Dropping the future does not stop it: it ends, unseen.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub async fn build(&self, source: Source, capability: ComputeCapability) -> Result<Module, CudaError> {
        let compiling = tokio::task::spawn_blocking(move || compile(&source, capability)).await;
        let code = compiling.map_err(|error| CudaError::Failed { operation: "compile a module", cause: error.to_string() })??;
        let cuda = self.clone();
        Ok(self.run(move |_| cuda.load(Ptx::from_binary(code))).await?.value)
    }

    /// As [`build`](Self::build), on the calling thread: blocks, for seconds perhaps.
    ///
    /// # Errors
    /// [`CudaError::Refused`] with the compiler's words; [`CudaError::Missing`] without NVRTC; what the driver answers.
    pub fn compile(&self, source: &Source, capability: ComputeCapability) -> Result<Module, CudaError> {
        self.load(Ptx::from_binary(compile(source, capability)?))
    }

    pub(super) fn load(&self, code: Ptx) -> Result<Module, CudaError> {
        let shared = self.shared();
        Ok(Module { module: shared.check("load a module", shared.context.load_module(code))? })
    }
}

impl Module {
    /// The kernel of this name.
    ///
    /// # Errors
    /// [`CudaError::Refused`] if it has none.
    pub fn function(&self, name: &str) -> Result<Function, CudaError> {
        let failed = |error: DriverError| match error.0 {
            sys::CUresult::CUDA_ERROR_NOT_FOUND => {
                CudaError::Refused(format!("the module has no kernel {name:?}; is it declared as extern \"C\" __global__?"))
            }
            _ => CudaError::of("find a kernel", error),
        };
        if name.contains('\0') {
            return Err(CudaError::Refused("the name of a kernel contains a zero byte".to_owned()));
        }
        Ok(Function { function: self.module.load_function(name).map_err(failed)?, name: name.to_owned() })
    }
}

impl Function {
    /// The sizes of its parameters, in bytes.
    fn parameters(&self) -> Result<Vec<usize>, CudaError> {
        let info = parameter_info()?;
        let (mut offset, mut size, mut sizes) = (0, 0, Vec::new());
        loop {
            // SAFETY: the function is alive; past the last parameter the driver answers with an error and writes nothing.
            match unsafe { info(self.function.cu_function(), sizes.len(), &raw mut offset, &raw mut size) } {
                sys::CUresult::CUDA_SUCCESS => sizes.push(size),
                sys::CUresult::CUDA_ERROR_INVALID_VALUE => return Ok(sizes),
                failed => return Err(CudaError::of("ask for a kernel's parameters", DriverError(failed))),
            }
        }
    }

    /// Arguments of other sizes would be read from beyond their ends.
    fn accept(&self, arguments: &[Argument<'_, '_>]) -> Result<(), CudaError> {
        let sizes = self.parameters()?;
        let given: Vec<usize> = arguments.iter().map(Argument::bytes).collect();
        if sizes == given {
            return Ok(());
        }
        let listed = |sizes: &[usize]| sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let name = &self.name;
        Err(CudaError::Refused(match sizes.iter().zip(&given).position(|(wanted, given)| wanted != given) {
            Some(at) => format!("kernel {name}: argument {at} has {} bytes where the kernel takes {}", given[at], sizes[at]),
            None => format!("kernel {name} takes {} arguments (of {} bytes), {} were given", sizes.len(), listed(&sizes), given.len()),
        }))
    }
}

impl Function {
    /// Lets a launch ask for more shared memory than every kernel may. It is always let have all that there is: launches on other lanes share this function.
    fn allow_shared(&self, lane: &Lane, bytes: u32) -> Result<(), CudaError> {
        const ASK: &str = "ask for a kernel's shared memory";
        if bytes <= SHARED_BYTES_FREE {
            return Ok(());
        }
        let of_block = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let of_kernel = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        let dynamic = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let shared = &lane.shared;
        let all = shared.check(ASK, shared.context.attribute(of_block))?;
        let most = all - shared.check(ASK, self.function.get_attribute(of_kernel))?;
        if i64::from(bytes) > i64::from(most) {
            let name = &self.name;
            return Err(CudaError::Refused(format!("kernel {name} can have {most} bytes of dynamic shared memory here, not {bytes}")));
        }
        shared.check("give a kernel shared memory", self.function.set_attribute(dynamic, most))
    }
}

impl Lane {
    /// Launches a kernel. What it does wrong shows at the next [`wait`](Lane::wait) or [`download`](Lane::download).
    ///
    /// # Errors
    /// [`CudaError::Refused`] for arguments that are not its own or a grid that this GPU does not take.
    pub fn launch(&self, function: &Function, grid: Grid, arguments: &[Argument<'_, '_>]) -> Result<(), CudaError> {
        function.accept(arguments)?;
        // SAFETY: the arguments are as many and as large as the kernel's parameters.
        unsafe { self.launch_unchecked(function, grid, arguments) }
    }

    /// As [`launch`](Self::launch), also on a driver that does not tell a kernel's parameters.
    ///
    /// # Safety
    /// The arguments must be as many and as large as the kernel's parameters.
    ///
    /// # Errors
    /// [`CudaError::Refused`] for a grid that this GPU does not take.
    pub(super) unsafe fn launch_unchecked(&self, function: &Function, grid: Grid, arguments: &[Argument<'_, '_>]) -> Result<(), CudaError> {
        function.allow_shared(self, grid.shared_bytes)?;
        let mut launch = self.stream.launch_builder(&function.function);
        for argument in arguments {
            match argument {
                Argument::Buffer(buffer) => launch.arg(&*buffer.slice),
                Argument::Scalar(Scalar::I32(number)) => launch.arg(number),
                Argument::Scalar(Scalar::U32(number)) => launch.arg(number),
                Argument::Scalar(Scalar::I64(number)) => launch.arg(number),
                Argument::Scalar(Scalar::U64(number)) => launch.arg(number),
                Argument::Scalar(Scalar::F32(number)) => launch.arg(number),
                Argument::Scalar(Scalar::F64(number)) => launch.arg(number),
            };
        }
        let config = LaunchConfig { grid_dim: grid.blocks, block_dim: grid.threads, shared_mem_bytes: grid.shared_bytes };
        // SAFETY: the driver copies the arguments, which are as many and as large as it expects (the caller's promise), before this returns. A kernel that reads or writes
        // outside of its buffers faults on the GPU, in this process's own address space there, and takes the context with it; it cannot touch the host's memory.
        // The buffers outlive the kernel: freeing them is put in the order of the same stream.
        unsafe { launch.launch(config) }.map(|_| ()).map_err(|error| {
            let failed = self.shared.noted(CudaError::of("launch a kernel", error));
            if matches!(error.0, sys::CUresult::CUDA_ERROR_INVALID_VALUE | sys::CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES) {
                return CudaError::Refused(format!("kernel {} with {grid}: {failed}", function.name));
            }
            failed
        })
    }
}
