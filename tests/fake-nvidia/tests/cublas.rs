//! The real `cudarc` against the fake cuBLAS.

use fake_nvidia::process as harness;

use std::sync::Arc;

use cudarc::{
    cublas::{
        CudaBlas, Gemm, GemmConfig, Gemv, GemvConfig, StridedBatchedConfig,
        result::gemm_ex,
        sys::{self, cublasOperation_t as Operation, cublasStatus_t as Status},
    },
    driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig},
};
use harness::{on_a_machine, without_a_driver};

const M: usize = 5;
const N: usize = 3;
const K: usize = 4;

/// Numbers whose products and sums are exact.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|place| (place * 7 % 11) as f32 - 4.0).collect()
}

/// `2 · A · B + 3 · C`, each in column-major order.
fn expected(a: &[f32], b: &[f32], c: &[f32]) -> Vec<f32> {
    let mut out = c.to_vec();
    for row in 0..M {
        for column in 0..N {
            let sum: f32 = (0..K).map(|inner| a[row + inner * M] * b[inner + column * K]).sum();
            out[row + column * M] = 2.0 * sum + 3.0 * c[row + column * M];
        }
    }
    out
}

/// The same matrix with rows for columns.
fn transposed(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|place| matrix[place / columns + place % columns * rows]).collect()
}

fn config<T>(operations: [Operation; 2], [alpha, beta]: [T; 2]) -> GemmConfig<T> {
    let leading = |operation, rows, columns| if operation == Operation::CUBLAS_OP_N { rows } else { columns };
    GemmConfig {
        transa: operations[0],
        transb: operations[1],
        m: M as i32,
        n: N as i32,
        k: K as i32,
        alpha,
        lda: leading(operations[0], M, K) as i32,
        ldb: leading(operations[1], K, N) as i32,
        beta,
        ldc: M as i32,
    }
}

fn start() -> (Arc<CudaStream>, CudaBlas) {
    let stream = CudaContext::new(0).expect("a GPU").default_stream();
    let blas = CudaBlas::new(Arc::clone(&stream)).expect("a handle");
    (stream, blas)
}

#[test]
fn products_are_those_of_a_plain_loop() {
    on_a_machine(1, |_| {
        let (stream, blas) = start();
        let (a, b, c) = (numbers(M * K), numbers(K * N), numbers(M * N));
        let (plain, turned) = (Operation::CUBLAS_OP_N, Operation::CUBLAS_OP_T);
        for operations in [[plain, plain], [turned, plain], [plain, turned], [turned, turned]] {
            let given_a = if operations[0] == plain { a.clone() } else { transposed(&a, M, K) };
            let given_b = if operations[1] == plain { b.clone() } else { transposed(&b, K, N) };
            let (on_a, on_b, mut on_c) =
                (stream.clone_htod(&given_a).unwrap(), stream.clone_htod(&given_b).unwrap(), stream.clone_htod(&c).unwrap());
            // SAFETY: the matrices have the sizes of the configuration.
            unsafe { blas.gemm(config(operations, [2.0, 3.0]), &on_a, &on_b, &mut on_c) }.unwrap();
            assert_eq!(stream.clone_dtoh(&on_c).unwrap(), expected(&a, &b, &c), "{operations:?}");
        }
        let double = |values: &[f32]| stream.clone_htod(&values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>()).unwrap();
        let mut on_c = double(&c);
        // SAFETY: as before.
        unsafe { blas.gemm(config([plain, plain], [2.0, 3.0]), &double(&a), &double(&b), &mut on_c) }.unwrap();
        let found = stream.clone_dtoh(&on_c).unwrap();
        assert_eq!(found, expected(&a, &b, &c).into_iter().map(f64::from).collect::<Vec<_>>());
    });
}

#[test]
fn several_products_and_a_vector() {
    on_a_machine(1, |_| {
        let (stream, blas) = start();
        let (a, b, c) = (numbers(M * K), numbers(2 * K * N), numbers(2 * M * N));
        let (on_a, on_b, mut on_c) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap(), stream.clone_htod(&c).unwrap());
        let gemm = config([Operation::CUBLAS_OP_N; 2], [2.0, 3.0]);
        let strided = StridedBatchedConfig { gemm, batch_size: 2, stride_a: 0, stride_b: (K * N) as i64, stride_c: (M * N) as i64 };
        // SAFETY: the matrices have the sizes of the configuration.
        unsafe { blas.gemm_strided_batched(strided, &on_a, &on_b, &mut on_c) }.unwrap();
        let both = [expected(&a, &b[..K * N], &c[..M * N]), expected(&a, &b[K * N..], &c[M * N..])].concat();
        assert_eq!(stream.clone_dtoh(&on_c).unwrap(), both);
        let vector = GemvConfig { trans: Operation::CUBLAS_OP_N, m: 2, n: 3, alpha: 1.0, lda: 2, incx: 1, beta: 0.0, incy: 2 };
        let (matrix, x) =
            (stream.clone_htod(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(), stream.clone_htod(&[1.0, 10.0, 100.0]).unwrap());
        let mut y = stream.clone_htod(&[f32::NAN, 7.0, f32::NAN]).unwrap();
        // SAFETY: as before.
        unsafe { blas.gemv(vector, &matrix, &x, &mut y) }.unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [531.0, 7.0, 642.0]);
    });
}

