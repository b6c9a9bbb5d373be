//! GPUs. What every device promises, on a simulated GPU and on an NVIDIA GPU whose libraries are fakes; then what only NVIDIA's have.
//!
//! The fakes stand in for the libraries, not for our code: NVML and CUDA are called as on hardware. They cannot show that a kernel is right, or fast.

#![expect(clippy::unwrap_used, reason = "a case is a function that several tests call; its unwraps are a test's")]

mod cases;
mod health;
mod host;
mod kinds;
mod memory;
mod resident;
mod rig;
mod shared_memory;
mod tensor_kinds;
mod work;

/// One test per case and device.
macro_rules! on_every_device {
    ($($case:ident),* $(,)?) => {
        mod simulated {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                crate::cases::$case(&crate::rig::Simulated::new()).await;
            })*
        }
        mod nvidia {
            $(#[test]
            fn $case() {
                fake_nvidia::process::on_a_machine(1, |machine| {
                    crate::rig::block_on(async { crate::cases::$case(&crate::rig::Nvidia::open(machine).await).await });
                });
            })*
        }
    };
}

on_every_device!(
    a_gpu_says_what_it_is,
    a_sample_shows_what_others_use,
    a_sample_that_hangs_is_served_with_its_age,
    memory_is_taken_until_the_work_ends,
    memory_that_others_use_is_not_given_out,
    a_probe_tells_a_gpu_that_works_from_one_that_does_not,
    trouble_is_told_once_and_in_order,
    a_lost_gpu_says_so,
);
