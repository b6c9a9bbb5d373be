//! The sum over memory of the GPU, by the GPU itself.

use std::{ops::Range, sync::OnceLock};

use cudarc::{driver::sys::CUdeviceptr, nvrtc::Ptx};
use protocol::Checksum;

use super::super::{Argument, Cuda, CudaError, Grid, Lane, Module, Scalar};

/// As text that every driver compiles for its GPU: the sum needs no NVRTC.
const CODE: &str = include_str!("../checksum.ptx");
/// A part begins at a multiple of so many bytes.
pub(super) const WORD: u64 = 8;
const THREADS: u32 = 256;
/// More do not make it faster: each thread takes one word after the other.
const BLOCKS_MAX: u64 = 2_048;

/// The kernel, which is loaded when it is used first.
#[derive(Default)]
pub(super) struct Sum(OnceLock<Module>);

impl Sum {
    /// The sum over a part that begins at this address.
    pub(super) fn over(&self, cuda: &Cuda, lane: &Lane, address: CUdeviceptr, part: Range<u64>) -> Result<Checksum, CudaError> {
        let bytes = part.end - part.start;
        if bytes == 0 {
            return Ok(Checksum::default());
        }
        let sum = lane.zeros::<u8>(size_of::<u64>())?;
        let blocks = bytes.div_ceil(WORD).div_ceil(THREADS.into()).clamp(1, BLOCKS_MAX) as u32;
        let grid = Grid { blocks: (blocks, 1, 1), threads: (THREADS, 1, 1), shared_bytes: 0 };
        let numbers = [address, bytes, part.start / WORD].map(|number| Argument::Scalar(Scalar::U64(number)));
        let [address, bytes, first] = numbers;
        // SAFETY: these are the four parameters of `checksum.cu`; a pointer has the size of the number that it is.
        unsafe {
            lane.launch_unchecked(&self.loaded(cuda)?.function("checksum")?, grid, &[address, bytes, first, Argument::Buffer(&sum)])
        }?;
        let sum: [u8; 8] = lane.download(&sum)?.try_into().expect("it has eight bytes");
        Ok(Checksum(u64::from_ne_bytes(sum)))
    }

    /// Two that come first at once load it twice, and one is dropped.
    fn loaded(&self, cuda: &Cuda) -> Result<&Module, CudaError> {
        if let Some(module) = self.0.get() {
            return Ok(module);
        }
        let module = cuda.load(Ptx::from_src(CODE))?;
        Ok(self.0.get_or_init(|| module))
    }
}
