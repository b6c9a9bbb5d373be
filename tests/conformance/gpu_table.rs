//! The conformance suite of the GPU table: every case is listed once and runs on both back ends. Time is moved, never slept.

mod choosing;
mod claims;
mod comparison;
mod cost;
mod here;
mod membership;
mod redis_only;
mod settings;
mod specific;
mod world;

/// Runs each case on each back end, as tests `gpu_table::on_memory::<case>` and `gpu_table::on_redis::<case>`.
macro_rules! cases {
    ($($module:ident: $($case:ident),+;)+) => {
        mod on_memory {
            $($(#[tokio::test] async fn $case() { super::$module::$case(super::world::World::memory()).await })+)+
        }
        mod on_redis {
            $($(#[tokio::test] async fn $case() { super::$module::$case(super::world::World::redis().await).await })+)+
        }
    };
}

cases! {
    claims:
        a_claim_for_the_asking_gpu_is_held_at_once,
        a_claim_for_another_gpu_is_offered_until_that_gpu_takes_it_up,
        an_offer_lapses_if_nobody_takes_it_up,
        asking_again_for_the_same_delivery_gives_the_same_answer,
        another_delivery_or_attempt_of_a_claimed_task_is_told_how_long_it_is_held,
        a_held_claim_lives_as_long_as_it_is_renewed,
        a_lapsed_claim_is_not_resurrected_by_a_renewal,
        renewing_never_shortens_a_lease_and_never_extends_an_offer,
        a_claim_is_released_once,
        a_late_holder_is_refused_by_its_token,
        handing_over_gives_the_slot_to_no_one_else,
        two_hundred_claims_at_once_never_exceed_the_slots,
        tokens_grow;
    choosing:
        round_robin_rotates_exactly_while_gpus_come_and_go,
        least_loaded_avoids_the_busy_one,
        least_loaded_prefers_the_asking_gpu_among_the_idlest,
        least_loaded_then_prefers_free_memory_then_the_longest_rest,
        load_is_the_share_of_slots_not_their_number,
        task_specific_prefers_the_loaded_model_then_the_tightest_fit,
        a_strategy_that_cannot_be_used_falls_back_and_says_so,
        waiting_tasks_take_the_asking_gpu_whatever_its_load,
        a_gpu_that_may_not_take_tasks_is_never_chosen,
        a_gpu_without_the_memory_now_is_passed_over,
        a_task_that_fits_here_waits_here,
        a_task_that_fits_only_elsewhere_is_sent_where_the_least_work_is,
        a_task_that_fits_nowhere_is_unplaceable;
    here:
        a_gpu_with_a_free_slot_takes_its_own_task,
        a_full_gpu_keeps_its_own_task_waiting,
        a_gpu_over_its_thresholds_keeps_its_own_task_waiting,
        a_gpu_that_cannot_run_a_task_says_not_here,
        an_offer_to_another_gpu_is_not_taken_up_here;
    specific:
        only_the_named_gpu_will_do,
        a_named_gpu_that_is_full_is_waited_for,
        a_named_gpu_that_does_not_fit_is_unplaceable,
        a_named_gpu_that_was_never_known_is_told_from_one_that_is_gone,
        a_named_gpu_that_takes_no_tasks_is_away;
    membership:
        a_row_lives_for_its_lease,
        a_dead_workers_claims_end_with_its_row,
        another_incarnation_inherits_no_claims,
        a_gpu_that_leaves_takes_its_claims_along,
        a_stale_incarnation_cannot_remove_its_successors_row,
        a_gpu_stays_known_for_a_week,
        the_table_is_steady_while_workers_are_heard_of_without_a_gap,
        rows_say_what_is_held_and_who_is_eligible,
        heartbeats_rebuild_a_lost_table,
        restored_claims_count_even_beyond_the_slots,
        a_lost_table_gives_no_token_twice,
        a_worker_learns_which_claims_it_lost,
        a_gpu_that_changes_its_models_and_kinds_is_found_by_the_new_ones,
        pools_are_apart;
    settings:
        the_first_settings_are_kept,
        a_change_needs_the_current_version,
        a_drained_gpu_gets_nothing_until_it_is_undrained,
        new_thresholds_count_at_once_for_every_row,
        a_heartbeat_restores_lost_settings_but_never_older_ones,
        a_new_default_strategy_counts_at_once;
}
