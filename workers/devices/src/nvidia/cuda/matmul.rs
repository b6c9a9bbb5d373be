//! Products of matrices, by cuBLAS.

use cudarc::cublas::{CudaBlas, Gemm, GemmConfig, StridedBatchedConfig, result::CublasError, sys};

use super::{Buffer, CudaError, Element, Lane, Version, context::guarded};

/// What a handle may take of the GPU, with the code that comes with it, in bytes.
const HANDLE_BYTES: usize = 512_000_000;

/// A number that cuBLAS multiplies.
pub trait Matrix: Element {
    /// 1.
    const ONE: Self;
    /// 0.
    const ZERO: Self;

    /// # Safety
    /// The buffers must be as large as the configuration says.
    #[doc(hidden)]
    unsafe fn gemm(
        blas: &CudaBlas,
        config: GemmConfig<Self>,
        factors: (&Buffer<'_, Self>, &Buffer<'_, Self>),
        product: &mut Buffer<'_, Self>,
    ) -> Result<(), CublasError>
    where
        Self: Sized;

    /// # Safety
    /// The buffers must be as large as the configuration says.
    #[doc(hidden)]
    unsafe fn gemm_strided_batched(
        blas: &CudaBlas,
        config: StridedBatchedConfig<Self>,
        factors: (&Buffer<'_, Self>, &Buffer<'_, Self>),
        products: &mut Buffer<'_, Self>,
    ) -> Result<(), CublasError>
    where
        Self: Sized;
}

macro_rules! matrix {
    ($number:ty) => {
        impl Matrix for $number {
            const ONE: Self = 1.0;
            const ZERO: Self = 0.0;

            unsafe fn gemm(
                blas: &CudaBlas,
                config: GemmConfig<Self>,
                factors: (&Buffer<'_, Self>, &Buffer<'_, Self>),
                product: &mut Buffer<'_, Self>,
            ) -> Result<(), CublasError> {
                // SAFETY: the caller's promise.
                unsafe { blas.gemm(config, &*factors.0.slice, &*factors.1.slice, &mut *product.slice) }
            }

            unsafe fn gemm_strided_batched(
                blas: &CudaBlas,
                config: StridedBatchedConfig<Self>,
                factors: (&Buffer<'_, Self>, &Buffer<'_, Self>),
                products: &mut Buffer<'_, Self>,
            ) -> Result<(), CublasError> {
                // SAFETY: the caller's promise.
                unsafe { blas.gemm_strided_batched(config, &*factors.0.slice, &*factors.1.slice, &mut *products.slice) }
            }
        }
    };
}

matrix!(f32);
matrix!(f64);

/// cuBLAS's version.
///
/// # Errors
/// [`CudaError::Missing`] without the library. It needs no GPU.
pub fn cublas_version() -> Result<Version, CudaError> {
    const ASK: &str = "ask for cuBLAS's version";
    present()?;
    guarded(ASK, || {
        let part = |which| {
            let mut value = 0_i32;
            // SAFETY: the pointer is to a number of the right type.
            unsafe { sys::cublasGetProperty(which, &raw mut value) }.result().map_err(|error| failed(ASK, &error))?;
            Ok(value.unsigned_abs())
        };
        use sys::libraryPropertyType::{MAJOR_VERSION, MINOR_VERSION};
        Ok(Version { major: part(MAJOR_VERSION)?, minor: part(MINOR_VERSION)? })
    })
}

fn present() -> Result<(), CudaError> {
    // SAFETY: only loads a library, whose initialisers are cuBLAS's own.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(CudaError::Missing { library: "libcublas.so", package: "cuBLAS of CUDA 12 or 13" })
}

fn failed(operation: &'static str, error: &CublasError) -> CudaError {
    match error.0 {
        sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => CudaError::OutOfMemory { operation },
        status => CudaError::Failed { operation, cause: format!("{status:?}") },
    }
}

/// Refuses buffers that do not hold `count` matrices of rows × inner, and as many of inner × columns.
fn sizes_fit((a, b): (usize, usize), [rows, inner, columns]: [usize; 3], count: usize) -> Result<(), CudaError> {
    let wanted = |one: usize, other: usize| one.checked_mul(other)?.checked_mul(count);
    if Some(a) == wanted(rows, inner) && Some(b) == wanted(inner, columns) {
        return Ok(());
    }
    Err(CudaError::Refused(format!("buffers of {a} and {b} numbers are no {rows}×{inner} and {inner}×{columns}, {count} of each")))
}

/// One product of row-major matrices.
fn config<T: Matrix>([rows, inner, columns]: [usize; 3]) -> Result<GemmConfig<T>, CudaError> {
    let size = |number: usize| i32::try_from(number).map_err(|_| CudaError::Refused(format!("a side of {number} is too long")));
    // cuBLAS counts by columns: there, our row-major matrices are their transposes, and C^T = B^T A^T.
    Ok(GemmConfig {
        transa: sys::cublasOperation_t::CUBLAS_OP_N,
        transb: sys::cublasOperation_t::CUBLAS_OP_N,
        m: size(columns)?,
        n: size(rows)?,
        k: size(inner)?,
        alpha: T::ONE,
        lda: size(columns)?,
        ldb: size(inner)?,
        beta: T::ZERO,
        ldc: size(columns)?,
    })
}

