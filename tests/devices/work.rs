//! Work on an NVIDIA GPU: lanes, buffers, kernels, products, and errors that show late.

use devices::{
    Cuda, CudaError, Device,
    nvidia::cuda::{Argument, Grid, Scalar, Source},
};
use fake_nvidia::process;
use protocol::task::ComputeCapability;
use tests::until::until;

use crate::rig::{block_on, first_gpu};

const HOPPER: ComputeCapability = ComputeCapability { major: 9, minor: 0 };

fn module(cuda: &Cuda, body: &str) -> Result<devices::nvidia::cuda::Module, CudaError> {
    cuda.compile(&Source { name: "test.cu".to_owned(), text: body.to_owned() }, HOPPER)
}

const fn grid(threads: u32) -> Grid {
    Grid { blocks: (1, 1, 1), threads: (threads, 1, 1), shared_bytes: 0 }
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// Adds two vectors on the GPU.
pub async fn add(cuda: &Cuda) {
    let code =
        module(cuda, r#"extern "C" __global__ void vector_add(const float *a, const float *b, float *out, unsigned int n) {}"#).unwrap();
    let ran = cuda.run(move |lane| {
        let (a, b) = (lane.upload(&bytes(&[1.0, 2.0, 3.0]))?, lane.upload(&bytes(&[10.0, 20.0, 30.0]))?);
        let out = lane.zeros::<u8>(12)?;
        let arguments = [Argument::Buffer(&a), Argument::Buffer(&b), Argument::Buffer(&out), Argument::Scalar(Scalar::U32(3))];
        lane.timed(|| lane.launch(&code.function("vector_add")?, grid(32), &arguments))?;
        lane.download(&out)
    });
    let ran = ran.await.unwrap();
    assert_eq!(ran.value, bytes(&[11.0, 22.0, 33.0]));
    assert_eq!(ran.peak_bytes, 36);
}

/// A kernel that reads outside of its memory.
pub async fn fault(cuda: &Cuda) {
    let code = module(cuda, r#"extern "C" __global__ void fault() {}"#).unwrap();
    let ran = cuda.run(move |lane| lane.launch(&code.function("fault")?, grid(1), &[])).await;
    assert!(matches!(&ran, Err(error) if error.is_lost()), "the late error shows before the work counts as done: {ran:?}");
}

#[test]
fn a_kernel_is_compiled_launched_and_timed() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            add(cuda).await;
            assert_eq!(cuda.allocated(), 0, "buffers are given back");
        });
    });
}

#[test]
fn lanes_work_side_by_side_and_are_used_again() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            futures::future::join_all((0..8).map(|_| add(cuda))).await;
            let product = cuda.run(|lane| {
                let (a, b) = (lane.upload(&[1.0_f64, 2.0, 3.0, 4.0, 5.0, 6.0])?, lane.upload(&[1.0_f64, 0.0, 0.0, 1.0, 1.0, 1.0])?);
                lane.download(&lane.multiply(&a, &b, [2, 3, 2])?)
            });
            assert_eq!(product.await.unwrap().value, [4.0, 5.0, 10.0, 11.0]);
        });
    });
}

#[test]
fn what_the_compiler_says_is_in_the_error() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let error = module(gpu.cuda().unwrap(), "#error no such thing").unwrap_err().to_string();
            assert!(error.starts_with("compile test.cu: ") && error.contains("no such thing"), "{error}");
            let code = module(gpu.cuda().unwrap(), r#"extern "C" __global__ void one() {}"#).unwrap();
            let error = code.function("two").unwrap_err().to_string();
            assert!(error.contains("no kernel \"two\""), "{error}");
        });
    });
}

#[test]
fn a_gpu_that_the_compiler_does_not_know_is_named() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].compute_capability = (10, 0));
        block_on(async {
            let gpu = first_gpu().await;
            let error = gpu.cuda().unwrap().try_kernels(gpu.description().compute_capability).await.unwrap_err().to_string();
            assert!(error.contains("NVRTC 12.4 does not know this GPU's architecture (sm_100)"), "{error}");
            gpu.cuda().unwrap().try_products().await.unwrap();
        });
    });
}

#[test]
fn a_library_that_is_there_and_does_not_work_is_found_out_by_its_trial() {
    process::on_a_machine(1, |machine| {
        block_on(async {
            let gpu = first_gpu().await;
            gpu.cuda().unwrap().try_kernels(HOPPER).await.unwrap();
            machine.change(|state| state.gpus[0].cublas_init_error = Some(14));
            let error = gpu.cuda().unwrap().try_products().await.unwrap_err().to_string();
            assert!(error.contains("CUBLAS_STATUS_INTERNAL_ERROR"), "{error}");
            machine.change(|state| state.gpus[0].cublas_init_error = None);
            gpu.cuda().unwrap().try_products().await.unwrap();
        });
    });
}

#[test]
fn arguments_that_are_not_the_kernels_own_are_refused() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            let text = r#"extern "C" __global__ void fill_i32(int *out, int value, unsigned int n) {}"#;
            let launch = async |arguments: Vec<Scalar>| {
                let code = module(cuda, text).unwrap();
                let ran = cuda.run(move |lane| {
                    let arguments: Vec<Argument<'_, '_>> = arguments.into_iter().map(Argument::Scalar).collect();
                    lane.launch(&code.function("fill_i32")?, grid(1), &arguments)
                });
                ran.await.unwrap_err().to_string()
            };
            let few = launch(vec![Scalar::U64(0)]).await;
            assert!(few.contains("takes 3 arguments") && few.contains("1 were given"), "{few}");
            let wide = launch(vec![Scalar::U64(0), Scalar::F64(1.0), Scalar::U32(1)]).await;
            assert!(wide.contains("argument 1 has 8 bytes where the kernel takes 4"), "{wide}");
            assert!(cuda.is_lost().is_none());
        });
    });
}

