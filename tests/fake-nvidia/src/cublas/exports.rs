//! The products that cuBLAS exports: by type, by batch, and of a matrix with a vector.

use std::ffi::{c_int, c_longlong, c_uint, c_void};

use super::{
    INVALID_VALUE, NOT_SUPPORTED, answer,
    product::{Asked, Given, Real, submit},
};
use crate::{c_interface::Code, cuda::Handle};

const REAL_32: c_uint = 0;
const REAL_64: c_uint = 1;
/// The ways to compute with 32 and with 64 bits: here all the same.
const COMPUTE_32: [c_uint; 5] = [68, 69, 74, 75, 77];
const COMPUTE_64: [c_uint; 2] = [70, 71];

fn given<T>(matrix: *const T, leading: c_int, stride: c_longlong) -> Given {
    Given { address: matrix.expose_provenance() as u64, leading, stride }
}

/// Exports the product, its batched form and the product with a vector, for one type.
macro_rules! products {
    ($($type:ty: $product:ident, $batched:ident, $vector:ident;)+) => {$(
        /// One product.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $product(
            handle: Handle, operation_a: c_uint, operation_b: c_uint, m: c_int, n: c_int, k: c_int, alpha: *const $type,
            a: *const $type, lda: c_int, b: *const $type, ldb: c_int, beta: *const $type, c: *mut $type, ldc: c_int,
        ) -> Code {
            let operations = [operation_a, operation_b];
            let (a, b, c) = (given(a, lda, 0), given(b, ldb, 0), given(c, ldc, 0));
            // SAFETY: the caller gives scalars that may be read, or null.
            answer(|| unsafe { submit(handle, Asked { operations, m, n, k, alpha, beta, a, b, c, batches: 1 }) })
        }

        /// Several products of matrices at equal distances.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $batched(
            handle: Handle, operation_a: c_uint, operation_b: c_uint, m: c_int, n: c_int, k: c_int, alpha: *const $type,
            a: *const $type, lda: c_int, stride_a: c_longlong, b: *const $type, ldb: c_int, stride_b: c_longlong,
            beta: *const $type, c: *mut $type, ldc: c_int, stride_c: c_longlong, batches: c_int,
        ) -> Code {
            let operations = [operation_a, operation_b];
            let (a, b, c) = (given(a, lda, stride_a), given(b, ldb, stride_b), given(c, ldc, stride_c));
            // SAFETY: the caller gives scalars that may be read, or null.
            answer(|| unsafe { submit(handle, Asked { operations, m, n, k, alpha, beta, a, b, c, batches }) })
        }

        /// A matrix times a vector.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $vector(
            handle: Handle, operation: c_uint, m: c_int, n: c_int, alpha: *const $type, a: *const $type, lda: c_int,
            x: *const $type, step_x: c_int, beta: *const $type, y: *mut $type, step_y: c_int,
        ) -> Code {
            // SAFETY: the caller gives scalars that may be read, or null.
            answer(|| unsafe {
                let asked = vector(operation, [m, n], given(a, lda, 0), [given(x, step_x, 0), given(y, step_y, 0)], [alpha, beta])?;
                submit(handle, asked)
            })
        }
    )+};
}

products! {
    f32: cublasSgemm_v2, cublasSgemmStridedBatched, cublasSgemv_v2;
    f64: cublasDgemm_v2, cublasDgemmStridedBatched, cublasDgemv_v2;
}

/// A vector is a matrix of one row, whose columns lie a step apart: `yᵀ = xᵀ · op(A)ᵀ`. Steps backwards are left out.
fn vector<T: Real>(
    operation: c_uint,
    [m, n]: [c_int; 2],
    a: Given,
    [x, y]: [Given; 2],
    [alpha, beta]: [*const T; 2],
) -> Result<Asked<T>, Code> {
    if x.leading < 1 || y.leading < 1 {
        return Err(NOT_SUPPORTED);
    }
    let (length, inner, turned) = match operation {
        0 => (m, n, 1),
        1 | 2 => (n, m, 0),
        _ => return Err(INVALID_VALUE),
    };
    Ok(Asked { operations: [0, turned], m: 1, n: length, k: inner, alpha, beta, a: x, b: a, c: y, batches: 1 })
}

/// A product of matrices whose type is a number: all of 32, or all of 64 bits.
///
/// # Safety
///
/// The scalars may be read, or are null.
unsafe fn by_type(handle: Handle, asked: Asked<c_void>, types: [c_uint; 3], compute: c_uint) -> Result<(), Code> {
    // SAFETY: the caller's word; the type of the scalars is that of the computation.
    unsafe {
        match types {
            [REAL_32, REAL_32, REAL_32] if COMPUTE_32.contains(&compute) => submit::<f32>(handle, asked.cast()),
            [REAL_64, REAL_64, REAL_64] if COMPUTE_64.contains(&compute) => submit::<f64>(handle, asked.cast()),
            _ => Err(NOT_SUPPORTED),
        }
    }
}

impl Asked<c_void> {
    fn cast<T>(self) -> Asked<T> {
        let Self { operations, m, n, k, alpha, beta, a, b, c, batches } = self;
        Asked { operations, m, n, k, alpha: alpha.cast(), beta: beta.cast(), a, b, c, batches }
    }
}

/// One product, of 32 or 64 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGemmEx(
    handle: Handle,
    operation_a: c_uint,
    operation_b: c_uint,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    type_a: c_uint,
    lda: c_int,
    b: *const c_void,
    type_b: c_uint,
    ldb: c_int,
    beta: *const c_void,
    c: *mut c_void,
    type_c: c_uint,
    ldc: c_int,
    compute: c_uint,
    _algorithm: c_int,
) -> Code {
    let operations = [operation_a, operation_b];
    let (a, b, c) = (given(a, lda, 0), given(b, ldb, 0), given(c, ldc, 0));
    let asked = Asked { operations, m, n, k, alpha, beta, a, b, c, batches: 1 };
    // SAFETY: the caller gives scalars that may be read, or null.
    answer(|| unsafe { by_type(handle, asked, [type_a, type_b, type_c], compute) })
}

/// Several products of matrices at equal distances, of 32 or 64 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGemmStridedBatchedEx(
    handle: Handle,
    operation_a: c_uint,
    operation_b: c_uint,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    type_a: c_uint,
    lda: c_int,
    stride_a: c_longlong,
    b: *const c_void,
    type_b: c_uint,
    ldb: c_int,
    stride_b: c_longlong,
    beta: *const c_void,
    c: *mut c_void,
    type_c: c_uint,
    ldc: c_int,
    stride_c: c_longlong,
    batches: c_int,
    compute: c_uint,
    _algorithm: c_int,
) -> Code {
    let operations = [operation_a, operation_b];
    let (a, b, c) = (given(a, lda, stride_a), given(b, ldb, stride_b), given(c, ldc, stride_c));
    let asked = Asked { operations, m, n, k, alpha, beta, a, b, c, batches };
    // SAFETY: the caller gives scalars that may be read, or null.
    answer(|| unsafe { by_type(handle, asked, [type_a, type_b, type_c], compute) })
}
