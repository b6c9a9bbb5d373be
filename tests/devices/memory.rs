//! The memory of GPUs for data that stays there between tasks: what every device promises of it.
//!
//! A process has one NVIDIA GPU, so what needs two GPUs of one process is promised, and tried, of simulated ones alone. How the memory of an NVIDIA GPU gets into another process is CUDA's own affair and has
//! tests of its own; a simulated GPU's memory never does.

mod cases;
mod pairs;
mod rig;

/// One test per case and device.
macro_rules! on_every_memory {
    ($($case:ident),* $(,)?) => {
        mod simulated {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                super::cases::$case(&super::rig::Simulated::new()).await;
            })*
        }
        mod nvidia {
            $(#[test]
            fn $case() {
                fake_nvidia::process::on_a_machine(1, |machine| {
                    crate::rig::block_on(async { super::cases::$case(&super::rig::Nvidia::open(machine).await).await });
                });
            })*
        }
    };
}

/// One test per case, on two simulated GPUs of one process.
macro_rules! on_pairs {
    ($($case:ident),* $(,)?) => {
        mod simulated_pairs {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                super::pairs::$case(super::pairs::Pair::new()).await;
            })*
        }
    };
}

on_every_memory!(
    bytes_come_back_as_they_were_written_in_any_parts,
    parts_are_written_in_any_order_and_at_the_same_time,
    nothing_is_copied_where_there_are_no_bytes,
    a_copy_within_the_gpu_takes_any_part_to_any_place,
    bytes_of_shared_memory_go_in_and_come_out,
    the_sum_of_the_gpu_is_that_of_the_bytes,
    memory_counts_until_its_last_clone_is_dropped,
    too_much_memory_is_refused_with_numbers,
    nothing_outside_of_a_buffer_is_reached,
    a_buffer_of_another_gpu_is_refused,
    a_dropped_future_leaves_the_memory_sound,
    copies_that_fail_say_so_and_the_next_ones_go_well,
    bytes_that_change_on_the_way_are_found_by_their_sum,
    a_copy_that_stalls_ends_when_it_goes_on,
);

on_pairs!(
    bytes_go_from_one_gpu_to_the_other_and_back,
    each_gpu_refuses_to_write_to_the_other,
    between_gpus_whose_link_is_down_there_is_the_way_through_the_host,
    what_changes_between_gpus_is_found_and_the_source_stays_right,
    the_memory_of_a_simulated_gpu_is_opened_by_no_other_process,
);
