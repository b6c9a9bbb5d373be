//! What of NVIDIA's software is installed, and what each part is needed for.

use super::{
    Host,
    cuda::{self, CudaError, Version},
};

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
    let driver = Version::of_driver();
    let library = |name, needed_for, state| Library { name, needed_for, state };
    vec![
        library("NVML", "finding and watching GPUs", nvml),
        library("CUDA driver", "work on GPUs", driver.as_ref().map(Version::to_string).map_err(ToString::to_string)),
        library("NVRTC", "the kind `kernel`", served(cuda::kernels_here(), driver.as_ref().ok())),
        library("cuBLAS", "the kind `matmul`", served(cuda::cublas_version(), driver.as_ref().ok())),
    ]
}

/// The code of a newer major version is not for this driver.
fn served(version: Result<Version, CudaError>, driver: Option<&Version>) -> Result<String, String> {
    let version = version.map_err(|error| error.to_string())?;
    match driver {
        Some(driver) if version.major > driver.major => Err(format!(
            "{version} is newer than CUDA {driver}, which the driver serves, and may not work with it; install that of CUDA {}, or a newer driver",
            driver.major
        )),
        _ => Ok(version.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_of_a_newer_major_version_than_the_drivers_is_told() {
        let version = |major, minor| Version { major, minor };
        let of = |library, driver: Version| served(Ok(library), Some(&driver));
        assert_eq!(of(version(12, 9), version(12, 4)), Ok("12.9".to_owned()));
        assert_eq!(of(version(12, 4), version(13, 0)), Ok("12.4".to_owned()));
        let told = of(version(13, 0), version(12, 4)).unwrap_err();
        assert!(told.starts_with("13.0 is newer than CUDA 12.4") && told.contains("install that of CUDA 12"), "{told}");
        assert_eq!(served(Ok(version(13, 0)), None), Ok("13.0".to_owned()), "without a driver there is nothing to compare");
    }
}
