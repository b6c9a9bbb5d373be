//! Whether a library that is installed also works on this GPU. It may be of a newer CUDA than the driver serves, older than the GPU, or broken.

use protocol::task::ComputeCapability;

use super::{Cuda, CudaError, Grid, Source};

/// A kernel that does nothing.
const KERNEL: &str = r#"extern "C" __global__ void trial() {}"#;

impl Cuda {
    /// Compiles, loads and runs a kernel that does nothing.
    ///
    /// # Errors
    /// Why kernels cannot run here.
    pub async fn try_kernels(&self, capability: ComputeCapability) -> Result<(), CudaError> {
        let module = self.build(Source { name: "trial.cu".to_owned(), text: KERNEL.to_owned() }, capability).await?;
        let once = Grid { blocks: (1, 1, 1), threads: (1, 1, 1), shared_bytes: 0 };
        // A module that is loaded lazily shows only at its first launch what is wrong with it.
        self.run(move |lane| lane.launch(&module.function("trial")?, once, &[])).await?;
        Ok(())
    }

    /// Multiplies two matrices of one number each.
    ///
    /// # Errors
    /// Why products cannot be computed here.
    pub async fn try_products(&self) -> Result<(), CudaError> {
        let multiplied = self.run(|lane| {
            let (two, three) = (lane.upload(&[2.0_f32])?, lane.upload(&[3.0_f32])?);
            lane.download(&lane.multiply(&two, &three, [1, 1, 1])?)
        });
        let product = multiplied.await?.value;
        if product == [6.0] {
            return Ok(());
        }
        Err(CudaError::Failed { operation: "multiply by cuBLAS", cause: format!("2 by 3 is {product:?}") })
    }
}
