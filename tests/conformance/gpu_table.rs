//! The conformance suite of the GPU table: every case is listed once and runs on both back ends. Time is moved, never slept.

mod choosing;
mod claims;
mod comparison;
mod cost;
mod data;
mod kinds;
mod membership;
mod one_trip;
mod redis_only;
mod settings;
mod specific;
mod tensors;
mod unserved;
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
        a_claim_for_the_asking_gpu_is_counted_at_once,
        a_claim_for_another_gpu_is_offered_until_it_is_taken,
        an_offer_ends_with_a_heartbeat_that_says_it_is_taken,
        an_offer_is_ended_by_its_own_gpu_only,
        an_offer_lapses_if_nobody_takes_it,
        a_withdrawn_offer_frees_its_slot_at_once,
        a_taken_offer_cannot_be_withdrawn,
        an_offered_task_gets_the_same_offer_whoever_asks,
        the_gpu_that_a_slot_is_offered_to_takes_it_by_asking,
        an_offer_whose_delivery_waits_for_a_slot_is_over,
        telling_again_changes_nothing,
        what_arrives_late_changes_nothing,
        an_offer_that_was_taken_is_over_even_if_that_is_heard_late,
        a_stale_incarnation_changes_nothing,
        a_worker_without_a_row_is_not_heard,
        a_claim_that_gives_no_own_slot_counts_the_askers_as_free,
        a_repeated_claim_is_counted_once,
        two_hundred_claims_at_once_never_exceed_the_slots,
        workers_that_claim_side_by_side_use_every_slot_once;
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
        a_worker_without_a_slot_of_its_own_is_never_chosen_itself,
        a_task_that_fits_here_waits_here,
        a_task_that_fits_only_elsewhere_is_sent_where_the_least_work_is,
        a_task_that_fits_nowhere_is_unplaceable,
        a_task_waits_for_its_model_where_a_cold_load_elsewhere_would_take_more_than_twice_as_long,
        a_task_does_not_wait_for_its_model_for_long_or_where_nothing_is_known,
        a_task_waits_here_where_the_asking_gpu_has_its_model;
    data:
        task_specific_goes_where_the_data_are_soonest_whatever_the_load,
        data_on_a_gpu_that_cannot_run_the_task_now_count_for_nothing,
        a_model_and_data_are_weighed_together,
        other_strategies_ask_for_the_data_only_among_equals,
        a_task_waits_for_its_data_where_bringing_them_would_take_more_than_twice_as_long,
        a_task_does_not_wait_for_its_data_for_long_or_where_nothing_is_known,
        a_task_waits_here_where_the_asking_gpu_has_its_data,
        of_several_busy_gpus_with_data_it_waits_where_it_runs_first,
        waiting_tasks_leave_the_asking_gpu_only_where_their_data_are_clearly_nearer,
        a_named_gpu_gets_the_task_wherever_its_data_are;
    specific:
        only_the_named_gpu_will_do,
        a_named_gpu_that_is_full_is_waited_for,
        a_named_gpu_that_does_not_fit_is_unplaceable,
        a_named_gpu_that_was_never_known_is_told_from_one_that_is_gone,
        a_named_gpu_that_takes_no_tasks_is_away;
    membership:
        a_row_lives_for_its_lease,
        slots_and_offers_end_with_a_dead_workers_row,
        another_incarnation_inherits_nothing,
        a_gpu_that_leaves_takes_its_slots_and_offers_along,
        a_stale_incarnation_cannot_remove_its_successors_row,
        a_gpu_stays_known_for_a_week,
        the_table_is_steady_while_workers_are_heard_of_without_a_gap,
        rows_say_how_long_an_item_of_a_batch_takes,
        rows_say_how_long_runs_take_and_which_kinds_are_down,
        rows_say_what_is_held_and_who_is_eligible,
        seen_says_what_is_known_of_one_worker,
        a_probe_changes_nothing,
        heartbeats_rebuild_a_lost_table,
        numbers_count_even_beyond_the_slots,
        an_offer_that_a_lost_table_forgot_is_made_anew,
        a_gpu_that_changes_its_models_and_kinds_is_found_by_the_new_ones,
        pools_are_apart;
    settings:
        the_first_settings_are_kept,
        reading_the_settings_writes_none,
        changes_at_the_same_time_are_all_applied,
        a_change_needs_the_current_version,
        a_drained_gpu_gets_nothing_until_it_is_undrained,
        new_thresholds_count_at_once_for_every_row,
        a_heartbeat_restores_lost_settings_but_never_older_ones,
        a_new_default_strategy_counts_at_once,
        a_wish_for_a_model_gets_a_number_once_and_outlives_the_table,
        wishes_at_the_same_time_all_get_numbers_of_their_own,
        a_wish_that_cannot_be_kept_changes_nothing;
    unserved:
        what_is_unserved_is_kept_as_it_was_told_and_counted,
        what_nobody_tells_of_any_more_lapses,
        what_is_served_again_is_forgotten_at_once,
        what_is_unserved_is_bounded_and_the_oldest_goes,
        what_is_unserved_in_one_pool_is_of_no_concern_to_another,
        who_lives_and_what_is_served_is_seen_with_how_steady_the_table_is;
    kinds:
        what_kinds_do_is_kept_as_it_was_told,
        a_description_lives_for_ten_leases_after_it_was_last_told,
        of_several_versions_the_newest_is_shown_and_that_they_differ,
        descriptions_are_bounded_and_the_one_told_longest_ago_goes,
        what_kinds_do_in_one_pool_is_of_no_concern_to_another,
        descriptions_come_back_to_a_table_that_was_emptied;
    tensors:
        an_announced_tensor_is_found_as_it_was_told,
        a_tensor_is_found_as_long_as_its_gpu_lives_under_the_same_incarnation,
        the_tensors_of_a_row_that_lapsed_count_again_with_its_next_heartbeat,
        a_tensor_that_nobody_tells_again_for_a_day_is_forgotten,
        a_newer_version_replaces_an_older_one_and_no_late_one_replaces_it,
        a_withdrawn_tensor_is_gone_and_a_newer_version_stays,
        tensors_are_listed_by_name_in_pages,
        a_list_passes_over_many_names_whose_gpus_are_gone,
        tensors_of_one_pool_are_of_no_concern_to_another,
        tensors_come_back_to_a_table_that_was_emptied,
        names_of_tensors_are_bounded_and_only_those_that_are_gone_make_room,
        a_version_is_drawn_above_the_latest_of_its_name_whatever_the_clocks_say,
        a_draw_is_remembered_for_ten_leases_and_then_the_copies_stand_for_it;
}
