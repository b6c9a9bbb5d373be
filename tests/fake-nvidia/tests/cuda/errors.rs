//! Errors of kernels: late, and for ever.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys::CUresult};

use crate::{code, function, harness::on_a_machine};

#[test]
fn a_fault_shows_at_the_next_wait_and_never_goes_away() {
    on_a_machine(2, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let data = stream.alloc_zeros::<u32>(8).unwrap();
        let (fault, fill) = (function(&context, "fault"), function(&context, "fill_i32"));
        let shape = LaunchConfig::for_num_elems(1);
        // SAFETY: the kernel has no arguments.
        unsafe { stream.launch_builder(&fault).launch(shape) }.expect("the launch itself succeeds");
        assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        // SAFETY: the arguments are those of the kernel.
        let launch = unsafe { stream.launch_builder(&fill).arg(&data).arg(&1_i32).arg(&8_u32).launch(shape) };
        assert_eq!(code(launch), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(code(stream.clone_dtoh(&data)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(code(context.mem_get_info()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(code(CudaContext::new(1)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let error = stream.synchronize().unwrap_err();
        assert_eq!(error.error_string().unwrap(), c"an illegal memory access was encountered");
    });
}

#[test]
fn a_failed_assertion_shows_in_a_copy() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let data = stream.alloc_zeros::<u32>(8).unwrap();
        let kernel = function(&context, "assert_fails");
        // SAFETY: the kernel has no arguments.
        unsafe { stream.launch_builder(&kernel).launch(LaunchConfig::for_num_elems(1)) }.unwrap();
        assert_eq!(code(stream.clone_dtoh(&data)), CUresult::CUDA_ERROR_ASSERT);
        assert_eq!(code(context.synchronize()), CUresult::CUDA_ERROR_ASSERT);
    });
}

#[test]
fn a_kernel_that_leaves_its_memory_faults() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let mut data = stream.alloc_zeros::<i32>(8).unwrap();
        let kernel = function(&context, "fill_i32");
        // SAFETY: the fake checks the range.
        unsafe { stream.launch_builder(&kernel).arg(&mut data).arg(&1_i32).arg(&9_u32).launch(LaunchConfig::for_num_elems(9)) }.unwrap();
        assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
}
