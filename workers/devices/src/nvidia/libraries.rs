//! What of NVIDIA's software is installed, and what each part is needed for.

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
        library(
            "CUDA driver",
            "work on GPUs",
            cuda::Version::of_driver().map(|version| version.to_string()).map_err(|error| error.to_string()),
        ),
        library("NVRTC", "the kind `kernel`", cuda::kernels_here().map_err(|error| error.to_string())),
        library("cuBLAS", "the kind `matmul`", cuda::cublas_version().map_err(|error| error.to_string())),
    ]
}