impl Lane {
    /// The product of `a` (rows × inner) and `b` (inner × columns), all in row-major order.
    ///
    /// # Errors
    /// [`CudaError::Refused`] if the buffers are not of these sizes, [`CudaError::OutOfMemory`], [`CudaError::Missing`] without cuBLAS.
    pub fn multiply<T: Matrix>(
        &self,
        a: &Buffer<'_, T>,
        b: &Buffer<'_, T>,
        [rows, inner, columns]: [usize; 3],
    ) -> Result<Buffer<'_, T>, CudaError> {
        sizes_fit((a.len(), b.len()), [rows, inner, columns], 1)?;
        let mut product = self.zeros(rows * columns)?;
        self.multiply_into(a, b, [rows, inner, columns], &mut product)?;
        Ok(product)
    }

    /// As [`multiply`](Self::multiply), into a buffer that is there already.
    ///
    /// # Errors
    /// As of [`multiply`](Self::multiply).
    pub fn multiply_into<T: Matrix>(
        &self,
        a: &Buffer<'_, T>,
        b: &Buffer<'_, T>,
        [rows, inner, columns]: [usize; 3],
        product: &mut Buffer<'_, T>,
    ) -> Result<(), CudaError> {
        sizes_fit((a.len(), b.len()), [rows, inner, columns], 1)?;
        if Some(product.len()) != rows.checked_mul(columns) {
            return Err(CudaError::Refused(format!("a buffer of {} numbers is no product of {rows}×{columns}", product.len())));
        }
        let config = config([rows, inner, columns])?;
        let blas = self.blas()?;
        // SAFETY: the buffers have the sizes that the configuration says: checked above.
        unsafe { T::gemm(blas, config, (b, a), product) }.map_err(|error| self.late(&error))
    }

    /// The products of `count` pairs of matrices of the same sizes in one call: those of `a` (rows × inner) lie one behind the other, and so do those of `b` (inner × columns) and
    /// the products, all in row-major order.
    ///
    /// # Errors
    /// As of [`Lane::multiply`].
    pub fn multiply_each<T: Matrix>(
        &self,
        a: &Buffer<'_, T>,
        b: &Buffer<'_, T>,
        [rows, inner, columns]: [usize; 3],
        count: usize,
    ) -> Result<Buffer<'_, T>, CudaError> {
        sizes_fit((a.len(), b.len()), [rows, inner, columns], count)?;
        let products = rows.checked_mul(columns).and_then(|numbers| numbers.checked_mul(count));
        let too_many = || CudaError::Refused(format!("{count} products of {rows}×{columns} are too many"));
        let mut product = self.zeros(products.ok_or_else(too_many)?)?;
        let stride = |numbers: usize| i64::try_from(numbers).map_err(|_| too_many());
        let config = StridedBatchedConfig {
            gemm: config([rows, inner, columns])?,
            batch_size: i32::try_from(count).map_err(|_| too_many())?,
            // As in `config`, the factors change places.
            stride_a: stride(inner * columns)?,
            stride_b: stride(rows * inner)?,
            stride_c: stride(rows * columns)?,
        };
        let blas = self.blas()?;
        // SAFETY: the buffers have the sizes that the configuration says: checked above.
        unsafe { T::gemm_strided_batched(blas, config, (b, a), &mut product) }.map_err(|error| self.late(&error))?;
        Ok(product)
    }

    /// The handle, made at the first use: it takes memory of the GPU and time.
    fn blas(&self) -> Result<&CudaBlas, CudaError> {
        if let Some(blas) = self.blas.get() {
            return Ok(blas);
        }
        present()?;
        let blas = CudaBlas::new(self.stream.clone()).map_err(|error| self.unmade(&error))?;
        Ok(self.blas.get_or_init(|| blas))
    }

    /// On a GPU that is almost full, cuBLAS only says that it is not initialised.
    fn unmade(&self, error: &CublasError) -> CudaError {
        let failed = self.late(error);
        if failed.is_lost() || error.0 != sys::cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED {
            return failed;
        }
        match self.shared.context.mem_get_info() {
            Ok((free, _)) if free < HANDLE_BYTES => CudaError::OutOfMemory { operation: "make a handle of cuBLAS" },
            _ => failed,
        }
    }

    /// cuBLAS only says that execution failed; the stream knows why.
    fn late(&self, error: &CublasError) -> CudaError {
        match self.wait() {
            Err(lost) if lost.is_lost() => lost,
            _ => failed("multiply by cuBLAS", error),
        }
    }
}
