//! What goes wrong with an NVIDIA GPU, and what its device says of it.

use std::{sync::Arc, time::Duration};

use devices::{Consequence, Device, Use, nvidia::cuda::kernels_here};
use fake_nvidia::{NvmlFault, process};
use protocol::{Health, gpu::Throttle};
use tests::until::until;

use crate::{
    rig::{block_on, first_gpu},
    work,
};

#[test]
fn a_driver_that_hangs_makes_the_gpu_suspect_and_work_goes_on() {
    process::on_a_machine(1, |machine| {
        block_on(async {
            let gpu = first_gpu().await;
            machine.change(|state| state.gpus[0].nvml_hangs = true);
            until("the GPU is suspect", async || gpu.health().0 == Health::Suspect).await;
            assert!(gpu.health().1.contains("no sample for"), "{}", gpu.health().1);
            work::add(gpu.cuda().unwrap()).await;
            machine.change(|state| state.gpus[0].nvml_hangs = false);
            until("the GPU is healthy", async || gpu.health().0 == Health::Healthy).await;
        });
    });
}

#[test]
fn a_gpu_that_fell_off_the_bus_is_lost_without_blame() {
    process::on_a_machine(1, |machine| {
        block_on(async {
            let gpu = first_gpu().await;
            machine.change(|state| state.gpus[0].nvml_error = Some(NvmlFault::GpuLost));
            let trouble = gpu.trouble().await;
            assert_eq!(trouble.what, Consequence::Lost { by_a_task: false }, "{trouble:?}");
        });
    });
}

#[test]
fn a_xid_that_asks_for_a_reset_loses_the_gpu_and_one_of_a_stranger_does_not() {
    process::on_a_machine(1, |machine| {
        block_on(async {
            let gpu = first_gpu().await;
            machine.change(|state| state.gpus[0].xids.push(31));
            let stranger = gpu.trouble().await;
            assert_eq!((stranger.what, stranger.xid), (Consequence::Suspected, Some(31)), "our own context is well");
            machine.change(|state| state.gpus[0].xids.push(79));
            let reset = gpu.trouble().await;
            assert_eq!((reset.what, reset.xid), (Consequence::Lost { by_a_task: false }, Some(79)));
            assert!(reset.reason.contains("fallen off the bus"), "{}", reset.reason);
        });
    });
}

#[test]
fn a_xid_for_our_own_fault_loses_the_gpu_by_a_task() {
    process::on_a_machine(1, |machine| {
        block_on(async {
            let gpu = first_gpu().await;
            work::fault(gpu.cuda().unwrap()).await;
            machine.change(|state| state.gpus[0].xids.push(31));
            let trouble = gpu.trouble().await;
            assert_eq!((trouble.what, trouble.xid), (Consequence::Lost { by_a_task: true }, Some(31)), "{trouble:?}");
            assert!(
                trouble.reason.contains("ILLEGAL_ADDRESS (700)") && trouble.reason.contains("Xid 31: memory page fault"),
                "{trouble:?}"
            );
        });
    });
}

#[test]
fn memory_errors_that_ecc_cannot_correct_quarantine_the_gpu() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].ecc_uncorrected = 3);
        block_on(async {
            let gpu = first_gpu().await;
            assert_eq!(gpu.sample().ecc_errors, Some(3), "old ones are no news");
            machine.change(|state| state.gpus[0].ecc_uncorrected = 5);
            let trouble = gpu.trouble().await;
            assert_eq!(
                (trouble.what, trouble.reason.as_str()),
                (Consequence::Quarantined, "2 more memory errors that ECC could not correct")
            );
        });
    });
}

#[test]
fn what_throttles_the_gpu_is_named() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].throttle_reasons = 0x4 | 0x40 | 0x1);
        block_on(async {
            let gpu = first_gpu().await;
            assert_eq!(gpu.sample().throttled_by, [Throttle::PowerCap, Throttle::ThermalHardware], "an idle clock is no throttling");
        });
    });
}

