//! The canary: a kernel with a known answer. Whether a GPU that was taken out works again.

use std::sync::Arc;

use cudarc::nvrtc::Ptx;

use super::{Argument, Cuda, CudaError, Grid, Lane, Module, Scalar};

/// As text that every driver compiles for its GPU: the canary needs no NVRTC.
const CODE: &str = include_str!("canary.ptx");
const THREADS: u32 = 256;
const BLOCKS: u32 = 64;
const COUNT: u32 = THREADS * BLOCKS;
/// Memory that is written and read back besides, in bytes.
const SCRATCH: usize = 16 << 20;

/// The canary, loaded.
#[derive(Debug, Clone)]
pub struct Canary {
    module: Module,
}

impl Canary {
    /// Brings it to the GPU.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn load(cuda: &Cuda) -> Result<Self, CudaError> {
        Ok(Self { module: cuda.load(Ptx::from_src(CODE))? })
    }

    /// Runs it: whether the GPU computes, keeps what is written to it, and has a little memory.
    ///
    /// # Errors
    /// What it found wrong, for operators.
    pub async fn run(&self, cuda: &Cuda, seed: u32) -> Result<(), String> {
        let module = self.module.clone();
        let work = move |lane: &Lane| {
            let function = module.function("canary")?;
            let pattern: Arc<[u8]> = (0..SCRATCH).map(|at| (at as u32 ^ seed) as u8).collect();
            let scratch = lane.upload(&pattern)?;
            let out = lane.zeros::<u8>(COUNT as usize * 4)?;
            let arguments = [Argument::Buffer(&out), Argument::Scalar(Scalar::U32(seed)), Argument::Scalar(Scalar::U32(COUNT))];
            let grid = Grid { blocks: (BLOCKS, 1, 1), threads: (THREADS, 1, 1), shared_bytes: 0 };
            // SAFETY: these are the three parameters of `canary.cu`. A driver that cannot tell them must not cost the GPU.
            unsafe { lane.launch_unchecked(&function, grid, &arguments) }?;
            Ok((lane.download(&out)?, lane.download(&scratch)? == *pattern))
        };
        let (words, kept) = cuda.run(work).await.map_err(|error| error.to_string())?.value;
        let (words, _) = words.as_chunks::<4>();
        let wrong = words.iter().zip(0..).filter(|(word, at)| u32::from_ne_bytes(**word) != expected(*at, seed)).count();
        match (wrong, kept) {
            (0, true) => Ok(()),
            (0, false) => Err("memory of the GPU does not give back what was written to it".to_owned()),
            (wrong, _) => Err(format!("the GPU computes wrongly: {wrong} of {COUNT} results of the canary are not the known ones")),
        }
    }
}

/// What `canary.cu` gives.
fn expected(at: u32, seed: u32) -> u32 {
    let mut x = at ^ seed;
    for _ in 0..256 {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x ^= x >> 13;
    }
    let f = ((x & 0xffff) as f32).mul_add(1.5, 0.25);
    x ^ f.to_bits()
}
