//! Memory that stays, as what work on a lane reads and writes.

use std::ops::Range;

use super::{
    super::{Buffer, CudaError, Element, Lane},
    resident::Resident,
};
use crate::DeviceBuffer;

impl Lane {
    /// Numbers of memory that stays, as a buffer, without a copy: `numbers` counts from its beginning. It stays until this piece of work has ended. It is written only by whoever allocated it, and before anybody
    /// else has it.
    ///
    /// # Errors
    /// [`CudaError::Refused`] if there are not so many numbers, or the memory is none of this GPU's.
    pub fn resident<T: Element>(&self, memory: &DeviceBuffer, numbers: Range<usize>) -> Result<Buffer<'_, T>, CudaError> {
        let resident = memory.memory::<Resident>().filter(|resident| resident.is_reached_by(self));
        let Some(resident) = resident else {
            return Err(CudaError::Refused(format!("memory of GPU {} cannot be used here", memory.gpu_id())));
        };
        let there = memory.len() / size_of::<T>() as u64;
        if numbers.start > numbers.end || numbers.end as u64 > there {
            return Err(CudaError::Refused(format!("memory of {there} numbers has none from {} to {}", numbers.start, numbers.end)));
        }
        let address = resident.address() + (numbers.start * size_of::<T>()) as u64;
        // SAFETY: so many numbers lie there, and are of a type that every pattern of bits is; CUDA's allocations begin at multiples of 256 bytes.
        Ok(unsafe { self.lent(memory, address, numbers.len()) })
    }

    /// Fills a buffer with bytes from the host, as many as it has.
    ///
    /// # Errors
    /// What the driver answers; [`CudaError::Refused`] for other lengths.
    pub fn fill(&self, buffer: &mut Buffer<'_, u8>, bytes: &[u8]) -> Result<(), CudaError> {
        same_length(buffer.len(), bytes.len())?;
        self.shared.check("copy to the GPU", self.stream.memcpy_htod(bytes, &mut *buffer.slice))
    }

    /// Fills a buffer with zeros.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn clear<T: Element>(&self, buffer: &mut Buffer<'_, T>) -> Result<(), CudaError> {
        self.shared.check("clear memory of the GPU", self.stream.memset_zeros(&mut *buffer.slice))
    }

    /// Copies one buffer to another of the same length.
    ///
    /// # Errors
    /// What the driver answers; [`CudaError::Refused`] for other lengths.
    pub fn copy<T: Element>(&self, from: &Buffer<'_, T>, to: &mut Buffer<'_, T>) -> Result<(), CudaError> {
        same_length(to.len(), from.len())?;
        self.shared.check("copy within the GPU", self.stream.memcpy_dtod(&*from.slice, &mut *to.slice))
    }
}

fn same_length(to: usize, from: usize) -> Result<(), CudaError> {
    if to == from {
        return Ok(());
    }
    Err(CudaError::Refused(format!("a buffer of {to} does not hold {from}")))
}