#[test]
fn a_kernel_gets_the_shared_memory_that_the_gpu_has_and_no_more() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            let code = module(cuda, r#"extern "C" __global__ void one() {}"#).unwrap();
            let launch = async |shared_bytes| {
                let code = code.clone();
                cuda.run(move |lane| lane.launch(&code.function("one")?, Grid { shared_bytes, ..grid(1) }, &[])).await
            };
            launch(48 << 10).await.unwrap();
            launch(200 << 10).await.unwrap();
            let refused = launch(228 << 10).await.unwrap_err();
            assert!(matches!(&refused, CudaError::Refused(why) if why.contains("can have 232448 bytes")), "{refused}");
        });
    });
}

#[test]
fn a_poisoned_context_is_lost_for_every_lane() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            fault(cuda).await;
            let error = cuda.run(|lane| lane.upload(&[1.0_f32]).map(|_| ())).await.unwrap_err();
            assert!(error.is_lost() && error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{error}");
            assert!(cuda.lost().await.is_lost() && gpu.is_lost());
        });
    });
}

#[test]
fn too_little_memory_is_an_error_of_its_own_and_the_gpu_goes_on() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].memory_mib = 1_000);
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            let error = cuda.run(|lane| lane.zeros::<u8>(900 << 20).map(|_| ())).await.unwrap_err();
            assert!(error.is_out_of_memory(), "{error}");
            add(cuda).await;
        });
    });
}

#[test]
fn memory_that_work_held_is_the_gpus_again_but_for_a_little_that_the_next_work_takes() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            let free = async || cuda.memory().await.unwrap().free;
            let before = free().await;
            for _ in 0..2 {
                cuda.run(|lane| lane.zeros::<u8>(900 << 20).map(|_| ())).await.unwrap();
                let kept = before - free().await;
                assert!((1..=32 << 20).contains(&kept), "{kept}");
            }
        });
    });
}

#[test]
fn a_product_for_which_the_gpu_is_too_full_is_out_of_memory_whatever_cublas_calls_it() {
    process::on_a_machine(1, |machine| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            machine.change(|state| state.gpus[0].cublas_init_error = Some(1));
            let error = cuda.try_products().await.unwrap_err();
            assert!(!error.is_out_of_memory() && error.to_string().contains("NOT_INITIALIZED"), "there is memory enough: {error}");
            machine.change(|state| state.gpus[0].free_memory_cap_mib = Some(100));
            let error = cuda.try_products().await.unwrap_err();
            assert!(error.is_out_of_memory() && cuda.is_lost().is_none(), "{error}");
        });
    });
}

#[test]
fn work_that_nobody_waits_for_any_more_gives_its_lane_back() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            let (begun, has_begun) = std::sync::mpsc::channel();
            let (release, released) = std::sync::mpsc::channel::<()>();
            let waits = cuda.run(move |_| {
                begun.send(()).unwrap();
                Ok(released.recv().is_ok())
            });
            tokio::select! {
                biased;
                _ = waits => panic!("it waits for us"),
                () = until("it has begun", async || has_begun.try_recv().is_ok()) => {}
            }
            add(cuda).await;
            release.send(()).unwrap();
            add(cuda).await;
            assert!(cuda.is_lost().is_none());
        });
    });
}

#[test]
fn a_kernel_that_never_ends_loses_the_gpu_without_blame() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            let code = module(cuda, r#"extern "C" __global__ void spin() {}"#).unwrap();
            let spins = cuda.run(move |lane| lane.launch(&code.function("spin")?, grid(1), &[]));
            assert!(tokio::time::timeout(std::time::Duration::from_millis(300), spins).await.is_err());
            let lost = cuda.lost().await;
            assert!(matches!(&lost, CudaError::Lost { by_a_task: false, .. }), "{lost}");
            // To give it back would wait for the kernel.
            std::mem::forget(gpu);
        });
    });
}

#[test]
fn work_that_was_abandoned_behind_a_longer_task_costs_the_gpu_nothing() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            let (begun, has_begun) = std::sync::mpsc::channel();
            let (release, released) = std::sync::mpsc::channel::<()>();
            let released = std::sync::Arc::new(std::sync::Mutex::new(released));
            let works = || {
                let (begun, released) = (begun.clone(), std::sync::Arc::clone(&released));
                cuda.run(move |_| {
                    begun.send(()).unwrap();
                    // Both wait here, the second one for the first.
                    Ok(released.lock().unwrap().recv().is_ok())
                })
            };
            let (longer, abandoned) = (works(), works());
            let mut longer = std::pin::pin!(longer);
            let both = async {
                tokio::select! {
                    biased;
                    _ = longer.as_mut() => panic!("it waits for us"),
                    _ = abandoned => panic!("it waits for us"),
                    () = until("both have begun", async || has_begun.try_recv().is_ok() && has_begun.recv().is_ok()) => {}
                }
            };
            both.await;
            let beyond_its_overtime = std::time::Duration::from_secs(22);
            tokio::select! {
                biased;
                _ = longer.as_mut() => panic!("it waits for us"),
                lost = tokio::time::timeout(beyond_its_overtime, cuda.lost()) => assert!(lost.is_err(), "{lost:?}"),
            }
            release.send(()).unwrap();
            release.send(()).unwrap();
            longer.await.unwrap();
        });
    });
}
