//! What of NVIDIA's software is installed, and what each part is needed for.

use cudarc::driver::sys;

use super::{Host, cuda};

/// One library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its name, such as `NVRTC`.
    pub name: &'static str,
    /// What does not work without it.
    pub needed_for: &'static str,
    /// Its version, or what is wrong and what to do.
    pub state: Result<String, String>,
}

/// Looks for every library that this program loads at run time.
#[must_use]
pub fn look() -> Vec<Library> {
    let versions = Host::open().and_then(|host| host.versions());
    let nvml = versions.as_ref().map(|versions| format!("{} (driver {})", versions.nvml, versions.driver)).map_err(ToString::to_string);
    let library = |name, needed_for, state| Library { name, needed_for, state };
    vec![
        library("NVML", "finding and watching GPUs", nvml),
        library("CUDA driver", "work on GPUs", cuda_version()),
        library("NVRTC", "the kind `kernel`", cuda::nvrtc_version().map_err(|error| error.to_string())),
        library("cuBLAS", "the kind `matmul`", cuda::cublas_version().map_err(|error| error.to_string())),
    ]
}

/// The CUDA version that the driver serves.
fn cuda_version() -> Result<String, String> {
    // SAFETY: only loads a library, whose initialisers are the driver's own.
    if !unsafe { sys::is_culib_present() } {
        return Err("load libcuda.so.1: not found; install the NVIDIA driver".to_owned());
    }
    let mut version = 0;
    // SAFETY: the pointer is to a number of the right type; the call needs no initialised driver.
    let asked = std::panic::catch_unwind(move || unsafe { sys::cuDriverGetVersion(&raw mut version).result().map(|()| version) });
    match asked {
        Ok(Ok(version)) => Ok(format!("{}.{}", version / 1000, version % 1000 / 10)),
        Ok(Err(error)) => Err(format!("ask for its version: {:?}", error.0)),
        Err(_) => Err("libcuda.so.1 has no cuDriverGetVersion: is it a stub?".to_owned()),
    }
}
