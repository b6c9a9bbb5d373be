//! Kernels: their results, their parameters, and what makes a module.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys, sys::CUresult};

use crate::{code, function, harness::on_a_machine, module};

/// The canary's definition, once more.
fn canary(seed: u32, count: u32) -> Vec<u32> {
    let word = |index: u32| {
        let mixed = (0..256).fold(index ^ seed, |x, _| {
            let x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x ^ x >> 13
        });
        mixed ^ ((mixed & 0xffff) as f32).mul_add(1.5, 0.25).to_bits()
    };
    (0..count).map(word).collect()
}

#[test]
fn known_kernels_give_the_right_numbers() {
    on_a_machine(1, |machine| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let count = 1_000_u32;
        let shape = LaunchConfig::for_num_elems(count);
        let a: Vec<f32> = (0..count).map(|index| index as f32).collect();
        let b: Vec<f32> = a.iter().map(|value| value * 0.5).collect();
        let (device_a, mut device_b) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
        let mut sum = stream.alloc_zeros::<f32>(count as usize).unwrap();
        let add = function(&context, "vector_add");
        // SAFETY: the arguments are those of the kernel.
        unsafe { stream.launch_builder(&add).arg(&device_a).arg(&device_b).arg(&mut sum).arg(&count).launch(shape) }.unwrap();
        assert_eq!(stream.clone_dtoh(&sum).unwrap(), a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<_>>());
        let saxpy = function(&context, "saxpy");
        // SAFETY: the arguments are those of the kernel.
        unsafe { stream.launch_builder(&saxpy).arg(&count).arg(&2.0_f32).arg(&device_a).arg(&mut device_b).launch(shape) }.unwrap();
        assert_eq!(stream.clone_dtoh(&device_b).unwrap(), a.iter().zip(&b).map(|(x, y)| 2.0 * x + y).collect::<Vec<_>>());
        let scale = function(&context, "scale_f64");
        let mut doubles = stream.clone_htod(&[1.0_f64, 2.0, 3.0]).unwrap();
        // SAFETY: the arguments are those of the kernel.
        unsafe { stream.launch_builder(&scale).arg(&mut doubles).arg(&0.25_f64).arg(&3_u64).launch(shape) }.unwrap();
        assert_eq!(stream.clone_dtoh(&doubles).unwrap(), [0.25, 0.5, 0.75]);
        let fill = function(&context, "fill_i32");
        let mut numbers = stream.alloc_zeros::<i32>(4).unwrap();
        // SAFETY: the arguments are those of the kernel.
        unsafe { stream.launch_builder(&fill).arg(&mut numbers).arg(&-3_i32).arg(&3_u32).launch(shape) }.unwrap();
        assert_eq!(stream.clone_dtoh(&numbers).unwrap(), [-3, -3, -3, 0]);
        let kernel = function(&context, "canary");
        let mut words = stream.alloc_zeros::<u32>(count as usize).unwrap();
        let mut run = || {
            // SAFETY: the arguments are those of the kernel.
            unsafe { stream.launch_builder(&kernel).arg(&mut words).arg(&42_u32).arg(&count).launch(shape) }.unwrap();
            stream.clone_dtoh(&words).unwrap()
        };
        assert_eq!(run(), canary(42, count));
        machine.change(|state| state.gpus[0].wrong_results = true);
        let wrong = run();
        assert!(wrong.iter().zip(canary(42, count)).all(|(wrong, right)| (wrong ^ right).count_ones() == 1));
    });
}

#[test]
fn an_unknown_kernel_does_nothing() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let mut data = stream.clone_htod(&[1_u8, 2, 3]).unwrap();
        let kernel = function(&context, "unknown");
        // SAFETY: the argument is that of the kernel.
        unsafe { stream.launch_builder(&kernel).arg(&mut data).launch(LaunchConfig::for_num_elems(1)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [1, 2, 3]);
    });
}

#[test]
fn a_kernel_says_its_parameters() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let kernel = function(&context, "saxpy");
        let parameter = |index: usize| {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: places for the numbers.
            let code = unsafe { sys::cuFuncGetParamInfo(kernel.cu_function(), index, &raw mut offset, &raw mut size) };
            code.result().map(|()| (offset, size))
        };
        assert_eq!([0, 1, 2, 3].map(|index| parameter(index).unwrap()), [(0, 4), (4, 4), (8, 8), (16, 8)]);
        assert_eq!(code(parameter(4)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(kernel.max_threads_per_block().unwrap(), 1_024);
        assert_eq!(kernel.binary_version().unwrap(), 90);
    });
}

#[test]
fn a_shape_beyond_the_limits_is_refused() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let (stream, kernel) = (context.default_stream(), function(&context, "fault"));
        let shapes = [((1, 1, 1), (1_025, 1, 1)), ((1, 1, 1), (32, 32, 2)), ((0, 1, 1), (1, 1, 1)), ((1, 65_536, 1), (1, 1, 1))];
        for (grid_dim, block_dim) in shapes {
            let shape = LaunchConfig { grid_dim, block_dim, shared_mem_bytes: 0 };
            // SAFETY: the kernel has no arguments, and is not run.
            let refused = unsafe { stream.launch_builder(&kernel).launch(shape) };
            assert_eq!(code(refused), CUresult::CUDA_ERROR_INVALID_VALUE, "{shape:?}");
        }
        let shape = LaunchConfig { shared_mem_bytes: 50_000, ..LaunchConfig::for_num_elems(1) };
        // SAFETY: as before.
        assert_eq!(code(unsafe { stream.launch_builder(&kernel).launch(shape) }), CUresult::CUDA_ERROR_INVALID_VALUE);
        stream.synchronize().unwrap();
    });
}

#[test]
fn a_module_needs_an_image_for_this_gpu_and_driver() {
    on_a_machine(1, |machine| {
        let context = CudaContext::new(0).unwrap();
        let load = |text: &str| context.load_module(text.into()).map(drop);
        assert_eq!(code(load("not an image")), CUresult::CUDA_ERROR_INVALID_IMAGE);
        assert_eq!(code(load(".version 9.0\n.target sm_90\n")), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert_eq!(code(load(".version 8.0\n.target sm_100\n")), CUresult::CUDA_ERROR_INVALID_PTX);
        machine.change(|state| state.cuda_driver_version = 13_000);
        load(".version 9.0\n.target sm_90\n").unwrap();
        assert_eq!(code(module(&context).load_function("absent")), CUresult::CUDA_ERROR_NOT_FOUND);
    });
}