#[test]
fn a_gpu_that_tells_little_still_has_samples() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| {
            let silent = ["nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetUtilizationRates"];
            state.gpus[0].unsupported = silent.map(str::to_owned).to_vec();
        });
        block_on(async {
            let sample = first_gpu().await.sample();
            assert_eq!((sample.power_watts, sample.ecc_errors, sample.utilization_percent), (0.0, None, 0.0));
            assert!(sample.temperature_celsius > 0.0);
        });
    });
}

#[test]
fn a_gpu_that_cuda_cannot_open_is_quarantined_with_the_reason() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].cuda_init_error = Some(101));
        block_on(async {
            let gpu = first_gpu().await;
            let (health, reason) = gpu.health();
            assert_eq!(health, Health::Quarantined);
            assert!(reason.contains("CUDA_ERROR_INVALID_DEVICE (101)"), "{reason}");
            assert!(gpu.cuda().is_none() && gpu.probe().await.is_err());
            assert!(gpu.sample().power_watts > 0.0, "NVML still answers");
        });
    });
}

#[test]
fn a_gpu_that_computes_wrongly_at_the_start_is_quarantined_with_the_reason() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].wrong_results = true);
        block_on(async {
            let (health, reason) = first_gpu().await.health();
            assert_eq!(health, Health::Quarantined);
            assert!(reason.contains("canary") && reason.contains("computes wrongly"), "{reason}");
        });
    });
}

#[test]
fn a_driver_that_tells_no_parameters_costs_the_kernels_and_not_the_gpu() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.cuda_driver_version = 12_020);
        block_on(async {
            let gpu = first_gpu().await;
            assert_eq!(gpu.health(), (Health::Healthy, String::new()));
            gpu.probe().await.unwrap();
            let refused = kernels_here().unwrap_err().to_string();
            assert!(refused.contains("serves CUDA 12.2") && refused.contains("CUDA 12.4 or newer"), "{refused}");
        });
    });
}

#[test]
fn a_probe_wants_the_memory_of_ended_processes_back() {
    process::on_a_machine(1, |machine| {
        block_on(async {
            let gpu = first_gpu().await;
            machine.change(|state| state.gpus[0].memory_used_mib = state.gpus[0].memory_mib - 2_000);
            let problem = gpu.probe().await.unwrap_err();
            assert!(problem.contains("MB are free"), "{problem}");
            machine.change(|state| state.gpus[0].memory_used_mib = 0);
            gpu.probe().await.unwrap();
        });
    });
}

#[test]
fn the_memory_threshold_bounds_what_tasks_reserve() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu: Arc<dyn Device> = Arc::new(first_gpu().await);
            let total_mb = gpu.description().memory_total_mb;
            let refused = gpu.begin(Use { memory_mb: total_mb * 95 / 100, compute_share: 1.0 }).unwrap_err();
            assert!(refused.free_mb <= total_mb * 9 / 10, "{refused}");
            assert!(tokio::time::timeout(Duration::from_millis(50), gpu.trouble()).await.is_err());
        });
    });
}

#[test]
fn memory_that_abandoned_work_still_holds_is_not_given_out() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let (holds, has) = std::sync::mpsc::channel();
            let (release, released) = std::sync::mpsc::channel::<()>();
            let half = Use { memory_mb: gpu.description().memory_total_mb / 2, compute_share: 1.0 };
            let attempt = async {
                let _reserved = gpu.begin(half).unwrap();
                let works = gpu.cuda().unwrap().run(move |lane| {
                    let _buffer = lane.zeros::<u8>(half.memory_mb as usize * 1_000_000)?;
                    holds.send(()).unwrap();
                    Ok(released.recv().is_ok())
                });
                works.await
            };
            tokio::select! {
                biased;
                _ = attempt => panic!("it waits for us"),
                () = until("it holds its memory", async || has.try_recv().is_ok()) => {}
            }
            gpu.begin(half).expect_err("its task has ended, and it still holds half of the memory");
            release.send(()).unwrap();
            until("its memory is free", async || gpu.begin(half).is_ok()).await;
        });
    });
}