#[test]
fn the_type_of_a_product_may_be_a_number() {
    on_a_machine(1, |_| {
        let (stream, blas) = start();
        let (a, b, c) = (numbers(M * K), numbers(K * N), numbers(M * N));
        let (on_a, on_b, mut on_c) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap(), stream.clone_htod(&c).unwrap());
        let mut multiply = |kind: sys::cudaDataType| {
            let (alpha, beta) = (2.0_f32, 3.0_f32);
            let (from_a, _a) = on_a.device_ptr(&stream);
            let (from_b, _b) = on_b.device_ptr(&stream);
            let (to, _c) = on_c.device_ptr_mut(&stream);
            let (plain, algorithm) = (Operation::CUBLAS_OP_N, sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT);
            let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
            let [m, n, k] = [M, N, K].map(|size| size as i32);
            let (alpha, beta) = ((&raw const alpha).cast(), (&raw const beta).cast());
            // SAFETY: the matrices have these sizes.
            unsafe {
                gemm_ex(
                    *blas.handle(),
                    plain,
                    plain,
                    m,
                    n,
                    k,
                    alpha,
                    from_a as _,
                    kind,
                    m,
                    from_b as _,
                    kind,
                    k,
                    beta,
                    to as _,
                    kind,
                    m,
                    compute,
                    algorithm,
                )
            }
        };
        multiply(sys::cudaDataType::CUDA_R_32F).unwrap();
        assert_eq!(multiply(sys::cudaDataType::CUDA_R_16F).unwrap_err().0, Status::CUBLAS_STATUS_NOT_SUPPORTED);
        assert_eq!(stream.clone_dtoh(&on_c).unwrap(), expected(&a, &b, &c));
    });
}

#[test]
fn a_full_device_gives_no_handle() {
    on_a_machine(1, |machine| {
        let stream = CudaContext::new(0).unwrap().default_stream();
        machine.change(|state| state.gpus[0].free_memory_cap_mib = Some(1));
        let refused = CudaBlas::new(Arc::clone(&stream)).unwrap_err();
        assert_eq!(refused.0, Status::CUBLAS_STATUS_ALLOC_FAILED);
        machine.change(|state| state.gpus[0].free_memory_cap_mib = None);
        drop(CudaBlas::new(stream).unwrap());
    });
}

#[test]
fn after_a_fault_nothing_is_executed() {
    on_a_machine(1, |_| {
        let (stream, blas) = start();
        let zeros = stream.alloc_zeros::<f32>(M * N * K).unwrap();
        let mut out = stream.alloc_zeros::<f32>(M * N).unwrap();
        let module = stream.context().load_module(".version 7.0\n.target sm_70\n.entry fault() { ret; }".into()).unwrap();
        let fault = module.load_function("fault").unwrap();
        // SAFETY: the kernel has no arguments.
        unsafe { stream.launch_builder(&fault).launch(LaunchConfig::for_num_elems(1)) }.unwrap();
        assert!(stream.synchronize().is_err());
        let (mut c, _out) = out.device_ptr_mut(&stream);
        let (a, _zeros) = zeros.device_ptr(&stream);
        let one = 1.0_f32;
        // SAFETY: nothing is executed.
        let status = unsafe {
            sys::cublasSgemm_v2(
                *blas.handle(),
                Operation::CUBLAS_OP_N,
                Operation::CUBLAS_OP_N,
                1,
                1,
                1,
                &raw const one,
                a as _,
                1,
                a as _,
                1,
                &raw const one,
                (&raw mut c).cast(),
                1,
            )
        };
        assert_eq!(status, Status::CUBLAS_STATUS_EXECUTION_FAILED);
    });
}

#[test]
fn without_a_driver_there_is_no_handle() {
    without_a_driver(|| {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a place for the handle.
        let status = unsafe { sys::cublasCreate_v2(&raw mut handle) };
        assert_eq!(status, Status::CUBLAS_STATUS_NOT_INITIALIZED);
    });
}
