//! Compiling CUDA C++ for the GPU at hand, by NVRTC.

use std::ffi::{CStr, CString};

use cudarc::nvrtc::{result, sys};
use protocol::task::ComputeCapability;

use super::{CudaError, Version, context::guarded};

/// CUDA C++ to be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name in messages, such as `saxpy.cu`.
    pub name: String,
    /// The text.
    pub text: String,
}

/// NVRTC's version.
///
/// # Errors
/// [`CudaError::Missing`] without the library.
pub(super) fn nvrtc_version() -> Result<Version, CudaError> {
    present()?;
    guarded("ask for NVRTC's version", || {
        let (mut major, mut minor) = (0_i32, 0_i32);
        // SAFETY: both pointers are to numbers of the right type.
        let answer = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
        answer.result().map_err(|error| refused("ask for NVRTC's version", &error))?;
        Ok(Version { major: major.unsigned_abs(), minor: minor.unsigned_abs() })
    })
}

/// Machine code of this GPU. Not PTX: a driver that is older than the compiler refuses its PTX, and takes its machine code.
///
/// # Errors
/// [`CudaError::Refused`] with the compiler's words, [`CudaError::Missing`] without the library.
pub(super) fn compile(source: &Source, capability: ComputeCapability) -> Result<Vec<u8>, CudaError> {
    present()?;
    guarded("compile a module", || {
        let named = |text: &str| CString::new(text).map_err(|_| CudaError::Refused(format!("{} contains a zero byte", source.name)));
        let (text, name) = (named(&source.text)?, named(&source.name)?);
        let program = result::create_program(&text, Some(&name)).map_err(|error| refused("create a program", &error))?;
        let program = Program(program);
        let architecture = format!("sm_{}{}", capability.major, capability.minor);
        let options = [format!("--gpu-architecture={architecture}")];
        // SAFETY: the program is alive until the end of this scope.
        unsafe { result::compile_program(program.0, &options) }.map_err(|error| match error.0 {
            sys::nvrtcResult::NVRTC_ERROR_COMPILATION => program.complaint(&source.name),
            // The one option that it is given.
            sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION => unknown(&architecture),
            _ => refused("compile a module", &error),
        })?;
        program.machine_code()
    })
}

fn present() -> Result<(), CudaError> {
    // SAFETY: only loads a library, whose initialisers are NVRTC's own.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(CudaError::Missing { library: "libnvrtc.so", package: "NVRTC of CUDA 12 or 13" })
}

fn refused(operation: &'static str, error: &result::NvrtcError) -> CudaError {
    CudaError::Failed { operation, cause: format!("{:?}", error.0) }
}

fn unknown(architecture: &str) -> CudaError {
    let version = nvrtc_version().map_or_else(|_| "here".to_owned(), |version| version.to_string());
    let cause = format!("NVRTC {version} does not know this GPU's architecture ({architecture}); install a newer one");
    CudaError::Failed { operation: "compile a module", cause }
}

struct Program(sys::nvrtcProgram);

impl Program {
    /// The compiler's log, shortened to what a person reads.
    fn complaint(&self, name: &str) -> CudaError {
        // SAFETY: the program is alive; the log ends with a zero byte.
        let log =
            unsafe { result::get_program_log(self.0) }.map(|log| unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned());
        let log = log.unwrap_or_else(|_| "the compiler left no log".to_owned());
        CudaError::Refused(format!("compile {name}: {}", log.trim().chars().take(4_000).collect::<String>()))
    }

    fn machine_code(&self) -> Result<Vec<u8>, CudaError> {
        let mut bytes = 0_usize;
        // SAFETY: the program is alive and compiled; the second call writes as many bytes as the first one said.
        unsafe {
            sys::nvrtcGetCUBINSize(self.0, &raw mut bytes).result().map_err(|error| refused("read machine code", &error))?;
            let mut code = vec![0_u8; bytes];
            sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast()).result().map_err(|error| refused("read machine code", &error))?;
            Ok(code)
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more. A refusal would leak a few kilobytes.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}
