//! Which CUDA the driver serves.

use std::fmt;

use cudarc::driver::sys;

use super::{
    CudaError,
    context::{driver_present, guarded},
};

/// A version of CUDA, or of a library that comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// What must not be above the driver's.
    pub major: u32,
    /// What may be above the driver's.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// The highest CUDA that the driver serves.
    ///
    /// # Errors
    /// [`CudaError::Missing`] without a driver. It needs no GPU.
    pub fn of_driver() -> Result<Self, CudaError> {
        const ASK: &str = "ask for the version of CUDA";
        driver_present()?;
        guarded(ASK, || {
            let mut version = 0;
            // SAFETY: the pointer is to a number of the right type; the call needs no initialised driver.
            unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(|error| CudaError::of(ASK, error))?;
            Ok(Self::counted(version))
        })
    }

    /// 12040 is 12.4.
    fn counted(version: i32) -> Self {
        let version = version.unsigned_abs();
        Self { major: version / 1_000, minor: version % 1_000 / 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_shown_and_compared() {
        let twelve_four = Version::counted(12_040);
        assert_eq!(twelve_four.to_string(), "12.4");
        assert!(Version::counted(13_000) > twelve_four && Version::counted(12_100) > twelve_four && Version::counted(12_020) < twelve_four);
    }
}
